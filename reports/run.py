"""The whole run as one machine-readable record; everything shown is rendered from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from quantgate.efficiency.pareto import fronts
from quantgate.efficiency.proxy import proxies
from quantgate.verdict.family import MethodDecision, decide
from quantgate.verdict.policy import Correction
from quantgate.verdict.records import VERDICTS, Result
from quantgate.verdict.verify import EVIDENCE, EvidenceFile
from reports.payload import Payload

SCHEMA: Final = 1


class Run:
    """Collects the payloads of all cases, whichever worker they come from."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.subjects: dict[str, Mapping[str, Any]] = {}
        self.model: Mapping[str, Any] = {}
        self.notes: list[str] = []
        self.correction: Correction = "holm"
        self.efficiency: dict[str, Mapping[str, Any]] = {}
        self.policy: Mapping[str, str] = {}
        self.evidence = EvidenceFile()

    def add(self, payload: Payload) -> None:
        """Take in one case."""
        self.results.append(payload.result)
        if payload.subject:
            self.subjects[payload.result.method] = payload.subject
        if payload.efficiency:
            self.efficiency[payload.result.method] = _merged(
                self.efficiency.get(payload.result.method, {}), payload.efficiency
            )
        self.model = payload.model or self.model
        self.correction = payload.correction
        self.policy = payload.policy or self.policy
        if payload.evidence:
            self.evidence.add(payload.result, payload.evidence)
        self.notes += [note for note in payload.notes if note not in self.notes]

    def counts(self) -> dict[str, int]:
        """Number of cases per verdict."""
        return {verdict: sum(result.verdict == verdict for result in self.results) for verdict in VERDICTS}

    @property
    def bits(self) -> dict[str, float]:
        """Nominal bits of a weight by method."""
        return {name: each["bits_nominal"] for name, each in self.subjects.items() if "bits_nominal" in each}

    def decisions(self) -> list[MethodDecision]:
        """One sentence per method over all its cases."""
        return decide(self.results, self.correction)

    def as_json(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """The content of report.json."""
        return {
            "schema": SCHEMA,
            "model": dict(self.model),
            "environment": dict(environment),
            "policy": {**self.policy, "correction": self.correction},
            "evidence": {"file": EVIDENCE, "sha256": self.evidence.digest},
            "counts": self.counts(),
            "subjects": [dict(subject) for subject in self.subjects.values()],
            "decisions": [asdict(decision) for decision in self.decisions()],
            "results": [result.as_json() for result in self.results],
            "unscored": [
                {"task": result.task, "method": result.method, "reason": reason, "items": count}
                for result in self.results
                for reason, count in result.without_score.items()
            ],
            "efficiency": [dict(record) for record in self.efficiency.values()],
            "pareto": [front.as_record() for front in fronts(self.results)],
            "proxies": [proxy.as_record() for proxy in proxies(self.results, self.bits)],
            "notes": self.notes,
        }


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Both records; a part that was not measured yet does not erase one that was."""
    return {**old, **{name: value for name, value in new.items() if value is not None or name not in old}}


def dumps(content: Any) -> str:
    """Strict JSON: a number that is not finite becomes null, because JSON has no NaN."""
    return json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
