"""What identifies a case: which model, which subject with which calibration set, which task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CaseKey:
    """One case of a run.

    ``subject``: a method's or a candidate's id. ``calibration`` and ``model`` are empty where the run has only one of
    each, and named where it has several: then they are part of every name of the case.
    """

    subject: str
    task: str
    calibration: str = ""
    model: str = ""

    @property
    def about(self) -> str:
        """The subject's name within the run: ``gptq4``, ``gptq4:c4``, ``small:gptq4:c4``. ``-k`` takes all of them."""
        return ":".join(part for part in (self.model, self.subject, self.calibration) if part)

    @property
    def id(self) -> str:
        """The id in the case's brackets: ``gptq4-mmlu``."""
        return f"{self.about}-{self.task}"

    def __str__(self) -> str:
        """In a sentence: ``gptq4 on mmlu``."""
        return f"{self.about} on {self.task}"
