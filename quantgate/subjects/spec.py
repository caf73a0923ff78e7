"""What shall be judged, before it is made or opened; and who opens it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from quantgate.core.cases import CaseKey
from quantgate.core.errors import translated
from quantgate.core.installed import installed
from quantgate.models.loading import has_foreign_classes
from quantgate.models.sameness import configuration_problems
from quantgate.models.source import ModelFiles
from quantgate.quantize.base import Method
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.calibration.sources import CalibrationChoice
from quantgate.store.facts import Facts, FactsKey, code_digest, remembered
from quantgate.store.store import sha256_file
from quantgate.subjects.brought import kind_of
from quantgate.subjects.subject import Subject, Workshop, make_subject


@dataclass(frozen=True)
class SubjectSpec:
    """A row of the method table, or a candidate's, with the calibration set it may look at.

    ``calibration``: None where a run has only one set, which its options name. ``model``: the name of the reference,
    empty where a run has only one.
    """

    method: Method
    calibration: CalibrationChoice | None = None
    model: str = ""

    def on(self, task: str) -> CaseKey:
        """The case of this subject on ``task``."""
        return CaseKey(self.method.id, task, self.calibration.label if self.calibration else "", self.model)

    @property
    def id(self) -> str:
        """Names the subject within a run: the row's id, with the parts that are not the run's only ones."""
        return self.on("").about

    def open(self, model: ModelFiles, calibration: Calibration | None, workshop: Workshop) -> Subject:
        """The subject, from the store, made now, or from the files that were brought along.

        Raises:
            MethodError, ModelError: it cannot be made of ``model``, or does not belong to it.
        """
        brought = kind_of(self.method)
        opener = brought.open if brought else make_subject
        with translated(f"subject {self.method.id!r}", "cannot be made", hint="compare its files with the original's"):
            subject = opener(model, self.method, calibration, workshop)
        problems = _problems(model, subject, workshop.store.root)
        subject.check_unchanged()
        return replace(subject, foreign=(*subject.foreign, *problems), called=self.id)


def _problems(model: ModelFiles, subject: Subject, root: Path) -> list[str]:
    """How the subject's configuration computes otherwise; of the same two files it is said once."""
    files = _digests(model, subject)
    key = FactsKey(files, installed(), "configurations", code_digest())
    facts = Facts(root, key, lambda: not has_foreign_classes() and _digests(model, subject) == files)
    found: list[str] = remembered(facts, lambda: configuration_problems(model.path, subject.path))
    return found


def _digests(model: ModelFiles, subject: Subject) -> dict[str, str]:
    return {name: sha256_file(path / "config.json") for name, path in (("ours", model.path), ("theirs", subject.path))}


def spec_of(subject: Method | SubjectSpec) -> SubjectSpec:
    """A bare row stands for itself with the run's own calibration set and model."""
    return subject if isinstance(subject, SubjectSpec) else SubjectSpec(subject)
