"""What one case hands to the report: plain data, so that it can cross from an xdist worker to the controller."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from quantgate.core.cases import CaseKey
from quantgate.core.records import Result
from quantgate.tasks.base import Task
from quantgate.tasks.efficiency import EfficiencyTask


@dataclass(frozen=True)
class Payload:
    """``result``: the record; ``subject`` and ``model``: their entries; ``notes``: what was said so far;
    ``policy``: its name, digest and text, and what it says about many cases (``correction``, ``exit``); empty where no
    rule was reached; ``evidence``: all the verdict rests on, empty when there is none; ``efficiency``: measured rows,
    of efficiency cases; ``phases``: seconds by what they were spent on since the last case; ``allowed``: whether the
    verdict leaves the run green, as far as that is known so far; ``diagnosis``: what taking the subject apart found.
    """

    result: Result
    subject: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    efficiency: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    allowed: bool = False
    diagnosis: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain dict; travels on the test report."""
        return {
            "result": self.result.as_json(),
            "subject": dict(self.subject),
            "model": dict(self.model),
            "notes": list(self.notes),
            "efficiency": dict(self.efficiency),
            "policy": dict(self.policy),
            "evidence": dict(self.evidence),
            "texts": dict(self.texts),
            "phases": dict(self.phases),
            "allowed": self.allowed,
            "diagnosis": dict(self.diagnosis),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Payload:
        """Inverse of :meth:`as_json`."""
        further = {
            name: content[name]
            for name in (
                "subject",
                "model",
                "policy",
                "evidence",
                "efficiency",
                "texts",
                "phases",
                "allowed",
                "diagnosis",
            )
        }
        return cls(result=Result(**content["result"]), notes=tuple(content["notes"]), **further)


PAYLOAD = pytest.StashKey[Payload]()


def failed_payload(key: CaseKey, task: Task | EfficiencyTask, reason: str) -> Payload:
    """A case that could not be judged is ``invalid``, never missing."""
    return Payload(invalid_result(key, task.dimension, reason, task.protocol, task.metric.name))


def invalid_result(key: CaseKey, dimension: str, reason: str, protocol: str = "", metric: str = "") -> Result:
    """A record without numbers: nothing was compared."""
    nan = math.nan
    return Result(
        task=key.task,
        dimension=dimension,
        protocol=protocol,
        method=key.subject,
        calibration=key.calibration,
        model=key.model,
        metric=metric,
        higher_is_better=True,
        n_items=0,
        reference=nan,
        value=nan,
        delta=nan,
        ci_low=nan,
        ci_high=nan,
        confidence=nan,
        margin=nan,
        verdict="invalid",
        reason=reason,
    )
