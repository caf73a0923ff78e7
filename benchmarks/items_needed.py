"""How many items would have decided? Accuracy, its probability mass and the early stop, from finished reports.

    pytest evals --data DIR --tasks mmlu --methods int8,gptq4,rtn3 --report-dir OUT
    python benchmarks/items_needed.py OUT [OUT ...] [--orders 200]

For every 0/1 case in OUT/evidence.jsonl, without a model:

- items with which accuracy would be decided at the policy's margin (power 80%), and with which `prob_right` would be
  at the same margin, a point of probability for a point of accuracy;
- the same for "is there a difference at all", where the margin is 0: what the two numbers are worth as instruments;
- the verdict that `--sequential` gives and the items it uses: for the run's own order, and over many seeded orders.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from quantgate.runs.evaluation import FIRST_LOOK, LOOK_GROWTH
from quantgate.verdict.companions import compare_companion
from quantgate.verdict.comparison import Comparison
from quantgate.verdict.evidence import Evidence, conclude, evidence_from_json
from quantgate.verdict.power import items_to_decide
from quantgate.verdict.sequential import can_stop_early, looks, visiting_order
from quantgate.verify import EVIDENCE, Findings, read_cases

COMPANION = "prob_right"
NEEDED = ("case", "items", "margin", "accuracy", "turned", "prob. mass", "verdict", "of accuracy", "of prob. mass")
AT_ALL = ("of accuracy", "of prob. mass")
STOPPED = ("case", "items", "full run", "early stop", "items used", "median of orders", "same verdict", "other side")


@dataclass(frozen=True)
class Case:
    """One 0/1 case: its evidence and what the full run concluded."""

    name: str
    evidence: Evidence
    verdict: str
    comparison: Comparison
    margin: float


def cases(folder: Path) -> Iterator[Case]:
    findings = Findings()
    text = (folder / EVIDENCE).read_text(encoding="utf-8")
    for (method, task), content in read_cases(text, findings):
        evidence = replace(evidence_from_json(content), sequential=False)
        if evidence.rule.metric.kind != "binary" or len(evidence.subject) < len(evidence.reference):
            continue
        found = conclude(evidence)
        margin = evidence.rule.margin.in_units(found.comparison.reference)
        yield Case(f"{method} on {task}", evidence, found.judgement.verdict, found.comparison, margin)
    for difference in findings.differences:
        print(difference, file=sys.stderr)


def needed(case: Case) -> list[str]:
    """A row of the table of items: differences in points, items for the margin, items for a difference at all."""
    found = case.comparison
    confidence = case.evidence.rule.confidence
    mass = compare_companion(case.evidence.reference, case.evidence.subject, COMPANION, confidence)
    turned = (found.items_worse + found.items_better) / max(found.n_items, 1)
    return [
        case.name,
        str(found.n_items),
        points(case.margin),
        points(found.delta),
        f"{100 * turned:.1f}%",
        points(mass.delta),
        case.verdict,
        *(count(items_to_decide(each, case.margin)) for each in (found, mass)),
        *(count(items_to_decide(each, 0.0)) for each in (found, mass)),
    ]


def visit(evidence: Evidence, seed: int) -> tuple[str, int]:
    """Verdict and items used when the subject is asked in the order of ``seed``; as ``--sequential`` goes about it."""
    order = visiting_order(len(evidence.reference), seed)
    verdict = "inconclusive"
    for used in looks(len(order), first=max(FIRST_LOOK, evidence.rule.min_items), growth=LOOK_GROWTH):
        asked = tuple(evidence.subject[index] for index in order[:used])
        found = conclude(replace(evidence, subject=asked, sequential=True))
        verdict = found.judgement.verdict
        if verdict != "inconclusive" and not (verdict == "invalid" and found.comparison.n_unscored):
            return verdict, used
    return verdict, len(order)


def stopped(case: Case, seed: int, orders: int) -> list[str]:
    own, used = visit(case.evidence, seed)
    others = [visit(case.evidence, seed + number) for number in range(1, orders + 1)]
    n, opposite = len(case.evidence.reference), {"pass": "regressed", "regressed": "pass"}.get(case.verdict)
    told = [
        f"{statistics.median(count for _, count in others):.0f}",
        f"{sum(verdict == case.verdict for verdict, _ in others)} of {orders}",
        f"{sum(verdict == opposite for verdict, _ in others)} of {orders}",
    ]
    return [
        case.name,
        str(n),
        case.verdict,
        own,
        f"{used} ({100 * (n - used) / n:.0f}% saved)",
        *(told if orders else "---"),
    ]


def points(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:+.2f}"


def count(items: float) -> str:
    return "-" if math.isnan(items) else "never" if math.isinf(items) else f"{items:,.0f}"


def show(head: tuple[str, ...], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("reports", type=Path, nargs="+", help="report directories with evidence.jsonl")
    parser.add_argument("--seed", type=int, default=1234, help="the run's seed: its order of visit")
    parser.add_argument("--orders", type=int, default=200, help="further orders to try")
    options = parser.parse_args()
    found = [case for folder in options.reports for case in cases(folder)]
    print("Differences in points; items to decide at the margin, then to show a difference at all (power 80%):\n")
    show((*NEEDED, *(f"at all, {name}" for name in AT_ALL)), [needed(case) for case in found])
    possible = [case for case in found if can_stop_early(case.evidence.rule.metric, case.evidence.rule)]
    print("\nStopping early:\n")
    show(STOPPED, [stopped(case, options.seed, options.orders) for case in possible])


if __name__ == "__main__":
    main()
