"""BIG-Bench Hard with its chain-of-thought prompts (Suzgun et al. 2022): three worked examples, then the question.

27 tasks of words, logic and counting; a task is a configuration of ``lukaemon/bbh``, and its prompt a row of
``bbh/cot-prompts``, in the authors' words. The answer is what stands behind "the answer is", as in
lm-evaluation-harness (``bbh_cot_fewshot``); the model starting a question of its own ends it.

``bbh_direct`` shows the same three examples without their reasoning, ``bbh_zero_shot`` only says what the task is;
there the first line is the answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import EXACT_MATCH, Metric
from quantgate.core.requests import Generate, GenerateResponse, Request, Response
from quantgate.tasks.base import Selection, only
from quantgate.tasks.data import DataSource, Fields
from quantgate.tasks.extraction import stands_alone
from quantgate.tasks.items import limited, rows_of_split
from quantgate.tasks.prompts import Prompts

PROMPTS: Final = "bbh/cot-prompts"
_FIELDS: Final[Fields] = {"input": str, "target": str}
_PROMPT_FIELDS: Final[Fields] = {"task": str, "prompt": str}
_STOP: Final = ("</s>", "Q", "\n\n")
_LINE: Final = ("</s>", "\n")
# as lm-eval has it: what follows the words, without the last character of the line (a full stop)
_ANSWER: Final = re.compile(r"(?<=the answer is )(.*)(?=.)")


_NEXT: Final = re.compile(r"\n\n(?=Q: )")
_REASONED: Final = "\nA: Let's think step by step."


def without_reasoning(prompt: str) -> str:
    """The authors' prompt with the answers of its examples alone.

    Raises:
        ValueError: an example without reasoning to leave out, or without an answer behind it.
    """
    head, *examples = _NEXT.split(prompt.rstrip())
    found = [head]
    for example in examples:
        question, mark, reasoning = example.partition(_REASONED)
        if not mark or not answer_of(reasoning):
            raise ValueError(f"no reasoned answer in {example[:60]!r}")
        found.append(f"{question}\nA: {answer_of(reasoning)}")
    return "\n\n".join(found)


def answer_of(text: str) -> str:
    """What a chain of thought ends in; empty where it says no answer."""
    found = _ANSWER.search(text)
    return found.group(1).strip() if found else ""


@dataclass(frozen=True)
class Bbh:
    """The task ``bbh_cot``; every question is its own group, and averages are also given by task."""

    id: str = "bbh_cot"
    form: Literal["cot", "direct", "zero_shot"] = "cot"
    max_new_tokens: int = 512
    dataset: str = "lukaemon/bbh"
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = EXACT_MATCH

    @property
    def protocol(self) -> str:
        """How it is asked and scored."""
        if self.form != "cot":
            shown = (
                "the authors' prompt of 3 examples without reasoning" if self.form == "direct" else "the task's name"
            )
            return f"{shown} as text, greedy, at most {self.max_new_tokens} new tokens, the first line"
        return (
            f"the authors' chain-of-thought prompt of 3 examples as text, greedy, at most {self.max_new_tokens} new "
            "tokens, what stands behind 'the answer is'"
        )

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Test rows of every task that the data has."""
        texts = {row["task"]: row["prompt"] for row in data.rows(PROMPTS, "default", "train", _PROMPT_FIELDS)}
        items = []
        for config in data.configs(self.dataset):
            if config not in texts:
                where = f"{PROMPTS}/default/train in {data.name}"
                raise DataError(where, f"no prompt for {config}", expected="a row for every task of the data")
            for name, row in rows_of_split(data, self.dataset, config, "test", _FIELDS):
                items.append(Item(f"{config}/{name}", config, {**row, "prompt": texts[config]}))
        return limited(items, selection.limit, selection.seed)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy chain of thought."""
        row = item.row
        if self.form == "cot":
            asked = f"{row['prompt'].rstrip()}\n\nQ: {row['input']}{_REASONED}\n"
            return [Generate(prompts.encode(asked), self.max_new_tokens, _STOP)]
        try:
            shown = without_reasoning(row["prompt"])
        except ValueError as error:
            raise DataError(f"{PROMPTS}, {item.group}", str(error), expected="the authors' prompts") from error
        if self.form == "zero_shot":
            shown = _NEXT.split(shown)[0]
        return [Generate(prompts.encode(f"{shown}\n\nQ: {row['input']}\nA:"), self.max_new_tokens, _LINE)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the answer is the target, to the letter."""
        response = only(responses, GenerateResponse)
        target = item.row["target"].strip()
        answer = answer_of(response.text) if self.form == "cot" else response.text.strip().split("\n")[0].rstrip(". ")
        right = answer == target
        companions = {
            "capped": float(response.finish == "length"),
            "tokens": float(response.n_tokens),
            "not_final": float(not right and stands_alone(response.text, target)),
        }
        return ItemOutcome(item.id, item.group, float(right), answer, companions)

    def summary(self, outcomes: Sequence[ItemOutcome]) -> Mapping[str, float]:
        """The share of right answers by task, and the mean of those, as papers print it."""
        scores: dict[str, list[float]] = {}
        for outcome in outcomes:
            if outcome.score is not None:
                scores.setdefault(outcome.group, []).append(outcome.score)
        means = {f"exact_match_{name}": math.fsum(each) / len(each) for name, each in sorted(scores.items())}
        return means | ({"exact_match_average": math.fsum(means.values()) / len(means)} if means else {})

    def golds(self, item: Item) -> list[str]:
        """The target."""
        return [item.row["target"]]
