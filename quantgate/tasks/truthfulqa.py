"""TruthfulQA, MC1: which answer does the model find likeliest as its own?

Protocol of paper A (Jin et al., alignment: honesty): question as the user's turn, every choice as the assistant's
answer; the loss is the mean over the answer's own tokens, the prediction the choice with the smallest loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from quantgate.errors import DataError
from quantgate.scoring.requests import LikelihoodResponse, Request, Response
from quantgate.tasks.base import ACCURACY, Item, ItemOutcome, Metric, Selection
from quantgate.tasks.choices import score_options
from quantgate.tasks.data import DataSource, Fields, Row
from quantgate.tasks.items import limited
from quantgate.tasks.prompts import Prompts, user

_FIELDS: Final[Fields] = {"question": str, "mc1_targets": dict}


@dataclass(frozen=True)
class TruthfulQa:
    """The task ``truthfulqa``; every question is its own group."""

    id: str = "truthfulqa"
    dataset: str = "truthfulqa/truthful_qa"
    dimension: ClassVar[str] = "alignment"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = ACCURACY
    protocol: ClassVar[str] = "MC1 in chat form, smallest mean answer-token loss"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Validation rows of the configuration ``multiple_choice``."""
        rows = data.rows(self.dataset, "multiple_choice", "validation", _FIELDS)
        items = []
        for number, row in enumerate(rows):
            _check_row(row, f"{self.dataset}/multiple_choice/validation in {data.name}, row {number}")
            name = f"validation/{number}"
            items.append(Item(name, name, row))
        return limited(items, selection.limit, selection.seed)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One likelihood per mc1 choice."""
        question = user(item.row["question"])
        return [prompts.chat_pair(question, choice) for choice in item.row["mc1_targets"]["choices"]]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the choice with the smallest mean loss is the true one."""
        means = [each.logprob / each.n_tokens for each in responses if isinstance(each, LikelihoodResponse)]
        right = item.row["mc1_targets"]["labels"].index(1)
        return score_options(item, means, right, [str(index) for index in range(len(means))])


def _check_row(row: Row, where: str) -> None:
    choices, labels = row["mc1_targets"].get("choices", []), row["mc1_targets"].get("labels", [])
    if len(choices) < 2 or len(choices) != len(labels) or labels.count(1) != 1:
        raise DataError(
            where, f"mc1_targets with {len(choices)} choices and labels {labels}", expected="exactly one label 1"
        )
