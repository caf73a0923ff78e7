"""Exams in four options by subject: MMLU, C-Eval and CMMLU, by option likelihood and by free answer.

Likelihood, behind k examples from the dev split of the subject:

* letter (``mmlu``, ``ceval``, ``cmmlu``): a line naming the subject, the question with lettered options, a cue; the
  prediction is the likeliest of `` A`` to `` D``. Prompts as in Hendrycks et al. 2021 and lm-evaluation-harness 0.4.13.
* text (``mmlu_cloze``): the options are not shown; the prediction is the option whose own text has the smallest mean
  token loss. Small models know facts long before they can bind letters to options: the bundled 135M model is at chance
  (27%) with letters and at 80% with texts on the same items.

Free answer (``mmlu_generate``, ``ceval_generate``): paper A's protocol. One chat turn with the question and its
options, no examples; a cascade of rules (:mod:`quantgate.tasks.extraction`) reads the letter out of the answer.

Groups (clusters) are the subjects. Records also hold the averages that papers print: over subjects, over groups of
subjects and, for C-Eval, over its hard ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACCURACY, Metric
from quantgate.core.requests import Generate, GenerateResponse, Request, Response
from quantgate.tasks.base import Selection, only
from quantgate.tasks.choices import log_likelihoods, mean_token_likelihoods, score_options
from quantgate.tasks.data import DataSource, Fields, Row
from quantgate.tasks.exam_subjects import CEVAL_HARD, CEVAL_NAMES, CMMLU_CHINA, CMMLU_NAMES, MMLU_GROUPS
from quantgate.tasks.extraction import LETTERS, SIMILAR, chinese_choice, english_choice
from quantgate.tasks.items import first_shots, k_shot, limited
from quantgate.tasks.lessons import Lessons
from quantgate.tasks.prompts import Prompts, user


@dataclass(frozen=True, slots=True)
class Exam:
    """How a benchmark spells its rows and words its prompts.

    ``split``: the labelled split that is scored (C-Eval keeps the answers of its test split to itself). ``question``,
    ``answer``: field names. ``head``: the line that opens a few-shot prompt for a subject; ``cue``: what asks for the
    letter. ``chat``: what stands before the question in the free form, and between question and options. ``extract``:
    the cascade. ``groups``: names of averages, and the subjects each is over; ``by_subject``: averages are means of
    subject accuracies, else of questions.
    """

    dataset: str
    split: str
    question: str
    answer: str
    fields: Fields
    head: Callable[[str], str]
    cue: str
    chat: tuple[str, str]
    extract: Callable[[str, str, Sequence[str]], tuple[str, int]]
    groups: Mapping[str, Collection[str]]
    by_subject: bool = True
    language: str = "Chinese"

    def choices(self, row: Mapping[str, Any]) -> list[str]:
        """The option texts."""
        return list(row["choices"]) if "choices" in self.fields else [row[letter] for letter in LETTERS]

    def right(self, row: Mapping[str, Any]) -> int:
        """Index of the right option; -1 when the row names none."""
        answer = row[self.answer]
        names: Sequence[Any] = range(len(LETTERS)) if self.fields[self.answer] is int else list(LETTERS)
        return names.index(answer) if answer in names else -1

    def check(self, row: Row, where: str) -> None:
        """Raise DataError when the row is not a question with four options, one of them right."""
        if len(self.choices(row)) != len(LETTERS) or self.right(row) < 0:
            wanted = "answer 0-3" if self.fields[self.answer] is int else "answer A-D"
            found = f"{len(self.choices(row))} choices, {self.answer.lower()} {row[self.answer]!r}"
            raise DataError(where, found, expected=f"4 choices, {wanted}")

    def subjects(self, data: DataSource, group: str = "") -> list[str]:
        """The subjects ``data`` has, of one group or of all. Raises DataError when it has none of the group."""
        found = [each for each in data.configs(self.dataset) if not group or each in self.groups[group]]
        if not found:
            raise DataError(
                f"data {data.name!r}", f"no subject of {self.dataset} that belongs to {group}",
                expected=", ".join(sorted(self.groups[group])[:3]) + ", ...", hint="choose other --tasks or --data",
            )  # fmt: skip
        return found

    def examples(self, data: DataSource, shots: int, group: str = "") -> dict[str, tuple[Row, ...]]:
        """The first ``shots`` dev rows of every subject."""
        subjects = self.subjects(data, group)
        return {each: first_shots(data, self.dataset, each, "dev", self.fields, shots) for each in subjects}

    def items(self, data: DataSource, selection: Selection, shots: int, group: str = "") -> list[Item]:
        """Rows of all subjects (of a group), each with the first ``shots`` dev rows of its subject."""
        items = []
        for subject, examples in self.examples(data, shots, group).items():
            for number, row in enumerate(data.rows(self.dataset, subject, self.split, self.fields)):
                self.check(row, f"{self.dataset}/{subject}/{self.split} in {data.name}, row {number}")
                items.append(Item(f"{subject}/{self.split}/{number}", subject, row, examples))
        return limited(items, selection.limit, selection.seed)

    def averages(self, outcomes: Sequence[ItemOutcome]) -> dict[str, float]:
        """``acc_average`` over all subjects, and ``acc_<group>`` for every group with a scored item."""
        scores: dict[str, list[float]] = {}
        for outcome in outcomes:
            if outcome.score is not None:
                scores.setdefault(outcome.group, []).append(outcome.score)
        parts = {"average": scores.keys(), **self.groups}
        found = {name: [scores[subject] for subject in scores if subject in members] for name, members in parts.items()}
        return {f"acc_{name}": self._average(subjects) for name, subjects in found.items() if subjects}

    def _average(self, subjects: Sequence[Sequence[float]]) -> float:
        if not self.by_subject:
            subjects = [[score for scores in subjects for score in scores]]
        return math.fsum(math.fsum(scores) / len(scores) for scores in subjects) / len(subjects)


def _chinese_name(names: Mapping[str, Mapping[str, str]], subject: str) -> str:
    known = {key: name for group in names.values() for key, name in group.items()}
    return known.get(subject, subject.replace("_", " "))


_LETTER_FIELDS: Final = dict.fromkeys(LETTERS, str)

MMLU: Final = Exam(
    dataset="cais/mmlu",
    split="test",
    question="question",
    answer="answer",
    fields={"question": str, "subject": str, "choices": list, "answer": int},
    head=lambda subject: (
        f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    ),
    cue="Answer:",
    chat=(
        "The following is a multiple-choice question. "
        "Please choose the most suitable one among A, B, C and D as the answer to this question.\n\n",
        "\n",
    ),
    extract=english_choice,
    groups=MMLU_GROUPS,
    by_subject=False,
    language="English",
)
CEVAL: Final = Exam(
    dataset="ceval/ceval-exam",
    split="val",
    question="question",
    answer="answer",
    fields={"question": str, **_LETTER_FIELDS, "answer": str},
    head=lambda subject: f"以下是中国关于{_chinese_name(CEVAL_NAMES, subject)}的单项选择题，请选出其中的正确答案。\n\n",
    cue="答案：",
    chat=("", "\n\n"),
    extract=chinese_choice,
    groups={**CEVAL_NAMES, "hard": CEVAL_HARD},
)
CMMLU: Final = Exam(
    dataset="haonan-li/cmmlu",
    split="test",
    question="Question",
    answer="Answer",
    fields={"Question": str, **_LETTER_FIELDS, "Answer": str},
    head=lambda subject: f"以下是关于{_chinese_name(CMMLU_NAMES, subject)}的单项选择题，请直接给出正确答案的选项。\n\n",
    cue="答案：",
    chat=("", "\n\n"),
    extract=chinese_choice,
    groups={**CMMLU_NAMES, "china": CMMLU_CHINA},
)


@dataclass(frozen=True)
class ExamLikelihood:
    """An exam by option likelihood. ``group``: only the subjects of this group of the exam."""

    id: str
    exam: Exam
    form: Literal["letter", "text"] = "letter"
    shots: int = 5
    group: str = ""
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 2  # a tie is nobody's choice
    metric: ClassVar[Metric] = ACCURACY
    chance: ClassVar[float] = 0.25

    @property
    def dataset(self) -> str:
        """Hub id."""
        return self.exam.dataset

    @property
    def protocol(self) -> str:
        """What is scored behind k dev examples."""
        what = (
            "likelihood of the option letter" if self.form == "letter" else "mean token likelihood of the option text"
        )
        subjects = f"subjects of {self.group.replace('_', ' ')}, " if self.group else ""
        return f"{subjects}{k_shot(self.shots)}, {what}"

    @property
    def lessons(self) -> Lessons:
        """The dev rows of its subjects, each behind its head and with its right answer."""
        configs = tuple(sorted(self.exam.groups[self.group])) if self.group else ()
        about = self.group.replace("_", " ") or "all subjects"
        return Lessons(
            self.exam.dataset, configs, ("dev",), self.exam.fields, self._solved,
            f"exam questions, {about}", self.exam.language,
        )  # fmt: skip

    def _solved(self, subject: str, row: Mapping[str, Any]) -> str:
        head = "" if self.form == "text" else self.exam.head(subject)
        return f"{head}{self._ask(row)} {self._options(row)[self.exam.right(row)]}"

    def examples(self, data: DataSource) -> dict[str, tuple[Row, ...]]:
        """The first dev rows of every subject."""
        return self.exam.examples(data, self.shots, self.group)

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Rows of all subjects with their dev examples."""
        return self.exam.items(data, selection, self.shots, self.group)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One likelihood per option."""
        shots = "".join(f"{self._ask(shot)} {self._options(shot)[self.exam.right(shot)]}\n\n" for shot in item.shots)
        context = self.exam.head(item.group) + shots + self._ask(item.row)
        return [prompts.pair(context, f" {option}") for option in self._options(item.row)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the right option is the likeliest; texts of different lengths compare by their mean per token."""
        values = mean_token_likelihoods(responses) if self.form == "text" else log_likelihoods(responses)
        return score_options(item, values, self.exam.right(item.row), LETTERS)

    def golds(self, item: Item) -> list[str]:
        """The right letter, or the right text where no letters are shown."""
        return [self._options(item.row)[self.exam.right(item.row)]]

    def summary(self, outcomes: Sequence[ItemOutcome]) -> Mapping[str, float]:
        """The averages that papers print."""
        return self.exam.averages(outcomes)

    def _options(self, row: Mapping[str, Any]) -> Sequence[str]:
        return LETTERS if self.form == "letter" else self.exam.choices(row)

    def _ask(self, row: Mapping[str, Any]) -> str:
        question = row[self.exam.question].strip()
        if self.form == "text":
            return f"Question: {question}\n{self.exam.cue}"
        return f"{question}\n{_lettered(self.exam.choices(row))}\n{self.exam.cue}"


