"""Subjects that are brought along instead of made here: one row a kind, which says who checks and who opens it.

Whoever has to know whether a row of a run is a quantizer's asks here, and never for a kind by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from quantgate.models.source import ModelFiles
from quantgate.quantize.base import Method
from quantgate.quantize.calibration.samples import Calibration
from quantgate.subjects import candidates, served
from quantgate.subjects.subject import Subject, Workshop

Opener: TypeAlias = Callable[[ModelFiles, Method, Calibration | None, Workshop], Subject]


@dataclass(frozen=True)
class Kind:
    """``check``: raises before anything is loaded; it is given the row, the reference's directory where that is known,
    and whether the hub must not be asked. ``open``: the subject.
    """

    check: Callable[[Method, Path | None, bool], None]
    open: Opener


def _check_files(method: Method, reference: Path | None, offline: bool) -> None:
    candidates.check_candidate(method, reference, offline=offline)


def _check_server(method: Method, reference: Path | None, offline: bool) -> None:
    del reference, offline
    served.check_server(method)


BROUGHT: Final = {
    candidates.ALGORITHM: Kind(_check_files, candidates.open_candidate),
    served.ALGORITHM: Kind(_check_server, served.open_served),
}
"""By a row's algorithm; every other row is a quantizer's, and its subject is made here."""


def kind_of(method: Method) -> Kind | None:
    """The kind of a subject that was brought along; None for a row whose subject is made here."""
    return BROUGHT.get(method.algorithm)
