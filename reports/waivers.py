"""Verdicts that are let by: said beside the case wherever it is shown, and never shown as a plain pass."""

from __future__ import annotations

from collections.abc import Sequence

from quantgate.core.records import Result
from quantgate.reports.table import ordered


def sentence(result: Result, alone: str = "") -> str:
    """Verdict and reason of a case; behind them the waiver and its own reason, and what the family says of it.

    ``alone``: what is said of a regression that the family does not confirm.
    """
    told = f"; {alone}" if alone else ""
    told += f"; waived by the policy: {result.waived}" if result.waived else ""
    return f"{result.key}: {result.verdict}: {result.reason}{told}"


def summary(results: Sequence[Result]) -> list[str]:
    """One line a method that says which of its cases count as green by the policy's leave alone."""
    waived: dict[str, list[str]] = {}
    for result in ordered(results):
        if result.waived:
            waived.setdefault(result.about, []).append(f"{result.task} ({result.verdict}: {result.waived})")
    return [f"{method}: waived by the policy, not proven: {', '.join(cases)}" for method, cases in waived.items()]
