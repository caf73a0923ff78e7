"""SNLI: does the premise imply the hypothesis? Asked in one chat turn for yes, no or maybe.

Three ways to score, the first two from the same answers:

* ``snli``: paper A's rule (Jin et al.). In the lower-cased answer, the first place where the gold word occurs must
  stand between whitespace, punctuation or the ends. So "not ... no" misses (``no`` first occurs inside ``not``), and an
  answer that names several labels is right for each of them.
* ``snli_strict``: the answer must name exactly one of the three words, as a whole word, and it must be the gold one.
* ``snli_likelihood``: which of ``Yes``, ``Maybe`` and ``No`` is the likeliest answer (mean over its tokens).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACCURACY, Metric
from quantgate.core.requests import Generate, GenerateResponse, Request, Response
from quantgate.tasks.base import Selection, only
from quantgate.tasks.choices import mean_token_likelihoods, score_options
from quantgate.tasks.data import DataSource, Fields, Row
from quantgate.tasks.extraction import stands_alone
from quantgate.tasks.items import limited, rows_of_split
from quantgate.tasks.lessons import Lessons
from quantgate.tasks.prompts import Prompts, user

WORDS: Final = ("yes", "maybe", "no")  # by label: entailment, neutral, contradiction
_FIELDS: Final[Fields] = {"premise": str, "hypothesis": str, "label": int}


def first_occurrence(answer: str) -> list[str]:
    """Paper A's rule: every word whose first occurrence stands alone; the answer is right for each of them."""
    text = answer.lower()
    return [word for word in WORDS if stands_alone(text, word)]


def one_label(answer: str) -> list[str]:
    """The strict rule: the one word that is named, however often; empty when none or several are."""
    named = set(re.findall(rf"\b(?:{'|'.join(WORDS)})\b", answer.lower()))
    return list(named) if len(named) == 1 else []


RULES: Final[Mapping[str, Callable[[str], list[str]]]] = {"first_occurrence": first_occurrence, "one_label": one_label}


def _ask(row: Mapping[str, Any]) -> str:
    return f'{row["premise"]}\n\nQuestion: Does this imply that "{row["hypothesis"]}"? Yes, no, or maybe?'


def _pairs(data: DataSource, dataset: str, selection: Selection) -> list[Item]:
    """Test rows with a gold label, grouped by premise: its three hypotheses are not independent."""
    groups: dict[str, str] = {}
    items = []
    for name, row in rows_of_split(data, dataset, "plain_text", "test", _FIELDS, _check_row):
        if row["label"] >= 0:
            items.append(Item(name, groups.setdefault(row["premise"], f"premise/{len(groups)}"), row))
    return limited(items, selection.limit, selection.seed)


def _check_row(row: Row, where: str) -> None:
    if row["label"] not in (-1, 0, 1, 2):
        raise DataError(where, f"field 'label' is {row['label']}", expected="0, 1, 2, or -1 for no gold label")


@dataclass(frozen=True)
class Snli:
    """The tasks ``snli`` and ``snli_strict``: a free answer and a rule."""

    id: str = "snli"
    rule: str = "first_occurrence"
    max_new_tokens: int = 64
    dataset: str = "stanfordnlp/snli"
    dimension: ClassVar[str] = "knowledge"
    metric: ClassVar[Metric] = ACCURACY

    @property
    def version(self) -> int:
        """Paper A's rule now takes Unicode punctuation for an edge, as its code does."""
        return 2 if self.rule == "first_occurrence" else 1

    @property
    def protocol(self) -> str:
        """How it is asked, and the rule by name."""
        return f"zero-shot chat, greedy, at most {self.max_new_tokens} new tokens, {self.rule}"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Test rows with a gold label."""
        return _pairs(data, self.dataset, selection)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy answer."""
        return [Generate(prompts.chat(user(_ask(item.row))), self.max_new_tokens)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the rule finds the gold word; an answer without any word is wrong."""
        response = only(responses, GenerateResponse)
        found = RULES[self.rule](response.text)
        right = WORDS[item.row["label"]] in found
        capped = {"capped": float(response.finish == "length")}
        return ItemOutcome(item.id, item.group, float(right), "+".join(found), capped)

    def golds(self, item: Item) -> list[str]:
        """The word that is right."""
        return [WORDS[item.row["label"]]]


@dataclass(frozen=True)
class SnliLikelihood:
    """The task ``snli_likelihood``: the likeliest of three answers."""

    id: str = "snli_likelihood"
    dataset: str = "stanfordnlp/snli"
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 2  # a tie is nobody's choice
    metric: ClassVar[Metric] = ACCURACY
    chance: ClassVar[float] = 1 / 3
    protocol: ClassVar[str] = "zero-shot chat, mean token likelihood of Yes, Maybe and No as the answer"

    @property
    def lessons(self) -> Lessons:
        """Rows of ``train`` or ``validation`` with the right word."""
        return Lessons(
            self.dataset, ("plain_text",), ("train", "validation"), _FIELDS,
            lambda _, row: f"{_ask(row)} {WORDS[row['label']].capitalize() if row['label'] >= 0 else ''}".rstrip(),
            "premises and hypotheses with their label",
        )  # fmt: skip

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Test rows with a gold label."""
        return _pairs(data, self.dataset, selection)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One likelihood per word."""
        question = user(_ask(item.row))
        return [prompts.chat_pair(question, word.capitalize()) for word in WORDS]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the gold word is the likeliest."""
        return score_options(item, mean_token_likelihoods(responses), item.row["label"], WORDS)

    def golds(self, item: Item) -> list[str]:
        """The word that is right."""
        return [WORDS[item.row["label"]]]
