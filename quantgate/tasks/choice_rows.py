"""The rows of the zero-shot standards: where each lies, and how one of its rows becomes a question.

Prompts as in lm-evaluation-harness 0.4.13. What is made of the answers: :mod:`quantgate.tasks.multiple_choice`; more
rows of the same kind: :mod:`quantgate.tasks.scenario_rows`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from quantgate.tasks.choices import Question
from quantgate.tasks.data import Fields, Row

_BRACKETS: Final = re.compile(r"\[.*?\]")  # WikiHow's mark-up in HellaSwag: [header], [step], [substeps]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Where a benchmark lies and how it is asked.

    ``read`` turns a row into a question and raises ValueError when the row holds no proper one. ``chance``: accuracy
    of a guess. ``source``: the text that items of one origin share; they are not independent of each other. ``more``:
    configurations beside ``config`` that belong to the same benchmark. ``examples``: the split that is shown, never
    the tested one.
    """

    dataset: str
    config: str
    split: str
    fields: Fields
    read: Callable[[Row], Question]
    chance: float
    source: Callable[[Row], str] | None = None
    more: tuple[str, ...] = ()
    examples: str = "train"

    @property
    def configs(self) -> tuple[str, ...]:
        """All configurations, the first one first."""
        return (self.config, *self.more)


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

ZERO_SHOT: Final[Mapping[str, Benchmark]] = {
    "hellaswag": Benchmark(
        "Rowan/hellaswag",
        "default",
        "validation",
        {"activity_label": str, "ctx_a": str, "ctx_b": str, "endings": list, "label": str, "source_id": str},
        hellaswag,
        0.25,
        itemgetter("source_id"),
    ),
    "piqa": Benchmark(
        "ybisk/piqa",
        "plain_text",
        "validation",
        {"goal": str, "sol1": str, "sol2": str, "label": int},
        piqa,
        0.5,
        itemgetter("goal"),
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
        itemgetter("passage"),
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
