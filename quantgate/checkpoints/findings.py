"""What an audit finds: records that a report, a terminal and a verdict's reason are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

ERROR: Final = "error"
WARNING: Final = "warning"
FACT: Final = "fact"
LEVELS: Final = (ERROR, WARNING, FACT)
"""An error ends the case as ``invalid`` before anything is scored; a warning is told; a fact is kept."""

_NAMED: Final = 3


@dataclass(frozen=True)
class Finding:
    """``code``: one word for scripts; ``modules``: names of modules or tensors; ``numbers``: what was measured."""

    code: str
    level: str
    sentence: str
    modules: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "modules": list(self.modules), "numbers": dict(self.numbers)}


@dataclass(frozen=True)
class MatrixRow:
    """One matrix. ``how``: as it is stored. ``error``: squared, relative to the reference's; ``least``: what
    the nearest values of a grid of the same bits and groups would cost; both None where there is no reference.
    """

    module: str
    how: str
    bits: float
    nbytes: int
    shape: tuple[int, int]
    error: float | None = None
    least: float | None = None


@dataclass(frozen=True)
class Audit:
    """Everything that the files of one checkpoint say."""

    layout: str
    matrices: tuple[MatrixRow, ...]
    findings: tuple[Finding, ...]

    def of_level(self, level: str) -> list[Finding]:
        """The findings of one level, in the order in which they were made."""
        return [each for each in self.findings if each.level == level]

    def as_record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "layout": self.layout,
            "matrices": [{**asdict(row), "shape": list(row.shape)} for row in self.matrices],
            "findings": [each.as_record() for each in self.findings],
        }


def from_record(content: Mapping[str, Any]) -> Audit:
    """What `Audit.as_record` gave."""
    rows = tuple(MatrixRow(**{**row, "shape": tuple(row["shape"])}) for row in content["matrices"])
    findings = tuple(Finding(**{**each, "modules": tuple(each["modules"])}) for each in content["findings"])
    return Audit(content["layout"], rows, findings)


def named(modules: Iterable[str]) -> str:
    """The first few, in words."""
    names = list(modules)
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
