"""How the steps between the forms of one subject are shown: a row a step, and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from quantgate.reports.shift import Matrix
from quantgate.studies.steps import EQUAL, GAINED, LOST

_HEADER: Final = ("task", "step", "before", "after", "difference", "interval", "items worse / better", "says")
_WORDS: Final = {LOST: "lost", GAINED: "gained", EQUAL: "nothing moved"}


def sentences(record: Mapping[str, Any]) -> list[str]:
    """The answer, and what could not be compared."""
    chain = " to ".join(("16 bit", *record["forms"]))
    told = [f"steps from {chain}: {record['answer']}"]
    return told + [f"no steps on {each['task']}: {each['why']}" for each in record["holes"]]


def table(record: Mapping[str, Any]) -> Matrix:
    """A row a step, in the order in which the model goes through them."""
    shares = sorted({f"{step['confidence']:.0%}" for step in record["steps"]})
    title = f"What each step changed (paired, {' or '.join(shares) or 'no'} intervals, each step by itself)"
    return Matrix(title, _HEADER, tuple(_row(step) for step in record["steps"]))


def _row(step: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        step["task"],
        f"{step['from']} to {step['to']}",
        f"{step['before']:.4g}",
        f"{step['after']:.4g}",
        f"{step['delta']:+.4f}",
        step["undefined"] or f"{step['low']:+.4f} to {step['high']:+.4f}",
        f"{step['worse']} / {step['better']} of {step['items']}",
        _WORDS.get(step["says"], "no loss shown"),
    )
