"""Measure a subject beside its reference and judge it: bytes, peak memory, decode speed.

Timings and peaks go through the same verdict machinery as every benchmark: repetitions are the items, paired between
subject and reference. Logarithms are compared, so that the interval is one of the ratio. A subject whose weights were
unpacked, or whose integers are simulated, never gets more than ``inconclusive`` for memory and speed: what ran is not
what would be deployed. Nothing measured is kept in the store: the next run measures again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, cast

from quantgate.core.cases import CaseKey
from quantgate.core.errors import ModelError
from quantgate.core.items import ItemOutcome
from quantgate.core.records import Result
from quantgate.efficiency.architecture import Architecture, read_architecture
from quantgate.efficiency.child import Job, run_job
from quantgate.efficiency.rows import Executed, memory_row, rates_of
from quantgate.efficiency.workload import WORKLOADS, Workload
from quantgate.models.tensors import stored_bytes
from quantgate.quantize.base import Method
from quantgate.runs.evaluation import Evaluation
from quantgate.subjects.served import check_measurable
from quantgate.subjects.spec import SubjectSpec, spec_of
from quantgate.subjects.subject import Subject
from quantgate.tasks.efficiency import EfficiencyTask
from quantgate.verdict.evidence import Evidence, conclude
from quantgate.verdict.recording import Told, build_result

GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What the user chose: workloads (the first is judged), repetitions of timings, fresh processes for memory."""

    workloads: tuple[Workload, ...] = (WORKLOADS["quick"],)
    repetitions: int = 7
    processes: int = 3


