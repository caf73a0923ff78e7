"""Short answers of a few words, scored by whether the model would say them: ASDiv, WebQuestions; TriviaQA freely.

As in lm-evaluation-harness 0.4.13. ``asdiv`` and ``webqs`` ask for likelihoods: an answer is right when each of its
tokens is the likeliest, that is, when greedy decoding says it. ``triviaqa`` lets the model write, up to the end of the
line, a point or a comma, and compares without case and punctuation.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACCURACY, EXACT_MATCH, Metric
from quantgate.core.requests import Generate, GenerateResponse, LikelihoodResponse, Request, Response
from quantgate.tasks.base import Selection, only
from quantgate.tasks.choices import NOT_FINITE, log_likelihoods
from quantgate.tasks.data import DataSource, Fields, Row
from quantgate.tasks.items import first_shots, k_shot, limited, rows_of_split
from quantgate.tasks.lessons import Lessons
from quantgate.tasks.prompts import Prompts


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as text, and the answers that count. Raises ValueError when none does."""

    context: str
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.answers or not all(answer.strip() for answer in self.answers):
            raise ValueError(f"the answers {list(self.answers)!r}, expected at least one, none of them empty")


@dataclass(frozen=True, slots=True)
class Quiz:
    """Where a benchmark of short answers lies and how it is asked; ``read`` raises ValueError for an improper row."""

    dataset: str
    config: str
    split: str
    fields: Fields
    read: Callable[[Mapping[str, Any]], Asked]
    joint: str = " "  # before the answer that is scored
    group: str = ""  # the field that rows of one cluster share; without one each is its own


def texts_in(value: object) -> list[str]:
    """``value`` as a list of texts; ValueError for anything else: the letters of a text are no answers."""
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"answers {str(value)[:80]!r}, expected a list of texts")
    return [*value]


def asdiv(row: Mapping[str, Any]) -> Asked:
    """Body and question of a word problem; the number of its answer, ``8 (paintings)`` without the unit."""
    return Asked(f"{row['body']}\nQuestion:{row['question']}\nAnswer:", (row["answer"].split(" (")[0],))


def webqs(row: Mapping[str, Any]) -> Asked:
    """The question; of the accepted answers those that do not begin with another one, which greedy decoding ends at."""
    kept: list[str] = []
    for answer in sorted(texts_in(row["answers"])):
        if not kept or not answer.startswith(kept[-1]):
            kept.append(answer)
    return Asked(f"Question: {row['question']}\nAnswer:", tuple(kept))


def triviaqa(row: Mapping[str, Any]) -> Asked:
    """The question; all aliases of its answer."""
    return Asked(f"Question: {row['question']}?\nAnswer:", tuple(texts_in(row["answer"].get("aliases", ()))))


QUIZZES: Final[Mapping[str, Quiz]] = {
    "asdiv": Quiz(
        "EleutherAI/asdiv", "asdiv", "validation", {"body": str, "question": str, "answer": str}, asdiv, joint=""
    ),
    "webqs": Quiz("stanfordnlp/web_questions", "default", "test", {"question": str, "answers": list}, webqs),
    "triviaqa": Quiz(
        "mandarjoshi/trivia_qa", "unfiltered.nocontext", "validation", {"question": str, "answer": dict}, triviaqa
    ),
}


