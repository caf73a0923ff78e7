"""The whole run as one machine-readable record; everything shown is rendered from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.cases import CaseKey
from quantgate.core.records import Result
from quantgate.reports.accounting import Account
from quantgate.reports.payload import Payload
from quantgate.reports.report import Report, RunFacts
from quantgate.reports.reporters import drawn, rendered
from quantgate.studies.abilities import abilities_record
from quantgate.studies.between import between_record
from quantgate.studies.derived import derive
from quantgate.studies.shift_record import shift_record
from quantgate.studies.steps import steps_record
from quantgate.verdict.family import alone, alone_words, family_size, green
from quantgate.verdict.policy import Correction, FamilyExit
from quantgate.verdict.seal import EVIDENCE, EvidenceFile, finite, seal_of, text_digest

FINISHED: Final = "finished"
STOPPED: Final = "stopped"
EMPTY_RUN: Final = "empty"


class Run:
    """Collects the payloads of all cases, whichever worker they come from."""

    def __init__(self, account: Account | None = None) -> None:
        self.account = account or Account()
        self.id, self.started, self.finished = "", "", ""
        self.code: int | None = None
        self.results: list[Result] = []
        self.subjects: dict[str, Mapping[str, Any]] = {}
        self.models: dict[str, Mapping[str, Any]] = {}
        """16-bit models by their name within the run; the main one's is empty."""
        self.notes: list[str] = []
        self.efficiency: dict[str, Mapping[str, Any]] = {}
        self.policy: Mapping[str, Any] = {"correction": "holm", "exit": "confirmed"}
        self.evidence = EvidenceFile()
        self.phases: dict[str, float] = {}
        self.texts: dict[str, dict[str, str]] = {}
        """Task -> item -> what a report may quote of it."""
        self.diagnoses: list[Mapping[str, Any]] = []

    @classmethod
    def from_report(
        cls, content: Mapping[str, Any], results: Sequence[Result], cases: Mapping[CaseKey, Mapping[str, Any]]
    ) -> Run:
        """A run as report.json's ``content`` and its evidence tell it; ``results``: its records, drawn again."""
        strict, policy = content["plan"]["strict"], content["policy"]
        let_by = green(results, policy["correction"], policy["exit"], strict=strict)
        judged = dict(zip((result.key for result in results), let_by, strict=True))
        run = cls(Account.from_json(content["plan"], judged))
        run.id, run.started, run.finished = (content["run"][name] for name in ("id", "started", "finished"))
        run.code = content["run"]["exit"]
        run.results, run.notes = list(results), list(content["notes"])
        run.models = models_of(content)
        run.subjects = {named(each): each for each in content["subjects"]}
        run.efficiency = {each["method"]: each for each in content["efficiency"]}
        run.texts = {task: dict(each) for task, each in content["texts"].items()}
        run.diagnoses = list(content.get("diagnoses", []))
        run.policy, run.phases = policy, dict(content.get("phases", {}))
        for result in results:
            if result.key in cases:
                run.evidence.add(result, cases[result.key])
        return run

    def add(self, payload: Payload) -> None:
        """Take in one case. Of several attempts the last one counts, and a note tells of the others."""
        result = payload.result
        for at, earlier in enumerate(self.results):
            if earlier.key == result.key:
                del self.results[at]
                self.evidence.drop(result)
                self.notes.append(
                    f"{result.key} was judged again, and the last attempt counts; before: "
                    f"{earlier.verdict}: {earlier.reason}"
                )
                break
        self.results.append(result)
        if payload.subject:
            self.subjects[result.about] = payload.subject
        if payload.efficiency:
            self.efficiency[result.about] = _merged(self.efficiency.get(result.about, {}), payload.efficiency)
        if payload.texts:
            self.texts.setdefault(result.task, {}).update(payload.texts)
        for what, seconds in payload.phases.items():
            self.phases[what] = self.phases.get(what, 0.0) + seconds
        if payload.diagnosis:
            self.diagnoses.append(payload.diagnosis)
        if payload.model:
            self.models[result.model] = payload.model
        self.policy = payload.policy or self.policy
        if payload.evidence:
            self.evidence.add(result, payload.evidence)
        self.notes += [note for note in payload.notes if note not in self.notes]

    @property
    def model(self) -> Mapping[str, Any]:
        """The main model; of a run that came to others only, the first of them."""
        return self.models.get("") or next(iter(self.models.values()), {})

    @property
    def bits(self) -> dict[str, float]:
        """Nominal bits of a weight by method."""
        return {name: each["bits_nominal"] for name, each in self.subjects.items() if "bits_nominal" in each}

    @property
    def correction(self) -> Correction:
        """How the policy corrects for many cases."""
        found: Correction = self.policy["correction"]
        return found

    @property
    def exit_by(self) -> FamilyExit:
        """Which regressions turn the exit code red."""
        found: FamilyExit = self.policy["exit"]
        return found

    def settle(self) -> list[CaseKey]:
        """Let all cases together say which regressions the exit code counts. Returns the cases that turned red by it:
        those that their number alone did not confirm, and the other cases' regressions did.
        """
        turned = []
        let_by = green(self.results, self.correction, self.exit_by, strict=self.account.strict)
        for key, allowed in zip((result.key for result in self.results), let_by, strict=True):
            if self.account.judged.get(key) and not allowed:
                self.account.judged[key] = False
                turned.append(key)
        return turned

    def alone(self) -> dict[CaseKey, str]:
        """What is said beside each regression that the family does not confirm."""
        words = alone_words(family_size(self.results))
        found = zip(self.results, alone(self.results, self.correction), strict=True)
        return {result.key: words for result, single in found if single}

    @property
    def status(self) -> str:
        """How far the run came: ``finished``, ``stopped`` before its last case, or ``empty``."""
        if not self.account.judged:
            return EMPTY_RUN
        return STOPPED if self.account.unjudged else FINISHED

    def report(self, environment: Mapping[str, Any], status: str = "") -> Report:
        """What the run found so far, as everything shows it. ``status``: in place of the run's own."""
        models = {name: self.models[name] for name in sorted(self.models)}
        drawn_together = (
            shift_record(self.results, self.evidence.sides, self.subjects),
            steps_record(self.results, self.evidence.sides, self.subjects, self.evidence.of),
            abilities_record(self.results, self.evidence.sides, self.subjects),
            between_record(self.results, self.evidence.of, self.subjects, models),
        )
        return Report(
            RunFacts(self.id, self.started, self.finished, self.code, status or self.status),
            model=self.model,
            environment=environment,
            policy=self.policy,
            plan=self.account.as_json(),
            account=tuple(self.account.lines()),
            judged=tuple(self.results),
            alone=self.alone(),
            derived=derive(self.results, self.correction, self.account.expected(), self.bits),
            subjects=dict(self.subjects),
            efficiency=dict(self.efficiency),
            texts=self.texts,
            phases={what: round(seconds, 2) for what, seconds in self.phases.items()},
            notes=tuple(self.notes),
            evidence=self.evidence,
            studies=tuple(study for study in drawn_together if study),
            models=models,
            diagnoses=tuple(self.diagnoses),
        )