class Bench:
    """Measures each subject once a run, and the reference's memory once."""

    def __init__(self, evaluation: Evaluation, options: BenchOptions) -> None:
        self.evaluation, self.options = evaluation, options
        self._memory: dict[str, list[dict[str, Any]]] = {}
        self._speed: dict[str, dict[str, Any]] = {}
        self.evidence: dict[CaseKey, Evidence] = {}
        """What every verdict so far rests on."""

    def result(self, given: Method | SubjectSpec, task: EfficiencyTask) -> Result:
        """The record of a subject on ``task``; measures as far as this run has not yet.

        Raises:
            QuantgateError: the subject cannot be made, or a measuring process failed.
        """
        key, subject = spec_of(given).on(task.id), self.evaluation.subject(given)
        check_measurable(subject)
        rule = self.evaluation.rule(subject.method, task)
        exact = task.id == "weight_bytes"
        before, after = self._bytes(subject) if exact else self._repeated(subject, task)
        evidence = Evidence(
            rule=rule,
            reference=before,
            subject=after,
            problems=tuple(subject.problems()),
            identical_weights=subject.is_unquantized,
            counted=exact,
            reservation="" if exact else self._reservation(subject),
        )
        self.evidence[key] = evidence
        found = conclude(evidence)
        told = Told(
            task=task.id,
            dimension=task.dimension,
            protocol=task.protocol if exact else f"{task.protocol}; {self.options.workloads[0].name}",
            method=key.subject,
            calibration=key.calibration,
            model=key.model,
            data_source="measured",
            reference_from="files" if exact else "measured",
        )
        simulated = {} if exact or self._execution(subject)["packed"] else {"simulated": 1.0}
        return build_result(replace(found, companions=simulated), rule, told)

    def record(self, given: Method | SubjectSpec) -> dict[str, Any]:
        """What the report shows about a subject: rows of memory and speed, as far as they were measured."""
        subject = self.evaluation.subject(given)
        name = subject.name
        return {
            "method": name,
            "weights_bytes": {"reference": self.reference_bytes, "subject": _held(subject)},
            "memory": self._memory_rows(subject) if name in self._memory else None,
            "speed": self._executed(subject).speed_rows(self._speed[name]) if name in self._speed else None,
        }

    @property
    def reference_bytes(self) -> int:
        """Bytes of the reference's tensors on disk."""
        return stored_bytes(self.evaluation.model.path)

    @cached_property
    def shape(self) -> Architecture | None:
        """What the roofline needs; None for a model that it cannot describe (a note says why)."""
        model = self.evaluation.model
        try:
            return read_architecture(model.path, model.id)
        except ModelError as error:
            self.evaluation.progress.note(f"no roofline: {error}")
            return None

    # --- measuring --------------------------------------------------------------------------------------------------

    def _bytes(self, subject: Subject) -> tuple[tuple[ItemOutcome], tuple[ItemOutcome]]:
        before, after = self.reference_bytes / GIB, _held(subject) / GIB
        return (ItemOutcome("files", "", before),), (ItemOutcome("files", "", after),)

    def _repeated(
        self, subject: Subject, task: EfficiencyTask
    ) -> tuple[tuple[ItemOutcome, ...], tuple[ItemOutcome, ...]]:
        values = self._peaks(subject) if task.id == "peak_memory" else self._decode_rates(subject)
        before, after = (
            tuple(ItemOutcome(f"repetition {at}", "", math.log(value)) for at, value in enumerate(side))
            for side in values
        )
        return before, after

    def _peaks(self, subject: Subject) -> tuple[list[float], list[float]]:
        before, after = self._measured_memory(None), self._measured_memory(subject)
        return [_peak(each) for each in before], [_peak(each) for each in after]

    def _decode_rates(self, subject: Subject) -> tuple[list[float], list[float]]:
        run = self._measured_speed(subject)["runs"][0]
        before, after = ([rates["decode"] for rates in side] for side in rates_of(run))
        return before, after

    def _measured_memory(self, subject: Subject | None) -> list[dict[str, Any]]:
        name = subject.name if subject else ""
        if name not in self._memory:
            job = self._job("memory", [self._model(subject)])
            self._memory[name] = [self._run(job, f"memory of {name or 'the reference'}") for _ in self._processes()]
        return self._memory[name]

    def _measured_speed(self, subject: Subject) -> dict[str, Any]:
        name = subject.name
        if name not in self._speed:
            job = self._job("speed", [self._model(None), self._model(subject)])
            self._speed[name] = self._run(job, f"speed of {name} beside the reference")
        return self._speed[name]

    def _processes(self) -> range:
        return range(self.options.processes)

    def _job(self, kind: str, models: Sequence[tuple[str, str, bool]]) -> Job:
        options = self.evaluation.options
        return Job(
            kind,  # type: ignore[arg-type]  # one of the two literals above
            tuple(models),
            tuple((each.batch, each.prompt, each.new) for each in self.options.workloads),
            options.dtype,
            options.device,
            self.options.repetitions,
        )

    def _model(self, subject: Subject | None) -> tuple[str, str, bool]:
        if subject is None:
            return "the reference", str(self.evaluation.model.path), False
        return subject.name, str(subject.path), True

    def _run(self, job: Job, what: str) -> dict[str, Any]:
        self.evaluation.release()  # the machine's memory and cores belong to the measurement
        self.evaluation.progress.step(f"measuring {what}", 0, 1)
        with self.evaluation.store.computing(self.evaluation.options.shared):
            return run_job(job)

    def _execution(self, subject: Subject) -> Mapping[str, Any]:
        name = subject.name
        found = self._memory[name][0]["execution"] if name in self._memory else self._speed[name]["executions"][1]
        return cast(Mapping[str, Any], found)

    def _reservation(self, subject: Subject) -> str:
        """Why nothing can be claimed about a subject that did not run as it would be deployed."""
        execution = self._execution(subject)
        if execution["packed"]:
            return ""
        return f"{subject.name} ran {execution['name']} ({execution['why_not']}): that is not how it is deployed"

    # --- rows of the report -----------------------------------------------------------------------------------------

    def _executed(self, subject: Subject) -> Executed:
        return Executed(subject.name, subject.record, bool(self._execution(subject)["packed"]), self.shape)

    def _memory_rows(self, subject: Subject) -> list[dict[str, Any]]:
        reference = memory_row(self._memory[""], self.reference_bytes)
        row = memory_row(self._memory[subject.name], _held(subject))
        deployed = self._executed(subject).deployed(self.options.workloads[0])
        more = {} if deployed is None else {"deployed": deployed}
        called = self.evaluation.options.called
        return [{"name": f"{called}:16-bit".lstrip(":"), **reference}, {"name": subject.name, **row, **more}]


def _held(subject: Subject) -> int:
    """Bytes of the subject's tensors as whoever made it stores them."""
    return subject.held or stored_bytes(subject.path)


def _peak(found: Mapping[str, Any]) -> float:
    """GiB above the process without a model, at the highest moment of prefill and decode."""
    highest = max(float(found["peaks"][name]["allocated"]) for name in ("prefill", "decode"))
    return max((highest - float(found["base"])) / GIB, 1e-9)
