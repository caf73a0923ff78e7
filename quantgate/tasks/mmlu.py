"""MMLU by option likelihood: k examples, the question with lettered options, and the letter's likelihood.

Prompt and scoring as in Hendrycks et al. 2021 and lm-evaluation-harness: a line naming the subject, k examples from
the dev split, the question, ``Answer:``; the prediction is the most likely of `` A``, `` B``, `` C``, `` D``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from quantgate.errors import DataError
from quantgate.scoring.requests import LikelihoodResponse, Request, Response
from quantgate.tasks.base import ACCURACY, Item, ItemOutcome, Metric, Selection
from quantgate.tasks.data import DataSource, Fields
from quantgate.tasks.items import limited
from quantgate.tasks.prompts import Prompts

LETTERS: Final = "ABCD"
_FIELDS: Final[Fields] = {"question": str, "subject": str, "choices": list, "answer": int}


@dataclass(frozen=True)
class Mmlu:
    """The task ``mmlu``; groups (clusters) are the subjects."""

    id: str = "mmlu"
    dataset: str = "cais/mmlu"
    shots: int = 5
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = ACCURACY
    chance: ClassVar[float] = 0.25

    @property
    def protocol(self) -> str:
        """Option letters by likelihood behind k dev examples."""
        return f"{self.shots}-shot, likelihood of the option letter"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Test rows of all subjects, each with the first k dev rows of its subject."""
        wanted = self.shots if selection.num_fewshot is None else selection.num_fewshot
        items = []
        for subject in data.configs(self.dataset):
            shots = data.rows(self.dataset, subject, "dev", _FIELDS) if wanted else []
            if len(shots) < wanted:
                raise DataError(
                    f"{self.dataset}/{subject}/dev in {data.name}",
                    f"{len(shots)} rows",
                    expected=f"at least {wanted} for {wanted}-shot prompts",
                    hint="lower --num-fewshot",
                )
            for number, row in enumerate(data.rows(self.dataset, subject, "test", _FIELDS)):
                _check_row(row, f"{self.dataset}/{subject}/test in {data.name}, row {number}")
                items.append(Item(f"{subject}/test/{number}", subject, row, tuple(shots[:wanted])))
        return limited(items, selection.limit, selection.seed)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One likelihood per letter."""
        topic = item.group.replace("_", " ")
        head = f"The following are multiple choice questions (with answers) about {topic}.\n\n"
        shots = "".join(f"{_ask(shot)} {LETTERS[shot['answer']]}\n\n" for shot in item.shots)
        context = head + shots + _ask(item.row)
        return [prompts.pair(context, f" {letter}") for letter in LETTERS]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the right letter is the most likely one."""
        logprobs = [each.logprob for each in responses if isinstance(each, LikelihoodResponse)]
        return score_options(item, logprobs, int(item.row["answer"]), LETTERS)


def _ask(row: Mapping[str, Any]) -> str:
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True))
    return f"{row['question'].strip()}\n{options}\nAnswer:"


def _check_row(row: Mapping[str, Any], where: str) -> None:
    if len(row["choices"]) != len(LETTERS) or row["answer"] not in range(len(LETTERS)):
        raise DataError(
            where, f"{len(row['choices'])} choices, answer {row['answer']}", expected="4 choices, answer 0-3"
        )


def score_options(item: Item, logprobs: Sequence[float], right: int, names: Sequence[str]) -> ItemOutcome:
    """Outcome of a multiple-choice item: 1 when ``right`` is the likeliest; NaN likelihoods make it unscored.

    The companion ``prob_right`` is the probability of the right option among the options: it moves before the argmax
    does, so it needs fewer items to show a loss.
    """
    if not all(math.isfinite(value) for value in logprobs):
        return ItemOutcome(item.id, item.group, None, unscored="the model gave a likelihood that is not finite")
    best = max(range(len(logprobs)), key=lambda index: logprobs[index])
    total = math.fsum(math.exp(value - logprobs[best]) for value in logprobs)
    prob_right = math.exp(logprobs[right] - logprobs[best]) / total
    return ItemOutcome(item.id, item.group, float(best == right), names[best], {"prob_right": prob_right})
