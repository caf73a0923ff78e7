"""A benchmark: items, what is asked about each, and what an answer scores. A real one reads rows of a data source."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACCURACY, Metric
from quantgate.core.requests import Likelihood, LikelihoodResponse, Request, Response
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts

OPTIONS = (" even", " odd")


@dataclass(frozen=True)
class Parity:
    """Is a number odd or even? The likelier word is the answer."""

    id: ClassVar[str] = "parity"
    dimension: ClassVar[str] = "knowledge"
    protocol: ClassVar[str] = "0-shot, the likelier of the words even and odd"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = ACCURACY
    chance: ClassVar[float] = 0.5

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """The numbers up to ``--limit``, each a group of its own."""
        return [Item(f"parity/test/{n}", str(n), {"number": n}) for n in range(selection.limit or 200)]

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One for each word."""
        context = prompts.encode(f"Some numbers are odd, some are even. The number {item.row['number']} is")
        return [Likelihood(context, prompts.encode(word)) for word in OPTIONS]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the right word is likelier."""
        even, odd = (each.logprob for each in responses if isinstance(each, LikelihoodResponse))
        answer = int(odd > even)
        return ItemOutcome(item.id, item.group, float(answer == item.row["number"] % 2), OPTIONS[answer].strip())


SURENESS = Metric("sureness", True, "bounded", best=1.0, worst=0.0)  # compared by this package's own comparator


class Sureness(Parity):
    """How sure is the right word: its share of the probability of both."""

    id: ClassVar[str] = "sureness"
    protocol: ClassVar[str] = "0-shot, the right word's share of the probability of even and odd"
    metric: ClassVar[Metric] = SURENESS

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """From 0 to 1."""
        even, odd = (each.logprob for each in responses if isinstance(each, LikelihoodResponse))
        right, wrong = (odd, even) if item.row["number"] % 2 else (even, odd)
        return ItemOutcome(item.id, item.group, 1 / (1 + math.exp(wrong - right)))


TASKS = [Parity(), Sureness()]
