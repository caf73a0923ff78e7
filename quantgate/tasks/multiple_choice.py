"""The zero-shot standards by option likelihood: HellaSwag, PIQA, ARC, BoolQ, WinoGrande, OpenBookQA.

Prompts and scores as in lm-evaluation-harness 0.4.13, so that figures can be compared with the literature:

* ``acc``: the prediction is the option with the largest summed log-likelihood.
* ``acc_norm``: the sum is divided by the option's length in characters first, or long options could never win.

A benchmark is a row of :data:`BENCHMARKS`; a task is a benchmark under one of the two metrics. The rows are asked once:
both metrics read the same stored answers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACC_NORM, ACCURACY, Metric
from quantgate.core.requests import Request, Response
from quantgate.tasks.base import Selection
from quantgate.tasks.choices import Question, log_likelihoods, score_options
from quantgate.tasks.data import DataSource, Fields, Row
from quantgate.tasks.items import first_shots, k_shot, limited
from quantgate.tasks.lessons import Lessons
from quantgate.tasks.prompts import Prompts

_BRACKETS: Final = re.compile(r"\[.*?\]")  # WikiHow's mark-up in HellaSwag: [header], [step], [substeps]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Where a benchmark lies and how it is asked.

    ``read`` turns a row into a question and raises ValueError when the row holds no proper one. ``chance``: accuracy
    of a guess. ``source``: the field that items of one origin share; they are not independent of each other.
    """

    dataset: str
    config: str
    split: str
    fields: Fields
    read: Callable[[Row], Question]
    chance: float
    source: str = ""


def hellaswag(row: Row) -> Question:
    """``Activity: Context``, the second half of the context capitalised; options are endings."""
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return Question.of(_without_markup(context), [_without_markup(each) for each in row["endings"]], int(row["label"]))


def _without_markup(text: str) -> str:
    # in this order: a title becomes the end of a sentence, other marks go, and so do the double blanks they leave
    return _BRACKETS.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def piqa(row: Row) -> Question:
    """``Question: goal / Answer:`` and two solutions."""
    return Question.of(f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], row["label"])


def arc(row: Row) -> Question:
    """``Question: ... / Answer:`` and the options' texts; labels are letters or digits, 3 to 5 of them."""
    texts, right = _labelled(row)
    return Question.of(f"Question: {row['question']}\nAnswer:", texts, right)


def openbookqa(row: Row) -> Question:
    """The stem as the beginning of a sentence that the options end."""
    texts, right = _labelled(row)
    return Question.of(row["question_stem"], texts, right)


def _labelled(row: Row) -> tuple[list[str], int]:
    texts, labels, key = row["choices"].get("text", []), row["choices"].get("label", []), row["answerKey"].strip()
    if len(texts) != len(labels) or key not in labels:
        raise ValueError(f"answerKey {key!r} with {len(texts)} texts and the labels {labels}")
    return texts, labels.index(key)


