"""runs.html: several runs side by side as one page: one file, nothing loaded from anywhere, no scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from quantgate.core.records import Result
from quantgate.reports import shapes, trend
from quantgate.reports.beside import Row
from quantgate.reports.html import SIGNS, page_part, templates
from quantgate.reports.report import Report
from quantgate.reports.table import digits_of, number

FILE = "runs.html"


def render(rows: Sequence[Row], reports: Sequence[Report]) -> str:
    """The page: ``rows`` as `beside` makes them of ``reports``; those that changed first."""
    ordered = sorted(rows, key=lambda row: not row.changed)
    return str(
        templates()
        .get_template(FILE)
        .render(
            rows=[*map(_row, ordered)],
            trends=trend.of_subjects(reports),
            runs=[_run(at, report) for at, report in enumerate(reports, start=1)],
            changed=sum(row.changed for row in rows),
            style=Markup(page_part("page.css")),
        )
    )


def _row(row: Row) -> dict[str, Any]:
    cells = [*map(_cell, row.cells)]
    return {"case": str(row.key), "changed": row.changed, "cells": cells, "trend": trend.of_case(row.cells)}


def _cell(result: Result | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "verdict": result.verdict,
        "sign": SIGNS[result.verdict],
        "value": number(result.value, digits_of(result)),
        "picture": shapes.interval(result),
    }


def _run(at: int, report: Report) -> dict[str, str]:
    facts = report.environment
    commit = str(facts.get("commit") or "none")
    return {
        "name": f"run {at}",
        "started": report.run.started,
        "commit": commit[:12] + (" with local changes" if facts.get("dirty") else ""),
        "counts": report.counts_in_words,
        "cpu": str(facts.get("cpu", "")),
        "command": str(facts.get("command", "")),
    }
