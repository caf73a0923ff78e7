"""How many items a guided draw asks, beside bets on items in random order, and how often it passes harm at the margin.

``python benchmarks/guided_sampling.py`` prints the table of docs/verdicts.md (of ``--runs 1000``).
A synthetic benchmark: the log odds of the right option are a mixture of two normals, a subject's are those plus noise.
Harm is put on it as a shift of all odds, or as answers lost where the reference is sure (``sure``), undecided
(``boundary``), or anywhere (``any``).
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import special

from quantgate.core.items import ItemOutcome
from quantgate.verdict import guided
from quantgate.verdict.intervals import Floats
from quantgate.verdict.sequential import SequentialTest, looks

EDGE = -0.5  # log odds of the right option at which it is as likely as the best wrong one
ALPHA = 0.025


def pair(size: int, kind: str, harm: float, seed: int = 1) -> tuple[Floats, Floats, Floats]:
    """Log odds and scores of the reference, and scores of a subject that is ``harm`` worse."""
    generator = np.random.default_rng(seed)
    odds = np.where(generator.random(size) < 0.6, generator.normal(1.8, 1.6, size), generator.normal(-1.8, 1.2, size))
    right = (odds > EDGE).astype(np.float64)
    after = odds + generator.normal(0, 0.41, size)
    if kind == "shift":
        low, high = -1.0, 3.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if (right - (after - middle > EDGE)).mean() < harm else (low, middle)
        return odds, right, (after - high > EDGE).astype(np.float64)
    scores = (after > EDGE).astype(np.float64)
    place = {"sure": odds > 2.5, "boundary": np.abs(odds - EDGE) < 1, "any": np.ones(size, dtype=bool)}[kind]
    candidates = np.flatnonzero((right == 1) & (scores == 1) & place)
    lost = round((harm - (right - scores).mean()) * size)
    scores[generator.choice(candidates, max(0, min(lost, candidates.size)), replace=False)] = 0
    return odds, right, scores


def outcomes_of(odds: Floats, right: Floats) -> list[ItemOutcome]:
    """What the reference's store holds of the items."""
    return [
        ItemOutcome(str(index), "", float(score), companions={"prob_right": float(mass)})
        for index, (score, mass) in enumerate(zip(right, special.expit(odds), strict=True))
    ]


def by_guide(cell: guided.Codes, right: Floats, scores: Floats, margin: float, seed: int) -> tuple[str, int]:
    """Verdict and items asked of a guided draw; ``cell``: where the reference stands with every item."""
    draw = guided.Draw.of(cell, guided.default_curve(), seed)
    limits = guided.Boundaries()
    for threshold in draw.thresholds(guided.FIRST)[:-1]:
        seen = guided.look(draw, right - scores, threshold, margin)
        limit = limits.next(seen.information, guided.spent([seen.information], margin, ALPHA)[0])
        asked = int((draw.enters <= threshold).sum())
        if (margin - seen.value) / seen.se_pass >= limit:
            return "pass", asked
        if (seen.value - margin) / seen.se_regressed >= limit:
            return "regressed", asked
    return "open", right.size


def by_bets(right: Floats, scores: Floats, margin: float, seed: int) -> tuple[str, int]:
    """Verdict and items asked of ``--sequential``."""
    differences = (scores - right)[np.random.default_rng(seed).permutation(right.size)]
    test = SequentialTest(margin, 1 - 2 * ALPHA, right.size)
    for count in looks(right.size, first=64, growth=1.5):
        verdict = test.look(differences[:count])
        if verdict != "inconclusive":
            return verdict, count
    return "open", right.size


def main() -> None:
    """Print one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=250)
    runs = parser.parse_args().runs
    for size, margin in ((14_042, 0.01), (2_000, 0.025)):
        for kind, times in (("shift", 0), ("shift", 1), ("sure", 1), ("boundary", 1), ("any", 1), ("shift", 2)):
            odds, right, scores = pair(size, kind, times * margin)
            cell = guided.cells(outcomes_of(odds, right))
            found = [by_guide(cell, right, scores, margin, seed) for seed in range(runs)]
            bets = [by_bets(right, scores, margin, seed) for seed in range(40)]
            share = {name: 100 * np.mean([each[0] == name for each in found]) for name in ("pass", "regressed")}
            print(
                f"{size} items, margin {margin}, {kind}, harm {(right - scores).mean():.4f}, "
                f"{100 * (right != scores).mean():.1f}% turn: pass {share['pass']:.1f}%, regressed "
                f"{share['regressed']:.1f}%, {np.mean([each[1] for each in found]):.0f} items; --sequential "
                f"{np.mean([each[1] for each in bets]):.0f} items",
                flush=True,
            )


if __name__ == "__main__":
    main()
