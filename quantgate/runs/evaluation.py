"""One evaluation: a reference, methods and tasks; gives one :class:`Result` per method and task.

This is what the pytest suite drives, and what Python users can drive themselves. It holds one model in memory at a time
and loads none when all answers are in the store. It only puts the parts together: what is asked (`questions`), of whom
(`scoring`), the reference's side (`reference`), the subjects (`subjects`), and one case at a time (`case`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantgate.core.cases import CaseKey
from quantgate.core.progress import Progress
from quantgate.core.records import Result
from quantgate.engines.protocol import EngineRow
from quantgate.models.ending import ignored_generation_settings
from quantgate.models.source import ModelFiles
from quantgate.quantize.base import Method
from quantgate.runs.asked import Asked
from quantgate.runs.case import Cases
from quantgate.runs.options import Options, Planned, Sources
from quantgate.runs.questions import Questions
from quantgate.runs.reference import Reference
from quantgate.runs.scoring import Scoring
from quantgate.runs.subjects import Subjects, record_of
from quantgate.store.store import Store
from quantgate.studies.steps import FORMS
from quantgate.subjects.spec import SubjectSpec, spec_of
from quantgate.subjects.subject import Subject
from quantgate.tasks.base import Task
from quantgate.tasks.efficiency import EfficiencyTask
from quantgate.verdict.evidence import Evidence
from quantgate.verdict.policy import Policy, Rule


class Evaluation:
    """See the module's docstring.

    Args:
        options: what the user chose.
        tasks: the planned tasks, so that the reference answers all of them while it is loaded; and what is planned
            to be judged on them, where that is known.
        sources: where benchmark rows come from.
        store: keeps models and answers; its progress is told about long steps.
        policy: the margins.
        baselines_root: directory of the baselines.
        engine: what answers; None: the engine that the options name.
    """

    def __init__(
        self,
        options: Options,
        tasks: Sequence[Task] | Planned,
        sources: Sources,
        store: Store,
        policy: Policy,
        baselines_root: Path,
        engine: EngineRow | None = None,
    ) -> None:
        self.options, self.store = options, store
        planned = tasks if isinstance(tasks, Planned) else Planned(tuple(tasks))
        self.questions = Questions(options, planned, sources, store)
        self.scoring = Scoring(self.questions, engine)
        self.questions.reference_answers = self.scoring.reference_answers
        self.reference = Reference(self.questions, self.scoring, baselines_root)
        self.subjects = Subjects(self.questions, self.scoring)
        self.cases = Cases(self.reference, self.subjects, policy)

    @property
    def model(self) -> ModelFiles:
        """The reference on disk."""
        return self.questions.model

    @property
    def progress(self) -> Progress:
        """Told about long steps."""
        return self.store.progress

    @property
    def evidence(self) -> Mapping[CaseKey, Evidence]:
        """What every verdict so far rests on."""
        return self.cases.evidence

    def asked(self, task: Task) -> Asked:
        """Items and requests of ``task``."""
        return self.questions.asked(task)

    def result(self, subject: Method | SubjectSpec, task: Task) -> Result:
        """The record of a subject on ``task``; see `Cases.result`."""
        return self.cases.result(spec_of(subject), task)

    def rule(self, method: Method, task: Task | EfficiencyTask) -> Rule:
        """What the policy says about ``method`` on ``task``."""
        return self.cases.rule(method, task)

    def subject(self, subject: Method | SubjectSpec) -> Subject:
        """The quantized model, from the store or made now."""
        return self.subjects.of(subject)

    def subject_record(self, subject: Method | SubjectSpec) -> dict[str, Any]:
        """What the report says about a subject."""
        spec = spec_of(subject)
        forms = self.options.forms
        return record_of(self.subject(spec)) | ({FORMS: list(forms)} if spec.method.id in forms else {})

    def model_record(self) -> dict[str, Any]:
        """What the report says about the reference."""
        prompts = self.questions.prompts_record()
        if ignored := ignored_generation_settings(self.model.path):
            prompts["greedy_in_spite_of"] = ignored
        from quantgate.checkpoints.record import bytes_on_disk

        options = self.options
        engine = getattr(self.model, "engine", None) or self.scoring.row
        record = self.model.as_record()
        if "served" not in record:  # whose weights lie elsewhere
            record["bytes_on_disk"] = bytes_on_disk(self.model.path)
        return {
            **record,
            "dtype": options.dtype,
            "device": options.device,
            "engine": engine.name,
            "prompts": prompts,
        }

    def update_baseline(self, task: Task) -> str:
        """Score the reference, write its baseline, and say what changed."""
        return self.reference.update_baseline(task)

    def release(self) -> None:
        """Let go of the loaded model; the next question loads one again."""
        self.scoring.release()
