"""Probability mass as a gate of its own: ``mass_NAME`` asks what the task NAME asks and scores how sure the answer is.

The score is the probability of the right option among the options, which moves with every weight, while an accuracy
moves when an answer flips. So it shows small damage with a fraction of the items, and is no proxy for an accuracy: it
does not see answers that flip between two options of nearly the same probability. That is part of every sentence.

The requests are NAME's own, so answers that the store has are not asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import PROB_RIGHT, Metric
from quantgate.core.requests import Request, Response
from quantgate.tasks.base import Placed, Selection
from quantgate.tasks.boss import BossLikelihood
from quantgate.tasks.data import DataSource
from quantgate.tasks.exams import ExamLikelihood
from quantgate.tasks.found import has_rows
from quantgate.tasks.multiple_choice import MultipleChoice
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.snli import SnliLikelihood
from quantgate.tasks.truthfulqa import TruthfulQa


@dataclass(frozen=True)
class Mass:
    """The probability mass of ``of``, a choice between options by likelihood (none that has no single right one)."""

    of: ExamLikelihood | MultipleChoice | SnliLikelihood | TruthfulQa | BossLikelihood
    metric: ClassVar[Metric] = PROB_RIGHT

    @property
    def id(self) -> str:
        """``mass_`` before the name of the task."""
        return f"mass_{self.of.id}"

    @property
    def dimension(self) -> str:
        """The task's."""
        return self.of.dimension

    @property
    def dataset(self) -> str:
        """The task's."""
        return self.of.dataset

    @property
    def place(self) -> tuple[str, str]:
        """The task's, where it is over one configuration; else all of its data set."""
        return self.of.place if isinstance(self.of, Placed) else (self.of.dataset, "")

    def has_rows(self, data: DataSource) -> bool:
        """Whether ``data`` has what the task asks."""
        return has_rows(self.of, data)

    @property
    def version(self) -> int:
        """The task's."""
        return self.of.version

    @property
    def protocol(self) -> str:
        """How the task asks, and what counts."""
        return f"{self.of.protocol}; probability of the right option among the options"

    @property
    def chance(self) -> float | None:
        """Where all options are equally likely; None where the policy's floor says it."""
        found: float | None = getattr(self.of, "chance", None)
        return found

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """The task's items."""
        return self.of.items(data, selection, prompts)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """The task's requests, literally."""
        return self.of.requests(item, prompts)

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """The probability of the right option, 0 to 1."""
        outcome = self.of.score(item, responses)
        return outcome if outcome.unscored else replace(outcome, score=outcome.companions[PROB_RIGHT.name])

    def golds(self, item: Item) -> list[str]:
        """The right option: who always says the same is that sure of it."""
        return self.of.golds(item)
