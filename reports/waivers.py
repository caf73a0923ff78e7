"""Verdicts that the policy lets by: said beside the case wherever it is shown, and never shown as a plain pass."""

from __future__ import annotations

from collections.abc import Sequence

from quantgate.verdict.records import Result
from reports.table import ordered


def sentence(result: Result) -> str:
    """Verdict and reason of a case, with the waiver and its own reason behind them."""
    told = f"; waived by the policy: {result.waived}" if result.waived else ""
    return f"{result.method} on {result.task}: {result.verdict}: {result.reason}{told}"


def summary(results: Sequence[Result]) -> list[str]:
    """One line a method that says which of its cases count as green by the policy's leave alone."""
    waived: dict[str, list[str]] = {}
    for result in ordered(results):
        if result.waived:
            waived.setdefault(result.method, []).append(f"{result.task} ({result.verdict}: {result.waived})")
    return [f"{method}: waived by the policy, not proven: {', '.join(cases)}" for method, cases in waived.items()]
