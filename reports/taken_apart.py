"""What a diagnosis within a run (``--diagnose``) found, as the page and the text show it.

Bars by block, leading modules, causes, and the tokens with the greatest divergence in their text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from quantgate.core.reading import visible
from quantgate.reports import shapes
from quantgate.reports.shift import Matrix

_MODULES: Final = 15
_MOST_BARS: Final = 400
_BEFORE: Final = 80  # letters


@dataclass(frozen=True)
class TakenApart:
    """``pictures``: each with the words below it; the page alone shows them."""

    title: str
    lines: tuple[str, ...]
    tables: tuple[Matrix, ...]
    pictures: tuple[tuple[str, Markup], ...]


def kept(record: Mapping[str, Any], subject: str, task: str, *, quoted: bool) -> dict[str, Any]:
    """What report.json holds of a diagnosis's record. ``quoted``: whether texts of the task may be shown."""
    levels = record["levels"]
    worst = [
        {
            "item": each["item"],
            "position": each["position"],
            "divergence": each["divergence"],
            "before": visible(each["before"])[-_BEFORE:] if quoted else "",
            "text": visible(each["text"]) if quoted else "",
        }
        for each in record["worst_tokens"]
    ]
    return {
        "subject": subject,
        "task": task,
        "whole": record["whole"],
        "components": [_bar(row) for row in levels.get("component", [])[:_MOST_BARS]],
        "modules": [_bar(row) for row in levels.get("module", [])[:_MODULES]],
        "causes": [f"{each['kind']}: {each['sentence']}" for each in record["causes"]],
        "worst_tokens": worst,
    }


def _bar(row: Mapping[str, Any]) -> dict[str, Any]:
    value = row["isolated"] or row["estimate"]
    return {
        "unit": row["unit"],
        "block": row["block"],
        "mean": value["mean"],
        "low": value.get("low"),
        "high": value.get("high"),
        "measured": bool(row["isolated"]),
    }


def shown(record: Mapping[str, Any]) -> TakenApart:
    """A diagnosis that `kept` made."""
    whole = record["whole"]
    lines = [f"all of it: a KL divergence of {whole['mean']:.4g} nats a token", *record["causes"]]
    tables = []
    if record["modules"]:
        rows = tuple((each["unit"], f"{each['mean']:.4g}", _interval(each)) for each in record["modules"])
        tables.append(Matrix("Modules of the greatest effect by themselves", ("module", "nats a token", "how"), rows))
    if record["worst_tokens"]:
        found = tuple(
            (f"{each['item']}:{each['position']}", f"{each['divergence']:.3g}", each["before"], each["text"])
            for each in record["worst_tokens"]
        )
        header = ("item and position", "divergence in nats", "text before it", "token")
        tables.append(Matrix("Tokens of the greatest divergence", header, found))
    title = f"{record['subject']} taken apart on {record['task']}"
    return TakenApart(title, tuple(lines), tuple(tables), tuple(_pictures(record["components"], title)))


def _interval(row: Mapping[str, Any]) -> str:
    if not row["measured"]:
        return "estimated"
    low, high = row["low"], row["high"]
    return "measured" if low is None or high is None else f"measured, {low:.4g} to {high:.4g}"


def _pictures(rows: Sequence[Mapping[str, Any]], title: str) -> list[tuple[str, Markup]]:
    """A picture of attention and one of feed-forward: a bar a block."""
    found = []
    most = max((each["mean"] for each in rows), default=0.0)
    for kind in ("attention", "feed-forward"):
        bars = {each["block"]: (max(each["mean"], 0.0), each["measured"]) for each in rows if kind in each["unit"]}
        if bars and most > 0:
            words = f"{kind} by decoder block, nats a token by itself; full bars were measured, hollow ones estimated"
            found.append((words, shapes.bars(bars, most, f"{title}: {kind} by decoder block")))
    return found