@dataclass(frozen=True)
class ExamChat:
    """An exam by free answer, as chat models are asked in paper A."""

    id: str
    exam: Exam
    max_new_tokens: int = 256
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = ACCURACY
    chance: ClassVar[float] = 0.25

    @property
    def dataset(self) -> str:
        """Hub id."""
        return self.exam.dataset

    @property
    def protocol(self) -> str:
        """Zero-shot chat, greedy, letter by cascade."""
        return f"zero-shot chat, greedy, at most {self.max_new_tokens} new tokens, letter by extraction cascade"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Rows of all subjects, without examples."""
        return self.exam.items(data, selection, 0)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy answer to the question with its options."""
        opening, gap = self.exam.chat
        text = f"{opening}{item.row[self.exam.question]}{gap}{_lettered(self.exam.choices(item.row))}\n"
        return [Generate(prompts.chat(user(text)), self.max_new_tokens)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the cascade finds the right letter.

        Companions: ``capped``, the answer was cut at the cap; ``guessed``, it names no option and the most similar
        text was taken.
        """
        response = only(responses, GenerateResponse)
        letter, step = self.exam.extract(response.text, item.row[self.exam.question], self.exam.choices(item.row))
        companions = {"capped": float(response.finish == "length"), "guessed": float(step == SIMILAR)}
        right = letter in self.golds(item)
        return ItemOutcome(item.id, item.group, float(right), letter, companions)

    def golds(self, item: Item) -> list[str]:
        """The right letter."""
        return [LETTERS[self.exam.right(item.row)]]

    def summary(self, outcomes: Sequence[ItemOutcome]) -> Mapping[str, float]:
        """The averages that papers print."""
        return self.exam.averages(outcomes)


def _lettered(choices: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
