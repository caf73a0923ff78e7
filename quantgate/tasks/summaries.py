"""Summaries of news, CNN/DailyMail and XSum: one chat turn, scored by ROUGE through rouge-score.

Protocol of paper A (Jin et al.): the literal prompt; F-measures of ROUGE-1, ROUGE-2 and ROUGE-L with rouge-score's
defaults (no stemmer, ROUGE-L over the whole text). The task's value is the mean ROUGE-1; the others are companions. The
paper takes the middle of a bootstrap where this takes the mean: less than 0.001 apart for 66 and more documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final

from quantgate.core.errors import UsageError, translated
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.core.requests import Generate, GenerateResponse, Request, Response, Tokens
from quantgate.tasks.base import Selection, only
from quantgate.tasks.data import DataSource
from quantgate.tasks.items import items_of_split
from quantgate.tasks.prompts import Prompts

ROUGES: Final = ("rouge1", "rouge2", "rougeL")
_ASK: Final = "Please summarize the following document.\n"


@cache
def _scorer() -> Any:
    with translated(
        "the tasks cnn_dailymail and xsum",
        "their metric cannot be loaded",
        kind=UsageError,
        expected="rouge-score",
        hint="choose other --tasks",
    ):
        from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGES), use_stemmer=False)


def rouge(summary: str, reference: str) -> dict[str, float]:
    """F-measures by name, 0 to 1."""
    return {name: float(found.fmeasure) for name, found in _scorer().score(reference, summary).items()}


@dataclass(frozen=True)
class Summaries:
    """The tasks ``cnn_dailymail`` and ``xsum``; every document is its own group.

    ``text_field`` and ``summary_field`` name the fields of a row.
    """

    id: str
    dataset: str
    config: str
    text_field: str
    summary_field: str
    max_new_tokens: int = 256
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = Metric("rouge1", True, "mean", best=1.0, worst=0.0)

    @property
    def protocol(self) -> str:
        """How it is asked and scored."""
        return (
            f"zero-shot chat, greedy, at most {self.max_new_tokens} new tokens, documents cut to the model's context, "
            "ROUGE F-measure (rouge-score, no stemmer)"
        )

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Test rows."""
        fields = {self.text_field: str, self.summary_field: str}
        return items_of_split(data, self.dataset, self.config, "test", fields, selection)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy summary."""
        return [Generate(self._prompt(item, prompts)[0], self.max_new_tokens)]

    def shortened(self, item: Item, prompts: Prompts) -> str:
        """Whether the end of the document was cut."""
        return "document cut at its end" if self._prompt(item, prompts)[1] else ""

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """ROUGE-1 of the answer."""
        response = only(responses, GenerateResponse)
        found = rouge(response.text, item.row[self.summary_field])
        companions = {
            "capped": float(response.finish == "length"),
            "rouge2": found["rouge2"],
            "rougeL": found["rougeL"],
        }
        return ItemOutcome(item.id, item.group, found["rouge1"], response.text.strip(), companions)

    def golds(self, item: Item) -> list[str]:
        """The reference summary."""
        return [item.row[self.summary_field]]

    def _prompt(self, item: Item, prompts: Prompts) -> tuple[Tokens, bool]:
        return prompts.chat_cut(_ASK, item.row[self.text_field], room=self.max_new_tokens)
