"""The reference's side of every case: from a baseline, the store, or computed; and how far two of its runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from quantgate.core.errors import QuantgateError
from quantgate.core.items import ItemOutcome
from quantgate.core.remote import SpentError
from quantgate.engines.protocol import Kept, Weights
from quantgate.runs.asked import Asked
from quantgate.runs.questions import Questions
from quantgate.runs.scoring import AGAIN, Again, Ask, Scored, Scoring
from quantgate.store import baselines
from quantgate.tasks.base import Task
from quantgate.tasks.rolling import RollingTask
from quantgate.tasks.table import TASKS
from quantgate.verdict.noise import noise_floor
from quantgate.verdict.paired import compare
from quantgate.verdict.sequential import visiting_order

# The A/A run: how many items are asked again, in which order, and in how small batches.
NOISE_ITEMS: Final = 64
NOISE_SEGMENTS: Final = 8
NOISE_SEED: Final = 99
NOISE_BATCH: Final = 1024
NOISE_ALONE: Final = 8  # so many of them have no company at all
NOISE_CONFIDENCE: Final = 0.95


def is_distance(task: Task) -> bool:
    """Whether the task compares with the reference, whose own score is known by definition."""
    return isinstance(task, RollingTask) and task.measure != "ppl"


class Reference:
    """See the module's docstring. ``root``: the directory of baselines."""

    def __init__(self, questions: Questions, scoring: Scoring, root: Path) -> None:
        self.questions, self.scoring, self.root = questions, scoring, root
        self.progress = questions.store.progress
        self._scored: dict[str, Scored | QuantgateError] = {}

    def scored(self, task: Task) -> Scored:
        """The reference's outcomes. All planned tasks are answered at once, while the reference is open.

        Raises:
            QuantgateError: this task cannot be asked or scored; what is wrong with another is its own cases' matter.
        """
        if task.id not in self._scored:
            for name in baselines.unused(self.root, self.questions.model.id, TASKS):
                self.progress.note(f"baseline {name} of {self.questions.model.id} belongs to no task: delete it")
            for planned in self.questions.planned.tasks:
                self._scored[planned.id] = self._tried(planned)
        if isinstance(found := self._scored[task.id], QuantgateError):
            raise found
        return found

    def _tried(self, task: Task) -> Scored | QuantgateError:
        try:
            return self._found_or_computed(task)
        except QuantgateError as error:
            return error.with_traceback(None)  # whose frames would hold the model

    def _found_or_computed(self, task: Task) -> Scored:
        kept = self._distributions(task)
        stored = self._matching_baseline(task)
        if stored is None:
            return self.computed(task)
        for who in (self.questions.model.name, f"{self.questions.model.name}{AGAIN}"):
            self.progress.step(f"{who} on {task.id}", 1, 1)
        return Scored(list(stored.outcomes), "baseline", noise=stored.noise, kept=kept)

    def _distributions(self, task: Task) -> Kept | None:
        """Where those lie that a subject will be compared with; None for a task that compares none."""
        return self._asked_plainly(task).kept if isinstance(task, RollingTask) else None

    def _asked_plainly(self, task: Task) -> Scored:
        scored = self.scoring.score(Ask(task, self.questions.asked(task), self.questions.model))
        if scored.spent:  # a server: what was answered is kept, and nothing can be compared with half of it
            raise SpentError(self.questions.model.who, f"{scored.spent} before the reference was asked everything")
        return scored

    def computed(self, task: Task) -> Scored:
        """The reference's outcomes from the store or from a model run, whatever baselines say, and their noise."""
        asked = self.questions.asked(task)
        if is_distance(task):
            kept = self._distributions(task)
            own = by_definition(asked, task)
            return Scored(own, "definition", noise=self._noise(task, own, kept), kept=kept)
        scored = self._asked_plainly(task)
        kept = scored.kept if isinstance(task, RollingTask) else None
        return replace(scored, noise=self._noise(task, scored.outcomes, kept), kept=kept)

    def _noise(self, task: Task, outcomes: Sequence[ItemOutcome], kept: Kept | None) -> float:
        return self.noise_of(self.questions.model, task, outcomes, kept)

    def noise_of(
        self, weights: Weights, task: Task, outcomes: Sequence[ItemOutcome], kept: Kept | None = None
    ) -> float:
        """The noise floor: a model is asked again, a few items alone and the others among others, and should give the
        same answers.

        Args:
            weights: the reference, or a server, which has a noise of its own.
            task: what it was asked.
            outcomes: of all its items, in their order.
            kept: where the reference's distributions lie, for a distance from it.
        """
        asked = self.questions.asked(task)
        rolling = isinstance(task, RollingTask)
        count = min(len(asked.items), NOISE_SEGMENTS if rolling else NOISE_ITEMS)
        # segments keep their places, by which the kept log-probabilities are found
        order = list(range(count)) if rolling else visiting_order(len(asked.items), NOISE_SEED)[:count]
        once_more = Ask(task, asked.part(order), weights, kept, Again(NOISE_BATCH, NOISE_ALONE))
        again = self.scoring.score(once_more).outcomes
        comparison = compare([outcomes[index] for index in order], again, task.metric, NOISE_CONFIDENCE)
        # a distance cannot cancel out over more items, a difference can
        return noise_floor(comparison, of_items=0 if is_distance(task) else len(asked.items))

    # --- baselines --------------------------------------------------------------------------------------------------

    def provenance(self, task: Task) -> dict[str, Any]:
        """Everything that must agree before a stored reference outcome may stand in for a model run."""
        model = self.questions.model
        return {
            "model": model.id,
            "weights": model.digest.weights,
            "config": model.digest.config,
            "tokenizer": model.digest.tokenizer,
            "task": task.id,
            "protocol": task.protocol,  # what the items settle is in the digests of requests and data
            "task_version": task.version,
            "requests": self.questions.asked(task).digest,
            "data": self.questions.data_digest(task),
            "engine": self.scoring.identity,
        }

    def _matching_baseline(self, task: Task) -> baselines.Baseline | None:
        name = self.questions.model.id
        path = baselines.path_of(self.root, name, task.id)
        stored = baselines.read(path)
        if stored is None:
            if not is_distance(task):  # there nothing is missing: the reference's distance from itself is 0
                self.progress.note(f"no baseline of {task.id} for {name}: the reference is scored now")
            return None
        if differing := baselines.differences(stored.provenance, self.provenance(task)):
            self.progress.note(
                f"the baseline of {task.id} for {name} differs in {', '.join(differing)}: the reference is scored now"
            )
            return None
        if is_distance(task):
            baselines.check_own(stored, path, own_score(task))
        return stored

    def update_baseline(self, task: Task) -> str:
        """Score the reference, write its baseline, and say what changed."""
        path = baselines.path_of(self.root, self.questions.model.id, task.id)
        scored = self.computed(task)
        old = baselines.read(path)
        baselines.write(path, baselines.Baseline(self.provenance(task), tuple(scored.outcomes), scored.noise))
        change = baselines.describe_change(old.outcomes if old else (), scored.outcomes)
        fields = baselines.differences(old.provenance, self.provenance(task)) if old else []
        return f"baseline of {task.id} written: {change}" + (f"; changed: {', '.join(fields)}" if fields else "")


def own_score(task: Task) -> float:
    """What a model scores that is compared with itself: no distance, or all that can be the same."""
    return task.metric.best or 0.0


def by_definition(asked: Asked, task: Task) -> list[ItemOutcome]:
    """What every item that is asked scores where a model is compared with itself: no distance, all tokens the same."""
    own = own_score(task)
    return [
        ItemOutcome(item.id, item.group, None, unscored=asked.unasked[item.id])
        if item.id in asked.unasked
        else ItemOutcome(item.id, item.group, own)
        for item in asked.items
    ]
