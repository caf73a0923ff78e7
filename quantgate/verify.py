"""``quantgate verify``: draw everything again that a report shows, from the outcomes of the items.

Beside report.json lies evidence.jsonl (see ``seal``). What follows from the items is drawn again and compared: every
record, the counts, the decisions, the fronts, the account of the plan, the rules from the policy's own text, report.md.
What cannot be drawn again (the model's and the subjects' entries, what was measured, times, the environment) is under
the seals alone. A seal has no key: who changes a number that follows from nothing and makes all seals anew is not found
out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.cases import CaseKey
from quantgate.core.errors import PolicyError, StoreError
from quantgate.core.records import Result
from quantgate.studies.derived import derive
from quantgate.tasks.base import Summarized
from quantgate.tasks.efficiency import EFFICIENCY_TASKS
from quantgate.tasks.table import TASKS
from quantgate.verdict.evidence import (
    Evidence,
    conclude,
    digest_outcomes,
    evidence_from_json,
    outcomes_from_json,
    rule_to_json,
)
from quantgate.verdict.family import green
from quantgate.verdict.policy_file import parse_policy
from quantgate.verdict.recording import Told, build_result
from quantgate.verdict.seal import EVIDENCE, SIDES, finite, key_of, seal_of

REPORT: Final = "report.json"
UNFINISHED: Final = "unfinished"
SEALED_SINCE: Final = 2
_TOLERANCE: Final = 1e-9  # of a number that another machine's summation order may change
# Of a record, what only the run itself knew.
_TOLD: Final = (
    "protocol", "seconds", "tokens", "from_cache", "reference_from", "data_digest", "data_source", "shortened",
)  # fmt: skip
_ONLY_SEALED: Final = "model, subjects, environment, notes, measured memory and speed, protocols, data, times"

Render = Callable[[Mapping[str, Any], Sequence[Result], Mapping[CaseKey, Any]], Mapping[str, str]]
"""Draws the files beside report.json again: its content, results and evidence -> file name -> text."""


@dataclass
class Findings:
    """What checking a report gave. ``differences``: one sentence each; none means that the report stands.

    ``unjudged``: cases that were invalid before anything was compared. ``measured``: memory and speed, whose numbers
    were measured on one machine at one time: the verdict follows from them, they themselves cannot be drawn again.
    ``unconfirmed``: parts of the report that nothing here can confirm. ``decided``: whether the decisions were drawn
    again; those of the first format cannot be. ``written_with``: what was another version when the report was written.
    """

    confirmed: int = 0
    unjudged: int = 0
    measured: int = 0
    differences: list[str] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)
    unfinished: str = ""
    decided: bool = True
    written_with: list[str] = field(default_factory=list)

    @property
    def stands(self) -> bool:
        """Whether the report says what its evidence says, as a whole."""
        return bool(self.confirmed) and self.decided and not self.differences and not self.unfinished

    def as_record(self) -> dict[str, Any]:
        """The fields and ``stands``, as JSON takes them."""
        return {"stands": self.stands, **asdict(self)}


def verify(report: Path, render: Render | None = None) -> Findings:
    """Check the report in ``report`` (report.json, or the directory it lies in) against the evidence beside it.

    ``render``: draws report.md again; without it the digest of report.md is compared alone.

    Raises:
        StoreError: one of the two files is missing or unreadable.
    """
    path = report / REPORT if report.is_dir() else report
    content = read_report(path)
    findings = Findings()
    if content.get("status") == UNFINISHED:
        started = content.get("run", {}).get("started", "at an unknown time")
        findings.unfinished = f"the run that started {started} did not finish: there is no verdict to confirm"
        return findings
    try:
        evidence = reading.read_bytes(path.with_name(EVIDENCE), reading.MOST_ROWS)
    except (OSError, reading.Unreadable) as error:
        raise StoreError(
            f"evidence of {path}", f"cannot be read ({error})", expected=f"{EVIDENCE} beside it"
        ) from error
    try:
        _check_all(path.parent, content, evidence, render, findings)
    except (KeyError, TypeError, ValueError, AttributeError, PolicyError) as error:
        raise StoreError(
            f"report {path}",
            f"cannot be checked ({_wanting(error)})",
            expected="report.json and the evidence beside it as a run wrote them",
            hint="run the suite again",
        ) from error
    return findings


def _wanting(error: Exception) -> str:
    """What of a report is not as a run writes it, in words."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, TypeError | AttributeError):
        return "a field holds something of another kind than a run writes there"
    return str(error)


