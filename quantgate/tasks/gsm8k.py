"""GSM8K: grade-school word problems, answered freely, scored by a named extractor.

Paper A asks the bare question in a chat turn. Its repository holds two scorers that differ and does not say which one
made its table, so both are here by name, beside the usual last-number rule. ``gsm8k_cot`` is the field's few-shot form
(Wei et al. 2022; the text form of lm-evaluation-harness): eight problems of the train split with their worked
solutions, then the question; the answer ends where the model starts a problem of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar, Final

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import EXACT_MATCH, Metric
from quantgate.core.requests import Generate, GenerateResponse, Request, Response
from quantgate.tasks.base import Selection, only
from quantgate.tasks.data import DataSource, Fields, Row
from quantgate.tasks.extraction import stands_alone
from quantgate.tasks.items import first_shots, items_of_split, k_shot
from quantgate.tasks.lessons import Lessons
from quantgate.tasks.prompts import Prompts, user

_FIELDS: Final[Fields] = {"question": str, "answer": str}
_NUMBER: Final = re.compile(r"(?<![\d.])-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?(?<![\w.])\.\d+|-?\d+(?:\.\d+)?")
# Paper A's: any sign, digits with or without proper thousands commas, a point with or without digits around it. The
# first digit must be an ASCII one; those behind it need not be, and Python reads them as numbers as well.
_PAPER_NUMBER: Final = re.compile(r"[+-]?(?=\.?[0-9])(?:[1-9]\d{0,2}(?:,\d{3})*|\d*)(?:\.\d*)?(?=\D|$)")
_TOLERANCE: Final = 1e-4
_STOP: Final = ("Question:",)


def numbers(text: str) -> list[Decimal]:
    """All numbers in ``text``, thousands commas removed: ``1,234``, ``-5``, ``18.00``, ``.5``. A minus glued to a word
    or a digit (``7-5``) is a dash, not a sign, and a point behind a word or another point is no decimal point. Digits
    of other scripts, such as full-width ones, count.
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
    return str(found[-1]), abs(found[-1] - Decimal(gold)) <= Decimal(str(_TOLERANCE))


def any_number(response: str, gold: str) -> tuple[str, bool]:
    """Paper A's ``get_acc_new``: right when any number of the response is within 1e-4 of the gold one, as floats.

    A sign in front of a digit always counts: ``7-5`` holds 7 and -5, so that ``20-18`` does not hold 18. Numbers of
    full-width digits are none. The answer, for flips, is the number that is right, else the last one.
    """
    found = [match.group().replace(",", "") for match in _PAPER_NUMBER.finditer(response)]
    hits = [token for token in found if math.isclose(float(token), float(gold), rel_tol=0, abs_tol=_TOLERANCE)]
    return (hits or found[-1:] or [""])[0], bool(hits)


def first_occurrence(response: str, gold: str) -> tuple[str, bool]:
    """Paper A's ``get_acc``: only the first place where the gold string occurs counts, and it must stand alone."""
    return (gold, True) if stands_alone(response, gold) else (last_number(response, gold)[0], False)


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


def _check_row(row: Row, where: str) -> None:
    try:
        gold_number(row["answer"])
    except ValueError as error:
        raise DataError(where, f"field 'answer' has {error}", expected="... #### 42") from error


def _ask(row: Mapping[str, Any]) -> str:
    return f"Question: {row['question']}\nAnswer:"


@dataclass(frozen=True)
class Gsm8k:
    """The task ``gsm8k``, its variants by extractor, and ``gsm8k_cot``; every problem is its own group.

    ``shots``: None asks in a chat turn without examples; a number asks behind that many train problems as plain text.
    ``worked``: whether these show how they are solved, or the number alone.
    """

    id: str = "gsm8k"
    extractor: str = "last_number"
    max_new_tokens: int = 256
    shots: int | None = None
    worked: bool = True
    dataset: str = "openai/gsm8k"
    dimension: ClassVar[str] = "knowledge"
    metric: ClassVar[Metric] = EXACT_MATCH

    @property
    def version(self) -> int:
        """``.5`` is a half for the last number; paper A's scorers go by its code to the letter."""
        return 2 if self.extractor == "last_number" else 3

    @property
    def protocol(self) -> str:
        """Zero-shot chat or few-shot text, greedy, extractor by name."""
        how = "chain of thought" if self.worked else "answers alone"
        form = "zero-shot chat" if self.shots is None else f"{k_shot(self.shots)} {how}"
        return f"{form}, greedy, at most {self.max_new_tokens} new tokens, {self.extractor}"

    def examples(self, data: DataSource) -> dict[str, tuple[Row, ...]]:
        """The first rows of ``train``."""
        return {"main": first_shots(data, self.dataset, "main", "train", _FIELDS, self.shots or 0)}

    @property
    def lessons(self) -> Lessons:
        """Rows of ``train`` with their worked solutions."""
        return Lessons(
            self.dataset, ("main",), ("train",), _FIELDS,
            lambda _, row: f"{_ask(row)} {row['answer']}", "word problems with their solutions",
        )  # fmt: skip

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Test rows of the configuration ``main`` with their examples."""
        [shots] = self.examples(data).values()
        items = items_of_split(data, self.dataset, "main", "test", _FIELDS, selection, _check_row)
        return [replace(item, shots=shots) for item in items]

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy answer to the question."""
        if self.shots is None:
            return [Generate(prompts.chat(user(item.row["question"])), self.max_new_tokens)]
        solved = "".join(f"{_ask(shot)} {self._shown(shot)}\n\n" for shot in item.shots)
        return [Generate(prompts.encode(solved + _ask(item.row)), self.max_new_tokens, _STOP)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the extractor finds the gold number."""
        response = only(responses, GenerateResponse)
        answer, right = EXTRACTORS[self.extractor](response.text, gold_number(item.row["answer"]))
        gold = gold_number(item.row["answer"])
        companions = {
            "capped": float(response.finish == "length"),
            "tokens": float(response.n_tokens),
            "not_final": float(not right and any_number(response.text, gold)[1]),
        }
        return ItemOutcome(item.id, item.group, float(right), answer, companions)

    def _shown(self, shot: Mapping[str, Any]) -> str:
        return str(shot["answer"]) if self.worked else gold_number(shot["answer"])

    def golds(self, item: Item) -> list[str]:
        """The number that is right."""
        return [gold_number(item.row["answer"])]
