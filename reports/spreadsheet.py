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
    """Paper A's layout: a row a subject with its bits a weight, a column a task, by dimension; the best subject of a
    column is bold.

    A mark behind a value says what was not shown to be within its margin; brackets hold the interval of its difference
    from 16 bit. Needs the package booktabs.
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
        f"\\begin{{tabular}}{{lr{'r' * len(tasks)}}}",
        "\\toprule",
        _dimensions(tasks),
        _row(["", "bits", *(_escaped(task) for _, task in tasks)]),
        "\\midrule",
    ]
    for model in dict.fromkeys(result.model for result in results):
        first = {result.task: result for result in reversed(results) if result.model == model}
        cells = [_value(first[task], first[task].reference) if task in first else "--" for _, task in tasks]
        lines.append(_row([_escaped(reference_of(model)), "16", *cells]))
        for subject in dict.fromkeys(result.about for result in results if result.model == model):
            cells = [_entry(known.get((subject, task)), columns[task]) for _, task in tasks]
            lines.append(_row([_escaped(subject), _bits(report, subject), *cells]))
    told = "; ".join(f"${mark}$: {verdict}" for verdict, mark in _MARKS.items() if mark)
    brackets = f"in brackets: the difference from 16 bit, {_confidence(results)} interval; bits: a weight, as stored"
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", f"% {told}", f"% {brackets}"]) + "\n"


def studies_as_latex(report: Report) -> str:
    """The tables of the run's studies (paper B's matrices among them), each a tabular below its title."""
    parts = []
    for study in report.shown_studies:
        for each in study.tables:
            parts += [
                f"% {' '.join(each.title.split())}",
                f"\\begin{{tabular}}{{l{'r' * (len(each.header) - 1)}}}",
                "\\toprule",
                _row([_escaped(name) for name in each.header]),
                "\\midrule",
                *(_row([_escaped(cell).replace("±", "$\\pm$") for cell in row]) for row in each.rows),
                "\\bottomrule",
                "\\end{tabular}",
                "",
            ]
    return "\n".join(["% \\usepackage{booktabs}", *parts]) if parts else ""


def _confidence(results: Sequence[Result]) -> str:
    found = sorted({f"{100 * each.confidence:g}%" for each in results if math.isfinite(each.confidence)})
    return " or ".join(found) or "no"


def _bits(report: Report, subject: str) -> str:
    bits = report.subjects.get(subject, {}).get("bits_effective")
    return f"{bits:.2f}" if isinstance(bits, int | float) and math.isfinite(bits) else ""


def _dimensions(tasks: Sequence[tuple[str, str]]) -> str:
    names = list(dict.fromkeys(dimension for dimension, _ in tasks))
    widths = [sum(dimension == name for dimension, _ in tasks) for name in names]
    spans = (f"\\multicolumn{{{width}}}{{c}}{{{_escaped(name)}}}" for name, width in zip(names, widths, strict=True))
    return _row(["", "", *spans])


def _entry(result: Result | None, column: Sequence[Result]) -> str:
    if result is None:
        return "--"
    ends = [each.value for each in column if math.isfinite(each.value)]
    best = (max if result.higher_is_better else min)(ends, default=math.nan)
    shown = _value(result, result.value)
    shown = f"\\textbf{{{shown}}}" if result.value == best and len(column) > 1 else shown
    shown = f"{shown}$^{{{mark}}}$" if (mark := _MARKS[result.verdict]) else shown
    if not (math.isfinite(result.ci_low) and math.isfinite(result.ci_high)):
        return shown
    digits = digits_of(result)
    return f"{shown} {{\\scriptsize $[{result.ci_low:+.{digits}f}, {result.ci_high:+.{digits}f}]$}}"


def _value(result: Result, value: float) -> str:
    return number(value, digits_of(result)).replace("infinite", "$\\infty$").replace("-", "$-$")


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))
