"""GSM8K: grade-school word problems, answered freely in one chat turn, scored by a named extractor.

Paper A's repository holds two scorers that differ and does not say which one made its table, so both are here by
name, beside the usual last-number rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, Final

from quantgate.errors import DataError
from quantgate.scoring.requests import Generate, GenerateResponse, Request, Response
from quantgate.tasks.base import EXACT_MATCH, Item, ItemOutcome, Metric, Selection, only
from quantgate.tasks.data import DataSource, Fields
from quantgate.tasks.items import limited
from quantgate.tasks.prompts import Prompts, user

_FIELDS: Final[Fields] = {"question": str, "answer": str}
_NUMBER: Final = re.compile(r"(?<![\d.])-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?")
_TOLERANCE: Final = Decimal("1e-4")


def numbers(text: str) -> list[Decimal]:
    """All numbers in ``text``, thousands commas removed: ``1,234``, ``-5``, ``18.00``. A minus glued to a word or a
    digit (``7-5``) is a dash, not a sign.
    """
    found = []
    for match in _NUMBER.finditer(text):
        token = match.group()
        if token.startswith("-") and match.start() and (text[match.start() - 1].isalnum()):
            token = token[1:]
        found.append(Decimal(token.replace(",", "")))
    return found


def last_number(response: str, gold: str) -> tuple[str, bool]:
    """The last number of the response, equal to the gold one within 1e-4."""
    found = numbers(response)
    if not found:
        return "", False
    return str(found[-1]), abs(found[-1] - Decimal(gold)) <= _TOLERANCE


def any_number(response: str, gold: str) -> tuple[str, bool]:
    """Paper A's ``get_acc_new``: right when any number of the response is within 1e-4 of the gold one."""
    target = Decimal(gold)
    hits = [number for number in numbers(response) if abs(number - target) <= _TOLERANCE]
    return (str(hits[0]), True) if hits else last_number(response, gold)


def first_occurrence(response: str, gold: str) -> tuple[str, bool]:
    """Paper A's ``get_acc``: only the first place where the gold string occurs counts, and it must stand alone."""
    start = response.find(gold)
    if start < 0:
        return last_number(response, gold)[0], False
    before, after = response[:start][-1:], response[start + len(gold) :][:1]
    alone = all(not edge or not (edge.isalnum() or edge == "_") for edge in (before, after))
    return (gold, True) if alone else (last_number(response, gold)[0], False)


EXTRACTORS: Final[Mapping[str, Callable[[str, str], tuple[str, bool]]]] = {
    "last_number": last_number,
    "any_number": any_number,
    "first_occurrence": first_occurrence,
}


def gold_number(answer: str) -> str:
    """The number behind ``####``, commas removed. Raises ValueError when there is none."""
    _, mark, tail = answer.rpartition("####")
    gold = tail.strip().replace(",", "")
    if not mark or not re.fullmatch(r"-?\d+(\.\d+)?", gold):
        raise ValueError("no number behind ####")
    return gold


@dataclass(frozen=True)
class Gsm8k:
    """The task ``gsm8k`` and its variants by extractor; every problem is its own group."""

    id: str = "gsm8k"
    extractor: str = "last_number"
    max_new_tokens: int = 256
    dataset: str = "openai/gsm8k"
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = EXACT_MATCH

    @property
    def protocol(self) -> str:
        """Zero-shot chat, greedy, extractor by name."""
        return f"zero-shot chat, greedy, at most {self.max_new_tokens} new tokens, {self.extractor}"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Test rows of the configuration ``main``."""
        items = []
        for number, row in enumerate(data.rows(self.dataset, "main", "test", _FIELDS)):
            try:
                gold_number(row["answer"])
            except ValueError as error:
                where = f"{self.dataset}/main/test in {data.name}, row {number}"
                raise DataError(where, f"answer has {error}", expected="... #### 42") from error
            name = f"test/{number}"
            items.append(Item(name, name, row))
        return limited(items, selection.limit, selection.seed)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy answer to the bare question."""
        return [Generate(prompts.chat(user(item.row["question"])), self.max_new_tokens)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the extractor finds the gold number."""
        response = only(responses, GenerateResponse)
        answer, right = EXTRACTORS[self.extractor](response.text, gold_number(item.row["answer"]))
        capped = {"capped": float(response.finish == "length")}
        return ItemOutcome(item.id, item.group, float(right), answer, capped)