def models_of(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The 16-bit models of report.json by their name within the run; an older report has one."""
    listed = content.get("models") or ([{"name": "", **content["model"]}] if content["model"] else [])
    return {str(each["name"]): {key: value for key, value in each.items() if key != "name"} for each in listed}


def named(subject: Mapping[str, Any]) -> str:
    """A subject's name within the run, by its entry in report.json."""
    return str(subject.get("subject", subject["method"]))


def sealed(report: Report) -> dict[str, str]:
    """File name -> text of all that a run writes. report.json holds the digests of the other files, and the evidence
    that of report.json's content: a change in any of them shows. A seal has no key: who changes all of them and makes
    the seals anew is found out only where something follows from something else.
    """
    more, failed = rendered(reading.parse_object(dumps(report.as_json())))
    report = replace(report, notes=(*report.notes, *failed))
    own, failed = drawn(report)
    if failed:  # the files that can be drawn say which could not
        report = replace(report, notes=(*report.notes, *failed))
        own, _ = drawn(report)
    content = reading.parse_object(dumps(report.as_json()))
    texts = {**own, **more}
    content["files"] = {name: text_digest(text) for name, text in texts.items() if text}
    evidence = report.evidence.sealed(seal_of(content))
    content["evidence"] = {"file": EVIDENCE, "sha256": text_digest(evidence)}
    return {EVIDENCE: evidence, **texts, "report.json": dumps(content)}


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Both records; a part that was not measured yet does not erase one that was."""
    return {**old, **{name: value for name, value in new.items() if value is not None or name not in old}}


def dumps(content: Any) -> str:
    """Strict JSON: a number that is not finite becomes null, because JSON has no NaN."""
    return json.dumps(finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
