"""LAMBADA (OpenAI's version): the last word of a passage, which only the whole passage tells.

As in lm-evaluation-harness: the word is right when each of its tokens is the likeliest; ``lambada_perplexity`` is
exp of the mean loss per word, from the same answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACCURACY, PERPLEXITY, Metric
from quantgate.core.requests import LikelihoodResponse, Request, Response
from quantgate.tasks.base import Selection, only
from quantgate.tasks.choices import NOT_FINITE
from quantgate.tasks.data import DataSource, Fields, Row
from quantgate.tasks.items import first_shots, k_shot, limited
from quantgate.tasks.lessons import Lessons
from quantgate.tasks.prompts import Prompts

_FIELDS: Final[Fields] = {"text": str}


@dataclass(frozen=True)
class Lambada:
    """The tasks ``lambada`` and ``lambada_perplexity``; every passage is its own group."""

    id: str = "lambada"
    measure: Literal["acc", "ppl"] = "acc"
    shots: int = 0
    dataset: str = "EleutherAI/lambada_openai"
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1

    @property
    def metric(self) -> Metric:
        """Accuracy of the greedy word, or perplexity per word."""
        return ACCURACY if self.measure == "acc" else PERPLEXITY

    @property
    def protocol(self) -> str:
        """What is made of the last word's likelihood."""
        return f"{k_shot(self.shots)}, {'last word greedy' if self.measure == 'acc' else 'loss of the last word'}"

    def examples(self, data: DataSource) -> dict[str, tuple[Row, ...]]:
        """The first rows of ``train``."""
        return {"default": first_shots(data, self.dataset, "default", "train", _FIELDS, self.shots)}

    @property
    def lessons(self) -> Lessons:
        """Passages of ``train``."""
        return Lessons(
            self.dataset, ("default",), ("train",), _FIELDS, lambda _, row: str(row["text"]), "passages of novels"
        )

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Test passages with their examples."""
        [shots] = self.examples(data).values()
        items = []
        for number, row in enumerate(data.rows(self.dataset, "default", "test", _FIELDS)):
            if not all(part.strip() for part in row["text"].rpartition(" ")[::2]):
                where = f"{self.dataset}/default/test in {data.name}, row {number}"
                raise DataError(where, "text without a last word behind a blank", expected="a passage")
            name = f"test/{number}"
            items.append(Item(name, name, row, shots))
        return limited(items, selection.limit, selection.seed)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """The likelihood of the last word behind the rest."""
        context, _, word = item.row["text"].rpartition(" ")
        shots = "".join(f"{shot['text']}\n\n" for shot in item.shots)
        return [prompts.pair(shots + context, f" {word}")]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the word is the greedy one; or its loss in nats. The companion ``nll`` is the loss per token."""
        response = only(responses, LikelihoodResponse)
        if not math.isfinite(response.logprob):
            return ItemOutcome(item.id, item.group, None, unscored=NOT_FINITE)
        score = float(response.greedy) if self.measure == "acc" else -response.logprob
        answer = str(int(response.greedy))
        return ItemOutcome(item.id, item.group, score, answer, {"nll": -response.logprob / response.n_tokens})

    def golds(self, item: Item) -> list[str]:
        """The last word."""
        return [item.row["text"].rpartition(" ")[2]]
