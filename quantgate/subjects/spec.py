"""What shall be judged, before it is made or opened; and who opens it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from quantgate.core.errors import translated
from quantgate.models.sameness import configuration_problems
from quantgate.models.source import ModelFiles
from quantgate.quantize.base import Method
from quantgate.quantize.calibration.samples import Calibration
from quantgate.subjects import candidates
from quantgate.subjects.subject import Subject, Workshop, make_subject

Opener: TypeAlias = Callable[[ModelFiles, Method, Calibration | None, Workshop], Subject]
OPENERS: Final[dict[str, Opener]] = {candidates.ALGORITHM: candidates.open_candidate}
"""By a row's algorithm; every other row is a quantizer's, and its subject is made here."""


@dataclass(frozen=True)
class SubjectSpec:
    """A row of the method table, or a candidate's, for the model called ``model`` with a named calibration set.

    ``model`` and ``calibration`` are empty where a run has only one of each.
    """

    method: Method
    model: str = ""
    calibration: str = ""

    @property
    def id(self) -> str:
        """Names the subject within a run: the row's id, behind the parts that are not the run's only ones."""
        return "/".join(part for part in (self.model, self.calibration, self.method.id) if part)

    def open(self, model: ModelFiles, calibration: Calibration | None, workshop: Workshop) -> Subject:
        """The subject, from the store, made now, or from the files that were brought along.

        Raises:
            MethodError, ModelError: it cannot be made of ``model``, or does not belong to it.
        """
        opener = OPENERS.get(self.method.algorithm, make_subject)
        with translated(f"subject {self.method.id!r}", "cannot be made", hint="compare its files with the original's"):
            subject = opener(model, self.method, calibration, workshop)
        problems = configuration_problems(model.path, subject.path)
        subject.check_unchanged()
        return replace(subject, foreign=(*subject.foreign, *problems))
