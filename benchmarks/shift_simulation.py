"""How often a calibration study is wrong: exchangeable sets, noisy draws, and planted effects, by simulation.

    python benchmarks/shift_simulation.py [--studies 400]

A simulated study has two families (four and three sets), two methods that saw the same texts, three draws a set, and a
test in the own distribution of every set. Of each kind the table gives the share of studies in which paper B's count,
the test of set against draw, and any contrast of the own set (Holm) reject at 5%, and how often the 95% intervals of
contrasts hold the truth.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from quantgate.studies.shift import Block, contrasts, shares, wins

ITEMS, DRAWS, PERMUTATIONS = 100, 3, 199


@dataclass(frozen=True)
class Kind:
    """``draw``: standard deviation of a draw's effect; ``own``: gain of the own set; ``first``: of the first one."""

    name: str
    draw: float = 0.0
    own: float = 0.0
    first: float = 0.0


KINDS = (
    Kind("exchangeable sets, items only"),
    Kind("exchangeable sets, draws differ", draw=0.05),
    Kind("own distribution better by 0.1", draw=0.02, own=0.1),
    Kind("one set better by 0.1 everywhere", draw=0.02, first=0.1),
)


def study(kind: Kind, generator: np.random.Generator) -> list[Block]:
    """Blocks of one study; a draw's effect is common to all tests of its family, and part of it to both methods."""
    blocks = []
    for family, sets in enumerate((4, 3)):
        names = tuple(f"{family}{number}" for number in range(sets))
        common = generator.normal(scale=kind.draw, size=(sets, DRAWS))
        for method in ("one", "two"):
            draws = (common + generator.normal(scale=kind.draw, size=(sets, DRAWS))) / np.sqrt(2)
            for own in range(sets):
                gains = generator.normal(size=ITEMS) + generator.normal(scale=0.3, size=(sets, DRAWS, ITEMS))
                gains += draws[:, :, None]
                gains[own] += kind.own
                gains[0] += kind.first
                blocks.append(Block(method, names[own], names, gains, np.arange(ITEMS), own, 0.1))
    return blocks


def rates(kind: Kind, studies: int, seed: int) -> tuple[float, float, float, float]:
    """Rejections of count, set test and any contrast; coverage of the contrasts' intervals."""
    generator = np.random.default_rng(seed)
    count = test = some = held = pairs = 0
    for number in range(studies):
        blocks = study(kind, generator)
        count += wins(blocks, seed=number).p <= 0.05
        test += shares([block for block in blocks if block.method == "one"], number, PERMUTATIONS).p <= 0.05
        found = contrasts(blocks)
        some += any(each.adjusted <= 0.05 for each in found)
        for each in found:
            first = kind.first * ((each.first[1] == "0") - float(each.second[1] == "0"))
            held += each.low <= kind.own + first <= each.high
            pairs += 1
    return count / studies, test / studies, some / studies, held / pairs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    studies = parser.parse_args().studies
    print(f"{studies} studies a kind; standard error of 5%: {np.sqrt(0.05 * 0.95 / studies):.1%}")
    print("| kind | count | set beyond draw | any contrast | coverage |\n|---|---|---|---|---|")
    for seed, kind in enumerate(KINDS):
        shown = " | ".join(f"{rate:.1%}" for rate in rates(kind, studies, seed))
        print(f"| {kind.name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