@dataclass(frozen=True)
class Short:
    """What all ways of asking share. ``shots``: solved rows of the train split in front."""

    id: str
    shots: int = 0
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1

    @property
    def quiz(self) -> Quiz:
        """Where it lies and how it is asked."""
        return QUIZZES[self.id]

    @property
    def dataset(self) -> str:
        """Hub id."""
        return self.quiz.dataset

    @property
    def place(self) -> tuple[str, str]:
        """Data set and configuration."""
        return self.quiz.dataset, self.quiz.config

    def has_rows(self, data: DataSource) -> bool:
        """Whether ``data`` has the split under test."""
        return data.has(*self.place, self.quiz.split)

    def examples(self, data: DataSource) -> dict[str, tuple[Row, ...]]:
        """The first rows of ``train``. Raises DataError when it has fewer."""
        quiz = self.quiz
        return {quiz.config: first_shots(data, quiz.dataset, quiz.config, "train", quiz.fields, self.shots)}

    @property
    def lessons(self) -> Lessons:
        """Rows of ``train``, each with its first accepted answer."""
        quiz = self.quiz
        return Lessons(
            quiz.dataset, (quiz.config,), ("train",), quiz.fields,
            lambda _, row: _solved(quiz.read(row)), f"{self.id} questions with their answers",
        )  # fmt: skip

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Rows of the split under test. Raises DataError for a row that is no question."""
        quiz, [shots] = self.quiz, self.examples(data).values()
        named = rows_of_split(data, quiz.dataset, quiz.config, quiz.split, quiz.fields, self._check)
        found = [Item(name, row[quiz.group] if quiz.group else name, row, shots) for name, row in named]
        return limited(found, selection.limit, selection.seed)

    def golds(self, item: Item) -> list[str]:
        """The answers that count."""
        return [*self.asked(item).answers]

    def asked(self, item: Item) -> Asked:
        """The item's question behind its examples."""
        asked = self.quiz.read(dict(item.row))
        shots = "".join(f"{_solved(self.quiz.read(dict(shot)))}\n\n" for shot in item.shots)
        return Asked(shots + asked.context, asked.answers)

    def _check(self, row: Row, where: str) -> None:
        try:
            self.quiz.read(row)
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            raise DataError(where, str(error), expected="a question with an answer") from error


def _solved(asked: Asked) -> str:
    return f"{asked.context} {asked.answers[0]}"


@dataclass(frozen=True)
class GreedyAnswer(Short):
    """``asdiv`` and ``webqs``: 1 when an accepted answer is what greedy decoding says."""

    @property
    def metric(self) -> Metric:
        """Accuracy."""
        return ACCURACY

    @property
    def protocol(self) -> str:
        """What counts."""
        return f"{k_shot(self.shots)}, an accepted answer is the greedy one"

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One likelihood per accepted answer."""
        asked = self.asked(item)
        return [prompts.pair(asked.context, self.quiz.joint + answer) for answer in asked.answers]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when an answer is greedy. The companion ``nll``: loss per token of the best accepted one, nats."""
        values = log_likelihoods(responses)
        if not all(math.isfinite(value) for value in values):
            return ItemOutcome(item.id, item.group, None, unscored=NOT_FINITE)
        answers = [each for each in responses if isinstance(each, LikelihoodResponse)]
        said = [str(number) for number, each in enumerate(answers) if each.greedy]
        loss = min(-each.logprob / each.n_tokens for each in answers)
        return ItemOutcome(item.id, item.group, float(bool(said)), said[0] if said else "", {"nll": loss})


_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_STOPS: Final = ("\n", ".", ",")
_MOST_TOKENS: Final = 64  # answers have a few words; a model that writes no stop is cut and counted so


@dataclass(frozen=True)
class TriviaQa(Short):
    """``triviaqa``: a free answer that must equal an alias, case and punctuation aside."""

    id: str = "triviaqa"

    @property
    def metric(self) -> Metric:
        """Exact match."""
        return EXACT_MATCH

    @property
    def protocol(self) -> str:
        """How the answer is read."""
        return f"{k_shot(self.shots)}, greedy to the first point, comma or line end, equal to an alias"

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One answer."""
        return [Generate(prompts.encode(self.asked(item).context), _MOST_TOKENS, _STOPS)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the answer is an alias."""
        response = only(responses, GenerateResponse)
        said = response.text.strip()
        right = {_bare(alias) for alias in self.asked(item).answers}
        capped = {"capped": float(response.finish == "length")}
        return ItemOutcome(item.id, item.group, float(_bare(said) in right), said, capped)


def _bare(text: str) -> str:
    return text.lower().translate(_PUNCTUATION)
