"""Benchmarks by free answer with the sampling that the model ships: paper A's protocol for all but MMLU and C-EVAL.

``sampled_NAME`` asks what NAME asks and scores it alike; only that answers are drawn, by the settings of the
reference's ``generation_config.json`` (temperature, top-k, top-p, repetition penalty) and ``--seed``. Reference and
subject draw with the same numbers. A model that ships no sampling has NAME for its protocol, and is refused here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.core.requests import Generate, Request, Response
from quantgate.tasks.base import Choosy, Guessable, Selection, Shortening, Summarized, Task
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts

_GREEDY: Final = "greedy"


@dataclass(frozen=True)
class _Like:
    """What is the same as of another task."""

    of: Task

    @property
    def dimension(self) -> str:
        """The task's."""
        return self.of.dimension

    @property
    def dataset(self) -> str:
        """The task's."""
        return str(getattr(self.of, "dataset", ""))

    @property
    def version(self) -> int:
        """The task's."""
        return self.of.version

    @property
    def metric(self) -> Metric:
        """The task's."""
        return self.of.metric

    @property
    def chance(self) -> float | None:
        """The task's."""
        found: float | None = getattr(self.of, "chance", None)
        return found


@dataclass(frozen=True)
class Sampled(_Like):
    """``of``, a task by free answer whose protocol says that it is greedy."""

    @property
    def id(self) -> str:
        """``sampled_`` before the name of the task."""
        return f"sampled_{self.of.id}"

    @property
    def protocol(self) -> str:
        """The task's, with how answers are drawn."""
        return self.of.protocol.replace(_GREEDY, "sampled as the model ships it")

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """The task's."""
        return self.of.items(data, selection, prompts)

    def as_asked(self, items: Sequence[Item], prompts: Prompts) -> str:
        """The settings."""
        return prompts.sampling(self.of.id).described

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """The task's, to be drawn."""
        how = prompts.sampling(self.of.id)
        return [
            replace(each, sampling=how) if isinstance(each, Generate) else each
            for each in self.of.requests(item, prompts)
        ]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """The task's."""
        return self.of.score(item, responses)

    def summary(self, outcomes: Sequence[ItemOutcome]) -> Mapping[str, float]:
        """The task's, if it has one."""
        return self.of.summary(outcomes) if isinstance(self.of, Summarized) else {}

    def golds(self, item: Item) -> Collection[str]:
        """The task's, if its answers can be said without a question."""
        return self.of.golds(item) if isinstance(self.of, Guessable) else ()

    def shortened(self, item: Item, prompts: Prompts) -> str:
        """The task's."""
        return self.of.shortened(item, prompts) if isinstance(self.of, Shortening) else ""

    def unscorable(self, item: Item) -> str:
        """The task's."""
        return self.of.unscorable(item) if isinstance(self.of, Choosy) else ""
