"""Several runs side by side: which case says what in which run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantgate.core.cases import CaseKey
from quantgate.core.records import Result
from quantgate.reports.report import Report


@dataclass(frozen=True)
class Row:
    """One case in several runs; None where a run has no such case."""

    key: CaseKey
    cells: tuple[Result | None, ...]

    @property
    def changed(self) -> bool:
        """Whether two runs say otherwise of it, or one says nothing."""
        return len({cell and cell.verdict for cell in self.cells}) > 1


def beside(reports: Sequence[Report]) -> list[Row]:
    """Every case of any of the runs, in the order of the first that has it."""
    known: list[Mapping[CaseKey, Result]] = [{each.key: each for each in report.rows} for report in reports]
    keys = dict.fromkeys(key for cases in known for key in cases)
    return [Row(key, tuple(cases.get(key) for cases in known)) for key in keys]
