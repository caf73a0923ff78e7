"""How the study between models is shown: sentences, a table, and models.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from quantgate.core.words import counted
from quantgate.reports.shift import Matrix
from quantgate.reports.table import number, signed
from quantgate.studies.between import STUDY

TITLE: Final = "Between models: quantized against another one in 16 bit"
CSV_FILE: Final = "models.csv"
_COLUMNS: Final = (
    "subject", "subject_bytes", "against", "against_bytes", "task", "metric", "higher_is_better", "items",
    "against_value", "value", "delta", "low", "high", "confidence", "says",
)  # fmt: skip
_HEADER: Final = ("subject", "task", "against", "metric", "items", "16-bit", "subject's", "difference", "interval", "")
_FORMULA: Final = ("=", "+", "-", "@")
_SAYS: Final = {"better": "better", "worse": "worse", "open": "not told apart"}
_SMALL: Final = 2


class Studied(Protocol):
    """A report, as far as its studies go."""

    @property
    def studies(self) -> Sequence[Mapping[str, Any]]:
        """Their records."""


def lines(record: Mapping[str, Any]) -> list[str]:
    """The answer, a sentence a pair, and what could not be compared, by reason."""
    whys: dict[tuple[str, str], list[str]] = {}
    for hole in record["holes"]:
        whys.setdefault((hole["against"], hole["why"]), []).append(f"{hole['subject']} on {hole['task']}")
    left = [
        f"not compared with {against}: {counted(len(cases), 'case')} ({', '.join(cases[:3])}"
        f"{', ...' * (len(cases) > 3)}): {why}"
        for (against, why), cases in whys.items()
    ]
    return [f"between models: {record['answer']}", *record["sentences"], *left]


def matrix(record: Mapping[str, Any]) -> Matrix:
    """A row a comparison."""
    return Matrix(TITLE, _HEADER, tuple(_row(each) for each in record["contrasts"]))


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    digits = 4 if max(abs(row["value"]), abs(row["against_value"])) < _SMALL else 2
    return (
        row["subject"],
        row["task"],
        row["against"],
        row["metric"],
        str(row["items"]),
        number(row["against_value"], digits),
        number(row["value"], digits),
        signed(row["delta"], digits),
        f"[{signed(row['low'], digits)}, {signed(row['high'], digits)}]",
        _SAYS[row["says"]],
    )


def as_csv(report: Studied) -> str:
    """A line a comparison; empty where a run has one model."""
    record = next((each for each in report.studies if each.get("study") == STUDY), None)
    if record is None:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in record["contrasts"])
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is marked as text; what is undefined is empty."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if value is None or value != value else value
