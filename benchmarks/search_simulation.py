"""How often a search calls a recipe good that is not: on the items it was chosen on, and on items held apart.

Every candidate truly loses exactly the margin (the hardest case that should not pass), so whatever passes is a mistake.
Accuracies of candidates of one model hang together: an item that one of them loses, the others lose more often. A pass
is the suite's own: Tango's interval for paired 0/1 outcomes lies above minus the margin.

    python benchmarks/search_simulation.py            # a minute on one core
"""

from __future__ import annotations

import argparse

import numpy as np

from quantgate.verdict.intervals import normal_quantile, tango_interval


def outcomes(
    generator: np.random.Generator, candidates: int, items: int, margin: float, discordant: float, shared: float
) -> np.ndarray:
    """Differences -1, 0, 1 of every candidate and item, mean ``-margin``. ``shared``: part of the draw in common."""
    worse, better = (discordant + margin) / 2, (discordant - margin) / 2
    common = generator.random(items)
    own = generator.random((candidates, items))
    draw = np.where(generator.random((candidates, items)) < shared, common[None, :], own)
    return np.where(draw < worse, -1, np.where(draw > 1 - better, 1, 0))


def passes(differences: np.ndarray, margin: float, confidence: float) -> np.ndarray:
    """Whether each row's interval lies above minus the margin."""
    n = np.full(len(differences), differences.shape[1], dtype=np.float64)
    worse, better = (differences < 0).sum(1).astype(np.float64), (differences > 0).sum(1).astype(np.float64)
    low, _ = tango_interval(worse, better, n, normal_quantile(confidence))
    return low > -margin


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--margin", type=float, default=0.03)
    parser.add_argument("--confidence", type=float, default=0.95)
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    print("candidates  items  shared   a pass on the search's items   confirmed on as many others")
    for candidates, items, shared in ((4, 500, 0.0), (12, 500, 0.0), (12, 500, 0.7), (12, 2000, 0.7), (40, 2000, 0.0)):
        chosen = confirmed = 0
        for _ in range(args.runs):
            found = outcomes(generator, candidates, 2 * items, args.margin, 0.12, shared)
            good = passes(found[:, :items], args.margin, args.confidence)
            if good.any():
                chosen += 1
                first = int(np.argmax(good))  # the cheapest
                confirmed += bool(passes(found[first : first + 1, items:], args.margin, args.confidence)[0])
        print(f"{candidates:10}  {items:5}  {shared:6.1f}   {chosen / args.runs:28.2%}   {confirmed / args.runs:27.2%}")


if __name__ == "__main__":
    main()
