"""The subjects of a run, each made or opened once, and what the report says about them."""

from __future__ import annotations

from typing import Any

from quantgate.core.phases import PHASES
from quantgate.quantize.base import Method
from quantgate.quantize.calibration.samples import Calibration
from quantgate.runs.questions import Questions
from quantgate.runs.scoring import Scoring
from quantgate.subjects.spec import SubjectSpec, spec_of
from quantgate.subjects.subject import Subject, Workshop
from quantgate.subjects.together import make_together


class Subjects:
    """See the module's docstring. ``scoring`` lets go of its model first: never two of them in memory."""

    def __init__(self, questions: Questions, scoring: Scoring) -> None:
        self.questions, self.scoring = questions, scoring
        self._opened: dict[str, Subject] = {}

    def of(self, given: Method | SubjectSpec) -> Subject:
        """The subject of a spec, of a row of the method table or of a candidate's: from the store, made now, or opened.

        Raises:
            QuantgateError: it cannot be made of this model, or does not belong to it.
        """
        spec = spec_of(given)
        method = spec.method
        if spec.id not in self._opened:
            self.scoring.release()
            options = self.questions.options
            calibration = self.questions.calibration(spec.calibration) if method.needs_calibration else None
            workshop = Workshop(self.questions.store, options.device, options.shared, options.dtype)
            with PHASES.of(f"{spec.id}: quantizing"):  # or opening
                self._make_with_mates(spec, calibration, workshop)
                subject = spec.open(self.questions.model, calibration, workshop)
            if subject.from_cache:
                workshop.progress.step(f"{spec.id}: quantizing", 1, 1)
            self._opened[spec.id] = subject
        return self._opened[spec.id]

    def _make_with_mates(self, spec: SubjectSpec, calibration: Calibration | None, workshop: Workshop) -> None:
        """Make what is planned with the same set and can share the pass over the model; never beside other workers."""
        planned = self.questions.planned.subjects
        if calibration is not None and not workshop.shared and spec in planned:
            mates = [each.method for each in planned if each.calibration == spec.calibration]
            make_together(self.questions.model, mates, calibration, workshop)

    @property
    def digests(self) -> frozenset[str]:
        """Digests of the weights of all subjects so far."""
        return frozenset(subject.digest_loaded for subject in self._opened.values())


def record_of(subject: Subject) -> dict[str, Any]:
    """What the report says about a subject."""
    record = subject.record
    return {
        "subject": subject.name,
        **subject.method.as_record(),
        "calibration": record.calibration,
        "bits_nominal": record.bits_nominal,
        "bits_effective": record.bits_effective,
        "bytes_on_disk": record.bytes_on_disk,
        "fake_or_packed": record.storage,
        "activation_bits": record.activation_bits,
        "cache_bits": record.cache_bits,
        "execution": record.execution,
        "quantize_seconds": record.seconds,
        "quantized_modules": len(record.quantized_modules),
        "unchanged_modules": list(subject.unchanged),
        "on_grid_modules": list(subject.on_grid),
        "kept_16_bit": {"modules": list(subject.kept), "share_of_weights": subject.kept_share},
        "from_cache": subject.from_cache,
        **({"weights_not_read": list(subject.leftovers)} if subject.leftovers else {}),
        **({"served": dict(subject.served)} if subject.served else {}),
    }
