"""Where a written task's rows lie: a JSONL, JSON or CSV file of the user's, or a data set of the run's data source."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from quantgate.core import reading
from quantgate.core.errors import DataError
from quantgate.core.reading import Unreadable
from quantgate.tasks.data import DataSource, Row

KINDS: Final = (".jsonl", ".csv", ".tsv")


@dataclass(frozen=True)
class Place:
    """A file, or ``dataset`` (hub id), ``config`` (empty: the only one there is) and ``split``."""

    path: Path | None = None
    dataset: str = ""
    config: str = ""
    split: str = ""

    def rows(self, data: DataSource) -> list[Row]:
        """All rows, at least one. Raises DataError."""
        if self.path is not None:
            return _rows_of(self.path)
        return data.rows(self.dataset, self.configuration(data), self.split, {})

    def configuration(self, data: DataSource) -> str:
        """The configuration that is read. Raises DataError where several might be meant."""
        if self.config:
            return self.config
        found = data.configs(self.dataset)
        if len(found) == 1 or "default" in found:
            return found[0] if len(found) == 1 else "default"
        raise DataError(
            f"{self.dataset} in {data.name}",
            f"{len(found)} configurations: {', '.join(found[:8])}",
            expected="the name of one in the task file",
            hint="config = NAME, or dataset_name: NAME",
        )

    @property
    def name(self) -> str:
        """In ids of items."""
        return self.path.stem if self.path is not None else f"{self.config or 'default'}/{self.split}"

    @property
    def described(self) -> str:
        """For protocols."""
        return self.path.name if self.path else f"{self.dataset} {self.config} {self.split}".replace("  ", " ")


def read_text(path: Path, who: str = "") -> str:
    """The text of a file beside a task file. Raises DataError."""
    try:
        return reading.read_text(path, reading.MOST_ROWS)
    except (OSError, Unreadable) as error:
        raise DataError(who or path.name, f"cannot be read ({error})", expected="UTF-8 text") from error


def digest_of(path: Path) -> str:
    """The beginning of the sha256 of a file that records name."""
    return sha256(read_text(path).encode()).hexdigest()[:16]


def _rows_of(path: Path) -> list[Row]:
    text = read_text(path)
    rows = _of_lines(text, path.name) if path.suffix == ".jsonl" else _of_table(text, path)
    if not rows:
        raise DataError(path.name, "no rows", expected="at least one")
    return rows


def _of_lines(text: str, who: str) -> list[Row]:
    lines = text.split("\n")
    rows = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            rows.append(reading.parse_object(line, reading.MOST_LINE))
        except Unreadable as error:
            raise DataError(f"{who}, line {number}", str(error), expected="a JSON object a line") from error
    return rows


def _of_table(text: str, path: Path) -> list[Row]:
    """Rows by the names in the first line; every value is a text."""
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        header, *rows = list(table) or [[]]
    except csv.Error as error:
        raise DataError(path.name, f"no CSV ({error})") from error
    if len(set(header)) < len(header) or not all(header):
        raise DataError(path.name, f"the first line is {header}", expected="a name for each column, each once")
    for number, row in enumerate(rows, start=2):
        if row and len(row) != len(header):
            raise DataError(f"{path.name}, row {number}", f"{len(row)} values", expected=f"{len(header)}")
    return [dict(zip(header, row, strict=True)) for row in rows if row]
