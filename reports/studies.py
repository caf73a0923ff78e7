"""How studies are shown. A study brings its own sentences, tables and picture; pages and terminal show what it brings.

A new kind of study is a row of `SHOWN`; one without a row is shown by its question and its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quantgate.reports import abilities, between, shift, steps
from quantgate.reports.shift import Matrix
from quantgate.studies.abilities import STUDY as ABILITIES
from quantgate.studies.between import STUDY as BETWEEN
from quantgate.studies.shift_record import STUDY
from quantgate.studies.steps import STUDY as STEPS


@dataclass(frozen=True)
class Shown:
    """``lines``: what is said. ``matrices``: tables that a terminal has room for; ``tables``: all. ``picture``: the
    file beside the report that draws it, empty without one.
    """

    title: str
    lines: tuple[str, ...]
    matrices: tuple[Matrix, ...] = ()
    tables: tuple[Matrix, ...] = ()
    picture: str = ""


def _shift(record: Mapping[str, Any]) -> Shown:
    matrices = tuple(shift.matrices(record))
    header, rows = shift.contrast_rows(record)
    title = "Own distribution against each other set, on the scale of the item scores (more is better)"
    contrasts = (Matrix(title, header, tuple(rows)),) if record["matrix"] else ()
    picture = shift.PICTURE if record["matrix"] else ""
    return Shown("Calibration study", tuple(shift.sentences(record)), matrices, (*matrices, *contrasts), picture)


def _steps(record: Mapping[str, Any]) -> Shown:
    tables = (steps.table(record),) if record["steps"] else ()
    return Shown("Which step lost what", tuple(steps.sentences(record)), tables, tables)


def _abilities(record: Mapping[str, Any]) -> Shown:
    tables = tuple(abilities.matrices(record))
    return Shown("Study of abilities", tuple(abilities.sentences(record)), tables, tables)


def _between(record: Mapping[str, Any]) -> Shown:
    tables = (between.matrix(record),) if record["contrasts"] else ()
    return Shown("Between models", tuple(between.lines(record)), tables, tables)


SHOWN: Final[Mapping[str, Callable[[Mapping[str, Any]], Shown]]] = {
    STUDY: _shift,
    STEPS: _steps,
    ABILITIES: _abilities,
    BETWEEN: _between,
}


def shown(records: Sequence[Mapping[str, Any]]) -> list[Shown]:
    """What there is to show of a run's studies, in their order."""
    return [SHOWN.get(str(each.get("study")), _plain)(each) for each in records]


def _plain(record: Mapping[str, Any]) -> Shown:
    said = (str(record[name]) for name in ("question", "answer") if record.get(name))
    return Shown(str(record.get("study") or "Study"), tuple(said))