def _check_all(
    folder: Path, content: Mapping[str, Any], evidence: bytes, render: Render | None, findings: Findings
) -> None:
    text = evidence.decode("utf-8")
    sealed = content["schema"] == SEALED_SINCE
    if not sealed and (content["schema"] != 1 or "plan" in content or '{"report":' in text):
        findings.differences.append(f"format {content['schema']} is recorded, which does not fit the content")
    findings.differences += _foreign(evidence, content["evidence"])
    cases = dict(read_cases(text, findings))
    known = dict(cases)
    results = [_check(each, cases.pop(key_of(each), None), findings, sealed) for each in content["results"]]
    findings.differences += _twice(content["results"]) + _lost(cases)
    if not sealed:
        findings.decided = False
        findings.unconfirmed.append(
            "decisions, counts and report.md (the report's format is older than they can be checked)"
        )
        return
    findings.differences += _unsealed(text, content)
    findings.differences += _rules(content, known, findings)
    findings.differences += _derived(content, results)
    findings.differences += _account(content, results)
    findings.differences += _files(folder, content, render(content, results, known) if render else {})
    findings.unconfirmed.append(f"{_ONLY_SEALED} (under the seals, and cannot be drawn again)")


def read_report(path: Path) -> dict[str, Any]:
    """The content of a report.json. Raises StoreError when it cannot be read."""
    try:
        content = reading.parse_object(reading.read_text(path, reading.MOST_RECORDS))
    except (OSError, reading.Unreadable) as error:
        raise StoreError(
            f"report {path}", f"cannot be read ({error})", expected="report.json of a run, or its directory"
        ) from error
    return content


# --- seals ----------------------------------------------------------------------------------------------------------


def _foreign(evidence: bytes, stated: Mapping[str, Any]) -> list[str]:
    """Whether the evidence is what the report says: the one entry that no seal covers, so all of it counts."""
    if stated["sha256"] != hashlib.sha256(evidence).hexdigest():
        return [f"{EVIDENCE} is not the file this report was written with"]
    if dict(stated) != {"file": EVIDENCE, "sha256": stated["sha256"]}:
        return [f"{REPORT} does not say that its evidence is {EVIDENCE}, and nothing else"]
    return []


def _unsealed(text: str, content: Mapping[str, Any]) -> list[str]:
    """Whether report.json's content is what the last line of the evidence seals."""
    seals = [line["report"] for line in map(reading.parse_json, _lines(text)) if "report" in line]
    if seals == [seal_of(content)]:
        return []
    return [f"{REPORT} was changed after it was written: its content does not fit the seal in {EVIDENCE}"]


def _lines(text: str) -> list[str]:
    """Lines end at line feeds only: an answer may hold any other separator."""
    return [line for line in text.split("\n") if line]


def _altered(items: Sequence[Sequence[Any]], digest: str) -> list[str]:
    if digest_outcomes(outcomes_from_json(items)) == digest:
        return []
    return [f"outcomes {digest[:12]} were changed after they were written"]


def _files(folder: Path, content: Mapping[str, Any], drawn: Mapping[str, str]) -> list[str]:
    """report.md and the picture: as they were written, and as they come out of the record."""
    found = []
    for name, digest in content["files"].items():
        try:
            text = reading.read_bytes(folder / Path(name).name, reading.MOST_RECORDS)
        except (OSError, reading.Unreadable) as error:
            found.append(f"{name} cannot be read ({getattr(error, 'strerror', None) or error})")
            continue
        if hashlib.sha256(text).hexdigest() != digest:
            found.append(f"{name} was changed after it was written")
        elif name in drawn and drawn[name].encode() != text:
            found.append(f"{name} does not say what {REPORT} says")
    return found


