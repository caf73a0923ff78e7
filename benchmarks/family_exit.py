"""How often the exit code is red though no model changed, and green though one case is broken, by number of cases.

``PYTHONPATH=. python benchmarks/family_exit.py`` (about two minutes on one core) prints the figures of
docs/policy.md. Independent 0/1 cases are judged as by the suite; a case that is broken loses a share of its items
beside the usual turns.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace

import numpy as np

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY
from quantgate.core.records import Result
from quantgate.verdict.evidence import Conclusion
from quantgate.verdict.family import green
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from quantgate.verdict.policy import FamilyExit, Margin, Rule
from quantgate.verdict.recording import Told, build_result


@dataclass
class Judge:
    """Cases of ``size`` items, judged once for every pair of counts."""

    size: int
    margin: float
    known: dict[tuple[int, int], Result] = field(default_factory=dict)

    def result(self, worse: int, better: int) -> Result:
        """The record of a case of which so many answers turned."""
        if (worse, better) not in self.known:
            kept = round(0.6 * (self.size - worse - better))
            before = [1.0] * (worse + kept) + [0.0] * (self.size - worse - kept)
            after = [0.0] * worse + [1.0] * kept + [0.0] * (self.size - worse - kept - better) + [1.0] * better
            rule = Rule("task", "method", ACCURACY, Margin("absolute", self.margin), 0.95, 30, 0.01)
            sides = [[ItemOutcome(str(i), str(i), score) for i, score in enumerate(each)] for each in (before, after)]
            comparison = compare(sides[0], sides[1], ACCURACY, rule.confidence)
            found = Conclusion(comparison, judge(comparison, rule), {})
            told = Told(task="task", dimension="knowledge", protocol="", method="method")
            self.known[worse, better] = build_result(found, rule, told)
        return self.known[worse, better]


def red(judge_: Judge, cases: int, turned: float, lost: float, runs: int, exit_by: FamilyExit) -> float:
    """Share of runs that end red; one case of each loses ``lost`` of its items besides."""
    generator = np.random.default_rng(cases)
    found = 0
    for _ in range(runs):
        shares = [turned / 2, turned / 2, 1 - turned]
        counts = generator.multinomial(judge_.size, shares, size=cases)
        broken = [min(1.0, turned / 2 + lost), turned / 2]
        counts[0] = generator.multinomial(judge_.size, [*broken, 1 - sum(broken)])
        results = [replace(judge_.result(int(worse), int(better))) for worse, better, _ in counts]
        found += not all(green(results, "holm", exit_by, strict=False))
    return found / runs


def main() -> None:
    """Print one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    runs = parser.parse_args().runs
    for size, margin, turned, losses in ((150, 0.03, 0.08, (0.15, 0.2, 0.3)), (40, 0.01, 0.10, (0.3, 0.4, 0.5))):
        judge_ = Judge(size, margin)
        for cases in (8, 30, 200):
            words = [
                f"{exit_by} {100 * red(judge_, cases, turned, 0, runs, exit_by):.1f}%"
                for exit_by in ("case", "confirmed")
            ]
            print(
                f"{cases} cases of {size} items, margin {margin}, {turned:.0%} turn, "
                f"unchanged: red by {', '.join(words)}"
            )
            for lost in losses:
                missed = 1 - red(judge_, cases, turned, lost, runs, "confirmed")
                print(f"  one case loses {lost:.0%} of its items: green {100 * missed:.1f}%", flush=True)


if __name__ == "__main__":
    main()
