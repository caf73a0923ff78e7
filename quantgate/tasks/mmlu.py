"""MMLU by option likelihood: k examples from the dev split, the question, and the likelihood of each option.

Two forms, both common in the field:

* ``mmlu`` (letter): prompt and scoring as in Hendrycks et al. 2021 and lm-evaluation-harness: a line naming the
  subject, the question with lettered options, ``Answer:``; the prediction is the likeliest of `` A`` to `` D``.
* ``mmlu_cloze`` (text): the options are not shown; the prediction is the option whose own text has the smallest mean
  token loss. Small models know facts long before they can bind letters to options: the bundled 135M model is at chance
  (27%) with letters and at 80% with texts on the same items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from quantgate.errors import DataError
from quantgate.scoring.requests import LikelihoodResponse, Request, Response
from quantgate.tasks.base import ACCURACY, Item, ItemOutcome, Metric, Selection
from quantgate.tasks.choices import score_options
from quantgate.tasks.data import DataSource, Fields
from quantgate.tasks.items import limited
from quantgate.tasks.prompts import Prompts

LETTERS: Final = "ABCD"
_FIELDS: Final[Fields] = {"question": str, "subject": str, "choices": list, "answer": int}


@dataclass(frozen=True)
class Mmlu:
    """The tasks ``mmlu`` and ``mmlu_cloze``; groups (clusters) are the subjects."""

    id: str = "mmlu"
    form: Literal["letter", "text"] = "letter"
    dataset: str = "cais/mmlu"
    shots: int = 5
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = ACCURACY
    chance: ClassVar[float] = 0.25

    @property
    def protocol(self) -> str:
        """What is scored behind k dev examples."""
        what = (
            "likelihood of the option letter" if self.form == "letter" else "mean token likelihood of the option text"
        )
        return f"{self.shots}-shot, {what}"

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
        """One likelihood per option."""
        topic = item.group.replace("_", " ")
        head = f"The following are multiple choice questions (with answers) about {topic}.\n\n"
        shots = "".join(f"{self._ask(shot)} {self._options(shot)[shot['answer']]}\n\n" for shot in item.shots)
        context = head + shots + self._ask(item.row)
        return [prompts.pair(context, f" {option}") for option in self._options(item.row)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the right option is the likeliest; texts of different lengths compare by their mean per token."""
        answers = [each for each in responses if isinstance(each, LikelihoodResponse)]
        logprobs = [each.logprob / (each.n_tokens if self.form == "text" else 1) for each in answers]
        return score_options(item, logprobs, int(item.row["answer"]), LETTERS)

    def _options(self, row: Mapping[str, Any]) -> Sequence[str]:
        return LETTERS if self.form == "letter" else row["choices"]

    def _ask(self, row: Mapping[str, Any]) -> str:
        question = row["question"].strip()
        if self.form == "text":
            return f"Question: {question}\nAnswer:"
        options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True))
        return f"{question}\n{options}\nAnswer:"


def _check_row(row: Mapping[str, Any], where: str) -> None:
    if len(row["choices"]) != len(LETTERS) or row["answer"] not in range(len(LETTERS)):
        raise DataError(
            where, f"{len(row['choices'])} choices, answer {row['answer']}", expected="4 choices, answer 0-3"
        )
