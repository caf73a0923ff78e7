"""evidence.jsonl and the digests that tie the files of a report together.

One line for the outcomes of a model on a task, one for what else a case rests on, and a last one with the digest of
report.json's content. Outcomes are named by their digest, so a reference that many subjects share is written once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.cases import CaseKey
from quantgate.core.records import Result
from quantgate.verdict.evidence import Evidence, digest_outcomes, evidence_from_json, outcomes_from_json

EVIDENCE: Final = "evidence.jsonl"
SIDES: Final = ("reference", "subject")
UNSEALED: Final = "evidence"  # the one part of report.json that cannot be under the seal that lies in the evidence


class EvidenceFile:
    """Collects the evidence of a run's cases and writes it as lines."""

    def __init__(self) -> None:
        self._outcomes: dict[str, str] = {}
        self._cases: dict[CaseKey, dict[str, Any]] = {}

    def add(self, result: Result, evidence: Mapping[str, Any]) -> None:
        """Take in one case: its ``evidence`` as ``evidence_to_json`` gives it."""
        case = {**named(result.key), **evidence}
        for side in SIDES:
            digest = digest_outcomes(outcomes_from_json(evidence[side]))
            self._outcomes.setdefault(digest, _line({"outcomes": digest, "items": evidence[side]}))
            case[side] = digest
        self._cases[result.key] = case

    def drop(self, result: Result) -> None:
        """Forget a case that is judged again."""
        self._cases.pop(result.key, None)

    def sides(self, key: CaseKey) -> dict[str, Any] | None:
        """Outcomes of both sides of a case, as the lines hold them; None without evidence."""
        case = self._cases.get(key)
        return case and {side: reading.parse_object(self._outcomes[case[side]])["items"] for side in SIDES}

    def of(self, key: CaseKey) -> Evidence | None:
        """All that the verdict of a case rests on; None without evidence."""
        case = self._cases.get(key)
        return None if case is None else evidence_from_json({**case, **(self.sides(key) or {})})

    @property
    def text(self) -> str:
        """The lines of all cases, each behind the outcomes that it names."""
        lines, written = [], set()
        for case in self._cases.values():
            for digest in (case[side] for side in SIDES):
                if digest not in written:
                    written.add(digest)
                    lines.append(self._outcomes[digest])
            lines.append(_line({"case": case}))
        return "".join(lines)

    def sealed(self, seal: str) -> str:
        """Content of evidence.jsonl, with the digest of the report's content as its last line."""
        return self.text + _line({"report": seal})


def named(key: CaseKey) -> dict[str, str]:
    """The case as its evidence names it; inverse of `key_of`."""
    further = {"calibration": key.calibration, "model": key.model}
    return {"method": key.subject, "task": key.task, **{name: value for name, value in further.items() if value}}


def key_of(named: Mapping[str, Any]) -> CaseKey:
    """The case that a record or a line of evidence names."""
    further = (str(named.get(name, "")) for name in ("calibration", "model"))
    return CaseKey(str(named["method"]), str(named["task"]), *further)


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


def text_digest(text: str) -> str:
    """sha256 of a file's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def seal_of(content: Mapping[str, Any]) -> str:
    """sha256 of what report.json says, whatever its order and spacing."""
    plain = finite({name: value for name, value in content.items() if name != UNSEALED})
    return text_digest(json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def finite(value: Any) -> Any:
    """``value`` with null for every number that is not finite, because JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value
