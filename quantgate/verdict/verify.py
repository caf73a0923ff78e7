"""``quantgate verify``: draw every verdict of a report again, from the outcomes of the items.

Beside report.json lies evidence.jsonl: one line for the outcomes of a model on a task, one for what else a case rests
on. Outcomes are named by their digest, so a reference that many subjects share is written once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from quantgate.errors import StoreError
from quantgate.progress import Progress
from quantgate.verdict.evidence import Conclusion, conclude, digest_outcomes, evidence_from_json, outcomes_from_json
from quantgate.verdict.records import Result

EVIDENCE: Final = "evidence.jsonl"
_SIDES: Final = ("reference", "subject")
_TOLERANCE: Final = 1e-9  # of a number that another machine's summation order may change


class EvidenceFile:
    """Collects the evidence of a run's cases and writes it as lines."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._known: set[str] = set()

    def add(self, result: Result, evidence: Mapping[str, Any]) -> None:
        """Take in one case: its ``evidence`` as ``evidence_to_json`` gives it."""
        case = {"method": result.method, "task": result.task, **evidence}
        for side in _SIDES:
            digest = digest_outcomes(outcomes_from_json(evidence[side]))
            if digest not in self._known:
                self._known.add(digest)
                self._lines.append(_line({"outcomes": digest, "items": evidence[side]}))
            case[side] = digest
        self._lines.append(_line({"case": case}))

    @property
    def text(self) -> str:
        """Content of evidence.jsonl."""
        return "".join(self._lines)

    @property
    def digest(self) -> str:
        """sha256 of the file; stands in report.json."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


@dataclass
class Findings:
    """What checking a report gave. ``differences``: one sentence each; none means that the report stands.

    ``unjudged``: cases that were invalid before anything was compared. ``measured``: bytes, memory and speed, which
    were measured on one machine at one time and cannot be drawn again.
    """

    confirmed: int = 0
    unjudged: int = 0
    measured: int = 0
    differences: list[str] = field(default_factory=list)


def verify(report: Path) -> Findings:
    """Check the report in ``report`` (report.json, or the directory it lies in) against the evidence beside it.

    Raises:
        StoreError: one of the two files is missing or unreadable.
    """
    path = report / "report.json" if report.is_dir() else report
    content = _read_json(path)
    findings = Findings()
    try:
        text = path.with_name(EVIDENCE).read_bytes()
    except OSError as error:
        raise StoreError(
            f"evidence of {path}", f"cannot be read ({error})", expected=f"{EVIDENCE} beside it"
        ) from error
    try:
        findings.differences += _foreign(text, content["evidence"]["sha256"])
        cases = dict(read_cases(text.decode("utf-8"), findings))
        for recorded in content["results"]:
            _check(recorded, cases.pop((recorded["method"], recorded["task"]), None), findings)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"report {path}", f"unreadable ({type(error).__name__}: {error})") from error
    findings.differences += _lost(cases)
    return findings


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"report {path}", f"cannot be read ({error})", expected="report.json of a run, or its directory"
        ) from error
    return content


def _foreign(evidence: bytes, digest: str) -> list[str]:
    if hashlib.sha256(evidence).hexdigest() == digest:
        return []
    return [f"{EVIDENCE} is not the file this report was written with"]


def _lost(cases: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{method} on {task}: judged, but missing from the report" for method, task in cases]


def _altered(items: Sequence[Sequence[Any]], digest: str) -> list[str]:
    if digest_outcomes(outcomes_from_json(items)) == digest:
        return []
    return [f"outcomes {digest[:12]} were changed after they were written"]


def read_cases(text: str, findings: Findings) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    """(method, task) and evidence of every case in an evidence.jsonl, outcomes filled in and checked against their
    digest.
    """
    outcomes: dict[str, Any] = {}
    for line in text.splitlines():
        content = json.loads(line)
        if "outcomes" in content:
            findings.differences += _altered(content["items"], content["outcomes"])
            outcomes[content["outcomes"]] = content["items"]
        else:
            case = content["case"]
            yield (case["method"], case["task"]), case | {side: outcomes[case[side]] for side in _SIDES}


def _check(recorded: Mapping[str, Any], evidence: Mapping[str, Any] | None, findings: Findings) -> None:
    case = f"{recorded['method']} on {recorded['task']}"
    if evidence is None:
        if recorded["dimension"] == "efficiency":
            findings.measured += 1
        elif recorded["verdict"] == "invalid":
            findings.unjudged += 1
        else:
            findings.differences.append(f"{case}: {recorded['verdict']} without evidence")
        return
    differing = _differing(recorded, conclude(evidence_from_json(evidence)))
    if differing:
        findings.differences.append(f"{case}: {'; '.join(differing)}")
    else:
        findings.confirmed += 1


def _differing(recorded: Mapping[str, Any], again: Conclusion) -> list[str]:
    comparison, judgement = again.comparison, again.judgement
    found: dict[str, Any] = {name: getattr(comparison, name) for name in _NUMBERS}
    found |= {"margin": judgement.margin, "verdict": judgement.verdict}
    return [
        f"{name} is recorded as {recorded[name]} and comes out as {value}"
        for name, value in found.items()
        if not _same(recorded[name], value)
    ]


_NUMBERS: Final = (
    "n_items", "reference", "value", "delta", "ci_low", "ci_high", "confidence", "items_worse", "items_better", "flips",
)  # fmt: skip


def _same(recorded: Any, found: Any) -> bool:
    """Whether a recorded value says what was found; null stands for every number that is not finite."""
    if isinstance(found, str):
        return bool(recorded == found)
    if recorded is None or not math.isfinite(found):
        return recorded is None and not math.isfinite(found)
    return math.isclose(recorded, found, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


# --- the command ----------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``quantgate verify``."""
    parser.add_argument("report", type=Path, help="report.json, or the directory it lies in")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Print what was found; 0 when the report stands, 1 when it does not."""
    findings = verify(args.report)
    for difference in findings.differences:
        print(difference)
    without = f", {findings.unjudged} were invalid before anything was compared" if findings.unjudged else ""
    without += f", {findings.measured} are measurements and cannot be drawn again" if findings.measured else ""
    print(f"{findings.confirmed} verdicts confirmed, {len(findings.differences)} contradicted{without}")
    return 1 if findings.differences or not findings.confirmed else 0
