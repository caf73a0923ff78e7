"""Whole answers that a judge compares or rates: AlpacaEval and MT-Bench.

* ``alpaca_eval``: one greedy answer to each of 805 instructions. A judge (``--judge``) is shown it beside the data's
  own output (text-davinci-003's) twice, in either order: 1 where ours is preferred both times, 0 where the other is,
  and a half where it depends on the order.
* ``mt_bench``: two turns, the second behind the model's own first answer; the temperature is the category's
  (FastChat's), drawn with ``--seed``. A judge rates each turn from 1 to 10, with the reference answer before it where
  the category has right answers; the score is the mean of both.

Without a judge the answers are there and have no score: ``quantgate report RUN --submit DIR`` writes them as
AlpacaEval's annotators and FastChat's judges read them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.core.requests import Generate, GenerateResponse, Request, Response, Sampling
from quantgate.tasks.base import Selection, only
from quantgate.tasks.data import DataSource, Fields, Row
from quantgate.tasks.items import items_of_split, limited, rows_of_split
from quantgate.tasks.judge_forms import LEAST, MOST, pair_prompt, rating_prompt, read_better, read_rating
from quantgate.tasks.llm_judge import Judge
from quantgate.tasks.prompts import Prompts, user

NO_JUDGE: Final = "nobody judged it: there is no --judge"
UNREADABLE: Final = "the judge's reply cannot be read"
NO_ROOM: Final = "behind its first answer the second question does not fit the model's context"

WIN_RATE: Final = Metric("win_rate", True, "mean", best=1.0, worst=0.0)
RATING: Final = Metric("rating", True, "mean", best=MOST, worst=LEAST)

_ALPACA: Final[Fields] = {"instruction": str, "output": str}
_QUESTION: Final[Fields] = {"prompt_id": int, "category": str, "prompt": list}
_ANSWERED: Final[Fields] = {"prompt_id": int, "reference": list}
_TURNS: Final = 2
ALPACA_EVAL: Final = "tatsu-lab/alpaca_eval"
MT_BENCH: Final = "HuggingFaceH4/mt_bench_prompts"
MT_BENCH_ANSWERS: Final = "mt_bench/gpt4-reference"
# FastChat's temperature_config, its temperature for all other categories, and those that have right answers.
TEMPERATURES: Final[Mapping[str, float]] = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
_OTHER_TEMPERATURE: Final = 0.7
_WITH_REFERENCE: Final = ("math", "reasoning", "coding")


@dataclass(frozen=True)
class AlpacaEval:
    """The task ``alpaca_eval``; every instruction is its own group."""

    id: str = "alpaca_eval"
    dataset: str = ALPACA_EVAL
    max_new_tokens: int = 512
    judge: Judge | None = field(default=None, repr=False)
    every_item: ClassVar[bool] = True
    dimension: ClassVar[str] = "alignment"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = WIN_RATE

    @property
    def protocol(self) -> str:
        """How it is asked, and who judges."""
        who = (
            f"preferred to the data's output by judge {self.judge.model}, in either order" if self.judge else "no judge"
        )
        return f"zero-shot chat, greedy, at most {self.max_new_tokens} new tokens, {who}"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Every instruction."""
        return items_of_split(data, self.dataset, "alpaca_eval", "eval", _ALPACA, selection)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One answer; the instruction is the user's turn."""
        return [Generate(prompts.chat(user(item.row["instruction"])), self.max_new_tokens)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1, a half or 0; the companion ``consistent``: the judge said the same in either order."""
        response = only(responses, GenerateResponse)
        text, facts = response.text.strip(), {"capped": float(response.finish == "length")}
        if self.judge is None:
            return ItemOutcome(item.id, item.group, None, text, facts, unscored=NO_JUDGE)
        question, other = item.row["instruction"], item.row["output"]
        ours_first = read_better(self.judge.reply(pair_prompt(question, text, other)))
        ours_last = read_better(self.judge.reply(pair_prompt(question, other, text)))
        if ours_first is None or ours_last is None:
            return ItemOutcome(item.id, item.group, None, text, facts, unscored=UNREADABLE)
        points = {"A": 1.0, "C": 0.5, "B": 0.0}
        score = (points[ours_first] + 1 - points[ours_last]) / 2
        facts["consistent"] = float(points[ours_first] == 1 - points[ours_last])
        return ItemOutcome(item.id, item.group, score if score in (0.0, 1.0) else 0.5, text, facts)


@dataclass(frozen=True)
class MtBench:
    """The task ``mt_bench``; every question is its own group, and ratings are also given by category and turn."""

    id: str = "mt_bench"
    dataset: str = MT_BENCH
    max_new_tokens: int = 1024
    judge: Judge | None = field(default=None, repr=False)
    every_item: ClassVar[bool] = True
    dimension: ClassVar[str] = "alignment"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = RATING

    @property
    def protocol(self) -> str:
        """How it is asked, and who judges."""
        who = f"rated from 1 to 10 by judge {self.judge.model}" if self.judge else "no judge"
        return (
            f"two chat turns, the second behind the first answer, temperature by category, at most "
            f"{self.max_new_tokens} new tokens a turn, {who}"
        )

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Every question, with its reference answers where there are any."""
        answers = {}
        if data.has(MT_BENCH_ANSWERS):
            for row in data.rows(MT_BENCH_ANSWERS, "default", "train", _ANSWERED):
                answers[row["prompt_id"]] = row["reference"]
        items = []
        for name, row in rows_of_split(data, self.dataset, "default", "train", _QUESTION, _check_turns):
            known: list[Any] = answers.get(row["prompt_id"]) or row.get("reference") or []
            items.append(Item(f"default/{name}", name, {**row, "reference": _texts(known)}))
        return limited(items, selection.limit, selection.seed)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """The first turn."""
        return [self._turn(item, prompts.chat(user(item.row["prompt"][0])), prompts)]

    def next_turn(self, item: Item, responses: Sequence[Response], prompts: Prompts) -> list[Request]:
        """The second turn, behind the first answer as the model gave it; nothing where that leaves no room."""
        first, second = item.row["prompt"]
        said = {"role": "assistant", "content": only(responses, GenerateResponse).text}
        prompt = prompts.chat([*user(first), said, *user(second)])
        return [self._turn(item, prompt, prompts)] if len(prompt) <= prompts.max_length else []

    def _turn(self, item: Item, prompt: tuple[int, ...], prompts: Prompts) -> Generate:
        temperature = TEMPERATURES.get(item.row["category"], _OTHER_TEMPERATURE)
        how = Sampling(temperature, seed=prompts.seed) if temperature else None
        return Generate(prompt, self.max_new_tokens, sampling=how)

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """Mean rating of both turns, which are companions."""
        given = [each for each in responses if isinstance(each, GenerateResponse)]
        texts = [each.text.strip() for each in given]
        said, facts = (
            json.dumps(texts, ensure_ascii=False),
            {"capped": sum(x.finish == "length" for x in given) / _TURNS},
        )
        if len(texts) < _TURNS:
            return ItemOutcome(item.id, item.group, None, said, facts, unscored=NO_ROOM)
        if self.judge is None:
            return ItemOutcome(item.id, item.group, None, said, facts, unscored=NO_JUDGE)
        questions, reference = item.row["prompt"], item.row["reference"]
        shown = reference if item.row["category"] in _WITH_REFERENCE and len(reference) == _TURNS else []
        ratings = [
            read_rating(self.judge.reply(rating_prompt(questions[:turn], texts[:turn], shown[:turn])))
            for turn in (1, 2)
        ]
        known = [each for each in ratings if each is not None]
        if len(known) < _TURNS:
            return ItemOutcome(item.id, item.group, None, said, facts, unscored=UNREADABLE)
        facts |= {"turn_1": known[0], "turn_2": known[1], _category(item): math.fsum(known) / _TURNS}
        return ItemOutcome(item.id, item.group, math.fsum(known) / _TURNS, said, facts)

    def summary(self, outcomes: Sequence[ItemOutcome]) -> Mapping[str, float]:
        """Mean rating by category and by turn."""
        found: dict[str, list[float]] = {}
        for outcome in outcomes:
            for name, value in outcome.companions.items() if outcome.score is not None else ():
                if name != "capped":
                    found.setdefault(name, []).append(value)
        return {name: math.fsum(values) / len(values) for name, values in sorted(found.items())}


def _category(item: Item) -> str:
    return f"rating_{item.row['category']}"


def _texts(values: Sequence[object]) -> list[str]:
    return [each for each in values if isinstance(each, str)]


def _check_turns(row: Row, where: str) -> None:
    if len(row["prompt"]) != _TURNS or not all(isinstance(each, str) and each.strip() for each in row["prompt"]):
        raise DataError(where, f"field 'prompt' holds {len(row['prompt'])} turns", expected="two questions as text")
