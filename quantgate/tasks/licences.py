"""Whose items a report may quote: those written for this project, and those of datasets under a permissive licence.

The licences are those on the datasets' own cards. What is not listed is named by its id alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quantgate.tasks.data import BUNDLED

PERMISSIVE: Final[Mapping[str, str]] = {
    "cais/mmlu": "MIT",
    "openai/gsm8k": "MIT",
    "truthfulqa/truthful_qa": "Apache-2.0",
    "google/IFEval": "Apache-2.0",
}
_QUESTIONS: Final = ("question", "prompt")
_LETTERS: Final = "ABCD"


@dataclass(frozen=True)
class Quotable:
    """What a report may show of an item; ``question`` is empty where it may show nothing.

    ``options``: what the recorded answers' names stand for, in their order; ``right``: the names of the right ones.
    """

    question: str
    options: tuple[tuple[str, str], ...] = ()
    right: tuple[str, ...] = ()


def may_be_quoted(dataset: str, source: str) -> bool:
    """Whether a report may show texts of ``dataset``, read from the data source called ``source``."""
    return source == BUNDLED or dataset in PERMISSIVE


def quotable(row: Mapping[str, Any], dataset: str, source: str) -> Quotable:
    """The question of ``row`` with its options, where a report may show it. ``source``: the data source's name."""
    question = next((row[name] for name in _QUESTIONS if isinstance(row.get(name), str)), "")
    if not question or not may_be_quoted(dataset, source):
        return Quotable("")
    names, texts, right = _options(row)
    return Quotable(question, tuple(zip(names, texts, strict=False)), right)


def _options(row: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str], tuple[str, ...]]:
    """Names, texts and right names of the forms of rows that may be quoted; of a free answer, what is expected."""
    answer, choices = row.get("answer"), row.get("choices")
    if (
        isinstance(choices, Sequence)
        and not isinstance(choices, str)
        and all(isinstance(each, str) for each in choices)
    ):
        return _LETTERS, choices, tuple(name for number, name in enumerate(_LETTERS) if number == answer)
    if isinstance(targets := row.get("mc1_targets"), Mapping):
        texts, labels = targets.get("choices", ()), targets.get("labels", ())
        names = [str(number) for number in range(len(texts))]
        return names, texts, tuple(name for name, label in zip(names, labels, strict=False) if label == 1)
    if isinstance(answer, str) and "####" in answer:
        return ("expected",), (answer.rpartition("####")[2].strip(),), ()
    return (), (), ()
