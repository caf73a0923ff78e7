"""What a run shows on the terminal: tables, reasons, notes, decisions."""

from __future__ import annotations

import io
from typing import Final

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantgate.efficiency.pareto import fronts
from reports import efficiency, waivers
from reports.run import Run
from reports.table import HEADER, SUBJECT_HEADER, ordered, result_row, subject_row

_WORDS: Final = (  # columns that hold no numbers
    "method", "task", "metric", "verdict", "storage", "calibration", "from", "model", "workload", "execution", "proxy",
    "benchmark",
)  # fmt: skip
_MARKUP: Final = {"pass": "green", "regressed": "red", "inconclusive": "yellow", "invalid": "red"}
_STYLES: Final = {"pass": "green", "regressed": "bold red", "inconclusive": "yellow", "invalid": "bold red"}


def summarize(terminalreporter: pytest.TerminalReporter, run: Run, report: str) -> None:
    """The tables, the reasons of everything that is not green, and the notes; ``report``: where the files lie."""
    terminalreporter.section("quantgate")
    width = max(terminalreporter._tw.fullwidth, 130)
    color = terminalreporter._tw.hasmarkup
    results = ordered(run.results)
    styles = ["yellow" if result.waived else _STYLES[result.verdict] for result in results]
    terminalreporter.write(_rich(HEADER, [result_row(result) for result in results], width, color, styles))
    if run.subjects:
        rows = [subject_row(subject) for subject in run.subjects.values()]
        terminalreporter.write(_rich(SUBJECT_HEADER, rows, width, color, [""] * len(rows)))
    _efficiency(terminalreporter, run, width, color)
    for result in results:
        if result.verdict != "pass":
            terminalreporter.line(waivers.sentence(result))
    for note in run.notes:
        terminalreporter.line(f"note: {note}")
    for decision in run.decisions():
        terminalreporter.line(decision.sentence, **{_MARKUP[decision.verdict]: True})
    for line in waivers.summary(run.results):
        terminalreporter.line(line, yellow=True)
    terminalreporter.line(f"report: {report}")


def _efficiency(terminalreporter: pytest.TerminalReporter, run: Run, width: int, color: bool) -> None:
    """Tables of memory, speed and correlations, and what no one should ship because another subject beats it."""
    for table in efficiency.tables(list(run.efficiency.values()), run.results):
        terminalreporter.line(f"{table.title}:")
        terminalreporter.write(_rich(table.header, table.rows, max(width, 240), color, [""] * len(table.rows)))
    for front in fronts(run.results):
        for line in front.lines():
            terminalreporter.line(line)


def _rich(header: tuple[str, ...], rows: list[tuple[str, ...]], width: int, color: bool, styles: list[str]) -> str:
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    numeric = {index for index, name in enumerate(header) if name not in _WORDS}
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index in numeric else "left", no_wrap=True)
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*(Text(cell) for cell in row[:-1]), Text(row[-1], style=style))
    console = Console(file=io.StringIO(), width=width, force_terminal=color, no_color=not color)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue() + "\n"