# --- cases ----------------------------------------------------------------------------------------------------------


def _lost(cases: Iterable[CaseKey]) -> list[str]:
    return [f"{key}: judged, but missing from the report" for key in cases]


def _twice(results: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = [key_of(each) for each in results]
    often = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    return [f"{key}: more than one result" for key in often]


def read_cases(text: str, findings: Findings) -> Iterator[tuple[CaseKey, Mapping[str, Any]]]:
    """Key and evidence of every case in an evidence.jsonl, outcomes filled in and checked against their
    digest.
    """
    outcomes: dict[str, Any] = {}
    for line in _lines(text):
        content = reading.parse_json(line)
        if "outcomes" in content:
            findings.differences += _altered(content["items"], content["outcomes"])
            outcomes[content["outcomes"]] = content["items"]
        elif "case" in content:
            case = content["case"]
            yield key_of(case), case | {side: outcomes[case[side]] for side in SIDES}


def _check(recorded: Mapping[str, Any], evidence: Mapping[str, Any] | None, findings: Findings, sealed: bool) -> Result:
    """The record drawn again, or as it was read where there is nothing to draw it from."""
    case = key_of(recorded)
    if evidence is None:
        if recorded["verdict"] == "invalid":
            findings.unjudged += 1
        elif recorded["dimension"] == "efficiency" and not sealed:
            findings.measured += 1
        else:
            findings.differences.append(f"{case}: {recorded['verdict']} without evidence")
        return as_read(recorded)
    again = draw_again(recorded, evidence)
    differing = _differing(recorded, again, None if sealed else _FIRST_FORMAT)
    if differing:
        findings.differences.append(f"{case}: {'; '.join(differing)}")
    else:
        findings.confirmed += 1
        findings.measured += recorded["dimension"] == "efficiency"
    return again


def draw_again(recorded: Mapping[str, Any], content: Mapping[str, Any]) -> Result:
    """The record of a case from its evidence; what only the run knew is taken from ``recorded``."""
    evidence = evidence_from_json(content)
    found = conclude(evidence)
    key = key_of(content)
    known = TASKS.get(key.task) or EFFICIENCY_TASKS.get(key.task)
    summary: Mapping[str, float] = known.summary(evidence.subject) if isinstance(known, Summarized) else {}
    simulated = {"simulated": 1.0} if evidence.reservation else {}
    told = Told(
        task=key.task,
        dimension=known.dimension if known else str(recorded["dimension"]),
        method=key.subject,
        calibration=key.calibration,
        model=key.model,
        **{name: recorded[name] for name in _TOLD if name in recorded},
    )
    return build_result(found.with_companions({**summary, **simulated}), evidence.rule, told)


def as_read(recorded: Mapping[str, Any]) -> Result:
    """A record without evidence; null stands for NaN."""
    numbers = {each.name for each in fields(Result) if each.type in ("float", float)}
    known = {each.name for each in fields(Result)}
    given: dict[str, Any] = {name: value for name, value in recorded.items() if name in known}
    given |= {name: math.nan for name, value in given.items() if value is None and name in numbers}
    companions = given.get("companions", {}).items()
    given["companions"] = {name: math.nan if value is None else value for name, value in companions}
    return Result(**given)


# What a report of the first format is compared in.
_FIRST_FORMAT: Final = (
    "n_items", "reference", "value", "delta", "ci_low", "ci_high", "confidence", "items_worse", "items_better", "flips",
    "margin", "verdict",
)  # fmt: skip


# Fields that came to this format later: a report that lacks one says what it says where it comes out empty.
_LATER: Final = ("calibration", "model")


def _differing(recorded: Mapping[str, Any], again: Result, names: Sequence[str] | None = None) -> list[str]:
    drawn = again.as_json()
    lacking = {name for name in _LATER if name not in recorded and drawn[name] == ""}
    return [
        f"{name} is recorded as {_shown(recorded.get(name))} and comes out as {_shown(drawn[name])}"
        for name in names or drawn
        if name not in lacking and not same(recorded.get(name), drawn[name])
    ]


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def same(recorded: Any, found: Any) -> bool:
    """Whether a recorded value says what was found; null stands for every number that is not finite."""
    if isinstance(found, Mapping):
        return (
            isinstance(recorded, Mapping)
            and recorded.keys() == found.keys()
            and all(same(recorded[name], each) for name, each in found.items())
        )
    if isinstance(found, list | tuple):
        return isinstance(recorded, list) and len(recorded) == len(found) and all(map(same, recorded, found))
    if isinstance(found, str | bool) or found is None:
        return bool(recorded == found)
    if recorded is None or not math.isfinite(found):
        return not math.isfinite(found) and (recorded is None or repr(recorded) == repr(found))
    if isinstance(recorded, bool) or not isinstance(recorded, int | float):
        return False
    return math.isclose(recorded, found, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


# --- the run --------------------------------------------------------------------------------------------------------


def _rules(content: Mapping[str, Any], cases: Mapping[CaseKey, Mapping[str, Any]], findings: Findings) -> list[str]:
    """Whether every case was judged by the rule that the policy's text gives it."""
    if not cases:
        return []
    stated = content["policy"]
    policy = parse_policy(stated["text"], stated["name"])
    found = []
    family = policy.correction, policy.exit_by
    if policy.digest != stated["digest"] or family != (stated["correction"], stated["exit"]):
        found.append("the policy's text is not that of its digest")
    for key, case in cases.items():
        evidence: Evidence = evidence_from_json(case)
        known = TASKS.get(key.task) or EFFICIENCY_TASKS.get(key.task)
        if known is None:
            # of a package that is not installed here: its dimension is not known
            findings.unconfirmed.append(f"the rule of {key} (no task of that name is known here)")
            continue
        rule = policy.rule(key.task, known.dimension, evidence.rule.metric, _model_id(content, key), key.subject)
        if not same(reading.through_json(rule_to_json(evidence.rule)), rule_to_json(rule)):
            found.append(f"{key}: judged by another rule than the policy's text gives it")
    return found


def _model_id(content: Mapping[str, Any], key: CaseKey) -> str:
    """The 16-bit model of a case, as its policy names it; an older report has one."""
    named_so = [each for each in content.get("models", ()) if each["name"] == key.model]
    return str((named_so[0] if named_so else content["model"])["id"])


def _derived(content: Mapping[str, Any], results: Sequence[Result]) -> list[str]:
    """What follows from the results: counts, decisions, fronts, correlations, what was not scored."""
    plan = content["plan"]
    expected = {method: plan["planned"].get(method, []) for method in plan["selected"]}
    subjects = [each for each in content["subjects"] if "bits_nominal" in each]
    bits = {each.get("subject", each["method"]): each["bits_nominal"] for each in subjects}
    again = derive(results, content["policy"]["correction"], expected, bits).as_json(results)
    return [
        f"{name} {'do' if name.endswith('s') else 'does'} not follow from the results: recorded {_shown(content[name])}"
        f", drawn again {_shown(finite(value))}"
        for name, value in again.items()
        if not same(content[name], value)
    ]


def _account(content: Mapping[str, Any], results: Sequence[Result]) -> list[str]:
    """Whether plan, selection, results and exit code fit together."""
    plan, code, policy = content["plan"], content["run"]["exit"], content["policy"]
    judged = {(result.about, result.task) for result in results}
    selected = {(about, task) for about, tasks in plan["selected"].items() for task in tasks}
    let_by = green(results, policy["correction"], policy["exit"], strict=plan["strict"])
    planned = sum(map(len, plan["planned"].values()))
    counts = {"planned": planned, "selected": len(selected), "judged": len(judged), "allowed": sum(let_by)}
    found = []
    if plan["counts"] != counts:
        found.append(f"the account of the plan is recorded as {plan['counts']} and comes out as {counts}")
    found += [f"{about} on {task}: judged, but never selected" for about, task in judged - selected]
    if code == 0 and not (all(let_by) and judged >= selected):
        found.append("exit code 0 is recorded, although not every selected case was judged and allowed")
    return found
