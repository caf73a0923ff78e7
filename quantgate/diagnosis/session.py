"""A diagnosis from start to end: the subject is made or opened, both models are loaded, taken apart and recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from quantgate.core.errors import MethodError, translated
from quantgate.core.progress import Progress
from quantgate.diagnosis.passes import Segment
from quantgate.diagnosis.profile import profiles
from quantgate.diagnosis.record import record_of
from quantgate.diagnosis.scan import Plan, Scanner
from quantgate.diagnosis.segments import segments_of
from quantgate.quantize.base import Method
from quantgate.runs.evaluation import Evaluation
from quantgate.subjects.spec import SubjectSpec
from quantgate.tasks.base import Task

TEXT: Final = "kld_prose"
"""Read where no task is named."""


@dataclass(frozen=True)
class Wish:
    """``length``: tokens of a segment; ``segments``: of a task, at most; ``dtype``: in which both models are run.
    float32: the rounding of 16-bit arithmetic is of the size of many units' effects."""

    plan: Plan = field(default_factory=Plan)
    length: int = 128
    dtype: str = "float32"
    segments: int | None = None


def diagnose(
    evaluation: Evaluation, subject: Method | SubjectSpec, tasks: Sequence[Task], wish: Wish, progress: Progress
) -> dict[str, Any]:
    """The record of ``subject`` taken apart on the items of ``tasks``.

    Raises:
        QuantgateError: it cannot be made or opened, or its modules cannot be exchanged with the reference's.
    """
    opened = evaluation.subject(subject)
    for problem in opened.problems():
        progress.note(f"{opened.name}: {problem}; a run calls it invalid")
    evaluation.release()
    device = evaluation.options.device
    with translated(
        "the diagnosis", "both models do not fit into memory", kind=MethodError, hint="use a larger machine"
    ):
        reference = evaluation.model.load(wish.dtype, device)
        theirs = opened.load(wish.dtype, device)
    segments: list[Segment] = []
    for task in tasks:
        asked = evaluation.asked(task)
        count = len(asked.items) if wish.segments is None else min(wish.segments, len(asked.items))
        segments += segments_of(task.id, asked.part(range(count)), wish.length, reference)
    scanner = Scanner(reference, theirs.requires_grad_(False), segments, opened.record.folds, opened.name, progress)
    scan = scanner.run(wish.plan)
    found = profiles(scanner.bench, scanner.donors, scan.anatomy.kinds)
    return record_of(scan, found, evaluation.questions.prompts.decode, _facts(evaluation, opened, tasks, wish))


def _facts(evaluation: Evaluation, opened: Any, tasks: Sequence[Task], wish: Wish) -> Mapping[str, Any]:
    return {
        "model": evaluation.model.id,
        "subject": opened.name,
        "weights": opened.digest_loaded,
        "problems": opened.problems(),
        "bits_effective": opened.record.bits_effective,
        "tasks": [task.id for task in tasks],
        "length": wish.length,
        "dtype": wish.dtype,
        "seed": wish.plan.seed,
        "probes": wish.plan.probes,
    }
