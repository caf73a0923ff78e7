"""table.csv and table.tex: the table for a spreadsheet, and for a paper."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from quantgate.core.records import Result, Verdict
from quantgate.reports.report import Report
from quantgate.reports.table import digits_of, number
from quantgate.studies.between import reference_of

_PLAIN: Final = ("str", "int", "float", "bool", "Verdict")
COLUMNS: Final = tuple(each.name for each in fields(Result) if each.type in _PLAIN)
"""The fields of a record that are one value."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_MARKS: Final[dict[Verdict, str]] = {"pass": "", "regressed": r"\dagger", "inconclusive": "?", "invalid": r"\times"}
_SPECIAL: Final = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{each: f"\\{each}" for each in "&%$#_{}"},
}  # fmt: skip


def as_csv(report: Report) -> str:
    """One row a case, one column a field; a number that is not defined is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in report.rows:
        writer.writerow([_cell(getattr(result, name)) for name in COLUMNS])
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is marked as text."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if isinstance(value, float) and math.isnan(value) else value


def as_latex(report: Report) -> str:
    """Paper A's layout: a row a subject, a column a task, by dimension; the best subject of a column is bold.

    A mark behind a value says what was not shown to be within its margin. Needs the package booktabs.
    """
    results = [result for result in report.rows if result.dimension != "efficiency"]
    if not results:
        return ""
    tasks = sorted({(result.dimension, result.task) for result in results})
    subjects = list(dict.fromkeys(result.about for result in results))
    known = {(result.about, result.task): result for result in results}
    columns = {task: [known[each, task] for each in subjects if (each, task) in known] for _, task in tasks}
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * len(tasks)}}}",
        "\\toprule",
        _dimensions(tasks),
        _row(["", *(_escaped(task) for _, task in tasks)]),
        "\\midrule",
    ]
    for model in dict.fromkeys(result.model for result in results):
        first = {result.task: result for result in reversed(results) if result.model == model}
        cells = [_value(first[task], first[task].reference) if task in first else "--" for _, task in tasks]
        lines.append(_row([_escaped(reference_of(model)), *cells]))
        for subject in dict.fromkeys(result.about for result in results if result.model == model):
            cells = [_entry(known.get((subject, task)), columns[task]) for _, task in tasks]
            lines.append(_row([_escaped(subject), *cells]))
    told = "; ".join(f"${mark}$: {verdict}" for verdict, mark in _MARKS.items() if mark)
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", f"% {told}"]) + "\n"


def _dimensions(tasks: Sequence[tuple[str, str]]) -> str:
    names = list(dict.fromkeys(dimension for dimension, _ in tasks))
    widths = [sum(dimension == name for dimension, _ in tasks) for name in names]
    spans = (f"\\multicolumn{{{width}}}{{c}}{{{_escaped(name)}}}" for name, width in zip(names, widths, strict=True))
    return _row(["", *spans])


def _entry(result: Result | None, column: Sequence[Result]) -> str:
    if result is None:
        return "--"
    ends = [each.value for each in column if math.isfinite(each.value)]
    best = (max if result.higher_is_better else min)(ends, default=math.nan)
    shown = _value(result, result.value)
    shown = f"\\textbf{{{shown}}}" if result.value == best and len(column) > 1 else shown
    return f"{shown}$^{{{mark}}}$" if (mark := _MARKS[result.verdict]) else shown


def _value(result: Result, value: float) -> str:
    return number(value, digits_of(result)).replace("infinite", "$\\infty$").replace("-", "$-$")


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))