def boolq(row: Row) -> Question:
    """Passage, question, and the answers ``no`` and ``yes``."""
    return Question.of(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", ["no", "yes"], int(row["answer"]))


def winogrande(row: Row) -> Question:
    """Partial evaluation: each option is filled into the blank, and the rest of the sentence is scored behind it."""
    before, blank, rest = row["sentence"].partition("_")
    if not blank or row["answer"] not in ("1", "2"):
        raise ValueError(f"answer {row['answer']!r} to a sentence with {'a' if blank else 'no'} blank")
    return Question((before + row["option1"], before + row["option2"]), (rest.strip(),) * 2, int(row["answer"]) - 1)


_ARC_FIELDS: Final[Fields] = {"question": str, "choices": dict, "answerKey": str}

BENCHMARKS: Final[Mapping[str, Benchmark]] = {
    "hellaswag": Benchmark(
        "Rowan/hellaswag",
        "default",
        "validation",
        {"activity_label": str, "ctx_a": str, "ctx_b": str, "endings": list, "label": str, "source_id": str},
        hellaswag,
        0.25,
        "source_id",
    ),
    "piqa": Benchmark(
        "ybisk/piqa",
        "plain_text",
        "validation",
        {"goal": str, "sol1": str, "sol2": str, "label": int},
        piqa,
        0.5,
        "goal",
    ),
    "arc_easy": Benchmark("allenai/ai2_arc", "ARC-Easy", "test", _ARC_FIELDS, arc, 0.25),
    "arc_challenge": Benchmark("allenai/ai2_arc", "ARC-Challenge", "test", _ARC_FIELDS, arc, 0.25),
    "boolq": Benchmark(
        "google/boolq",
        "default",
        "validation",
        {"question": str, "passage": str, "answer": bool},
        boolq,
        0.5,
        "passage",
    ),
    "winogrande": Benchmark(
        "allenai/winogrande",
        "winogrande_xl",
        "validation",
        {"sentence": str, "option1": str, "option2": str, "answer": str},
        winogrande,
        0.5,
    ),
    "openbookqa": Benchmark(
        "allenai/openbookqa",
        "main",
        "test",
        {"question_stem": str, "choices": dict, "answerKey": str},
        openbookqa,
        0.25,
    ),
}


@dataclass(frozen=True)
class MultipleChoice:
    """One of :data:`BENCHMARKS` under one metric; zero-shot unless ``shots`` train rows are asked for."""

    id: str
    benchmark: str
    norm: Literal["none", "characters"] = "none"
    shots: int = 0
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 2  # a tie is nobody's choice

    @property
    def metric(self) -> Metric:
        """``acc`` or ``acc_norm``."""
        return ACCURACY if self.norm == "none" else ACC_NORM

    @property
    def dataset(self) -> str:
        """Hub id."""
        return BENCHMARKS[self.benchmark].dataset

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return BENCHMARKS[self.benchmark].chance

    @property
    def protocol(self) -> str:
        """What the options are compared by."""
        return f"{k_shot(self.shots)}, option log-likelihood{' per character' if self.norm == 'characters' else ''}"

    def examples(self, data: DataSource) -> dict[str, tuple[Row, ...]]:
        """The first rows of ``train``."""
        where = BENCHMARKS[self.benchmark]
        return {where.config: first_shots(data, where.dataset, where.config, "train", where.fields, self.shots)}

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Rows of the split under test with their examples."""
        where = BENCHMARKS[self.benchmark]
        [shots] = self.examples(data).values()
        items = []
        for number, row in enumerate(data.rows(where.dataset, where.config, where.split, where.fields)):
            name = f"{where.config}/{where.split}/{number}"
            self._check(row, f"{where.dataset}/{where.config}/{where.split} in {data.name}, row {number}")
            items.append(Item(name, _origin(row[where.source]) if where.source else name, row, shots))
        return limited(items, selection.limit, selection.seed)

    @property
    def lessons(self) -> Lessons:
        """Rows of another split than the tested one, each solved as a few-shot example is."""
        where = BENCHMARKS[self.benchmark]
        splits = tuple(split for split in ("train", "validation") if split != where.split)
        return Lessons(
            where.dataset, (where.config,), splits, where.fields,
            lambda _, row: where.read(dict(row)).solved, f"{self.benchmark} questions with their answers",
        )  # fmt: skip

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One likelihood per option."""
        read = BENCHMARKS[self.benchmark].read
        shots = "".join(f"{read(dict(shot)).solved}\n\n" for shot in item.shots)
        return [*read(dict(item.row)).requests(prompts, shots)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the right option is the likeliest, by sum or per character."""
        question = BENCHMARKS[self.benchmark].read(dict(item.row))
        values = log_likelihoods(responses)
        if self.norm == "characters":
            values = [value / max(1, len(option)) for value, option in zip(values, question.options, strict=True)]
        return score_options(item, values, question.right, [str(index) for index in range(len(values))])

    def golds(self, item: Item) -> list[str]:
        """The right option with what stands before it, where that is not the same for all (the filled-in sentence)."""
        question = BENCHMARKS[self.benchmark].read(dict(item.row))
        filled = "" if len(set(question.contexts)) == 1 else question.contexts[question.right]
        return [f"{filled} {question.options[question.right]}"]

    def _check(self, row: Row, where: str) -> None:
        try:
            BENCHMARKS[self.benchmark].read(row)
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(where, str(error), expected="options, one of them right") from error


def _origin(text: str) -> str:
    # sources may be whole passages; a group's name only has to be the same for the same source
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
