"""What a run shows on the terminal: tables, reasons, notes, decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from quantgate.core.phases import sentence
from quantgate.core.words import folded
from quantgate.reports import waivers
from quantgate.reports.fit import Look, draw, fit
from quantgate.reports.report import Report
from quantgate.reports.table import (
    GIVE_UP,
    HEADER,
    NAMES,
    SUBJECT_GIVE_UP,
    SUBJECT_HEADER,
    WORDS,
    result_row,
    subject_row,
)

_MARKUP: Final = {"pass": "green", "regressed": "red", "inconclusive": "yellow", "invalid": "red"}
_STYLES: Final = {"pass": "green", "regressed": "bold red", "inconclusive": "yellow", "invalid": "bold red"}


def summarize(terminalreporter: pytest.TerminalReporter, report: Report, place: str) -> None:
    """The tables, the reasons of everything that is not green, and the notes; ``place``: where the files lie."""
    terminalreporter.section("quantgate")
    page = Page(terminalreporter)
    if not report.judged:
        page.account(report)
        return
    results, alone = report.rows, report.alone
    styles = ["yellow" if result.waived or result.key in alone else _STYLES[result.verdict] for result in results]
    rows = [result_row(result, alone=result.key in alone) for result in results]
    page.table(HEADER, rows, _places(HEADER, GIVE_UP), styles)
    if report.subjects:
        rows = [subject_row(subject) for subject in report.subjects.values()]
        page.table(SUBJECT_HEADER, rows, _places(SUBJECT_HEADER, SUBJECT_GIVE_UP))
    for table in report.tables:
        page.line(f"{table.title}:")
        page.table(table.header, table.rows, table.give_up)
    studies = report.shown_studies
    for matrix in (each for study in studies for each in study.matrices):
        page.line(f"{matrix.title}:")
        page.table(matrix.header, matrix.rows, range(len(matrix.header) - 1, 1, -1))
    page.say_what_is_left_out()
    for front in report.derived.fronts:
        for line in front.lines():
            page.line(line)
    for result in results:
        if result.verdict != "pass":
            page.line(report.sentence(result))
    for note in report.notes:
        page.line(f"note: {note}")
    for line in (line for study in studies for line in study.lines):
        page.line(line)
    if report.phases:
        page.line(sentence(report.phases))
    page.account(report)
    for decision in report.derived.decisions:
        page.line(decision.sentence, **{_MARKUP[decision.verdict]: True})
    for line in waivers.summary(report.judged):
        page.line(line, yellow=True)
    terminalreporter.line(f"report: {place}")


class Page:
    """Lines and tables in the width there is. A log gets each sentence as one line, so that it can be searched."""

    def __init__(self, terminalreporter: pytest.TerminalReporter) -> None:
        writer = terminalreporter._tw
        self.reporter = terminalreporter
        self.is_terminal = terminalreporter.isatty
        encoding = getattr(writer._file, "encoding", None) or "utf-8"
        width = writer.fullwidth - 1 if self.is_terminal else Look.of_log().width
        self.look = Look(width, writer.hasmarkup, encoding.lower().startswith("utf"))
        self._left_out: list[str] = []

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], give_up: Sequence[int], styles: Sequence[str] = ()
    ) -> None:
        """A table; ``give_up``: columns that may go, ``styles``: of each row's last cell."""
        fitted = fit(header, rows, self.look.width, give_up, _places(header, NAMES))
        self._left_out += [name for name in fitted.left_out if name not in self._left_out]
        self.reporter.write(draw(fitted, self.look, WORDS, styles or [""] * len(rows)))

    def say_what_is_left_out(self) -> None:
        """Where the columns are that had no room."""
        if self._left_out:
            self.line(f"({', '.join(self._left_out)}: no room in {self.look.width} columns, see report.md)")

    def account(self, report: Report) -> None:
        """How much of the plan the run speaks of; red when a selected case was not judged."""
        counts = report.plan["counts"]
        for line in report.account:
            self.line(line, red=counts["judged"] < counts["selected"])

    def line(self, text: str, **markup: bool) -> None:
        """A sentence; in a terminal it is broken between words."""
        lines = folded(text, self.look.width) if self.is_terminal else [text]
        for each in lines or [""]:
            self.reporter.line(each, **markup)


def _places(header: Sequence[str], names: Sequence[str]) -> list[int]:
    return [header.index(name) for name in names if name in header]
