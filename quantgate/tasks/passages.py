"""Questions about a passage, answered freely: DROP (sums and comparisons over it), SQuAD 2 (or not answerable by it).

Asked as in lm-evaluation-harness 0.4.13. DROP is scored by its authors' rules, which its answers of several spans and
its numbers need: words are compared as bags, span by span, and no span fits whose numbers are others. Answers end at
the first point there, so that one with a decimal point is never right, here as there. Of SQuAD 2 the word that stands
for "no answer" in the prompt counts as an empty answer; lm-eval takes it for a wrong one, and gives such questions
nothing.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import EXACT_MATCH, Metric
from quantgate.core.requests import Generate, GenerateResponse, Request, Response
from quantgate.tasks.base import only
from quantgate.tasks.boss import TOKEN_F1, normalized, token_f1
from quantgate.tasks.items import k_shot
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.short_answers import Asked, Quiz, Short, texts_in

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_PARTS: Final = re.compile(r"[ -]")
_MOST_TOKENS: Final = 64
NO_ANSWER: Final = "unanswerable"

Gold = tuple[str, ...]
"""One accepted answer: its spans."""


def drop(row: Mapping[str, Any]) -> Asked:
    """The passage and behind it the question, with no word between them."""
    return Asked(f"{row['passage']} {row['question']}", tuple(", ".join(gold) for gold in drop_golds(row)))


def drop_golds(row: Mapping[str, Any]) -> list[Gold]:
    """Accepted answers, each once: of a flat list, of the hub's ``answers_spans``, or of annotations as published."""
    if "answer" in row:
        found = [_annotated(each) for each in [row["answer"], *_validated(row.get("validated_answers") or {})]]
    else:
        given = row["answers"] if "answers" in row else row["answers_spans"]["spans"]
        found = [(each,) for each in texts_in(given)]
    return [gold for gold in dict.fromkeys(found) if gold and gold[0].strip()]


def _validated(answers: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = ("number", "date", "spans")
    return [
        dict(zip(names, each, strict=True)) for each in zip(*(answers.get(name, ()) for name in names), strict=True)
    ]


def _annotated(answer: Mapping[str, Any]) -> Gold:
    """A number, spans, or a date, whichever was given."""
    if answer["number"] != "":
        return (str(answer["number"]),)
    if answer["spans"]:
        return tuple(texts_in(answer["spans"]))
    return (" ".join(str(answer["date"][part]) for part in ("day", "month", "year")).strip(),)


def squad2(row: Mapping[str, Any]) -> Asked:
    """Title, passage and question."""
    context = f"Title: {row['title']}\n\nBackground: {row['context']}\n\nQuestion: {row['question']}\n\nAnswer:"
    return Asked(context, tuple(dict.fromkeys(texts_in(row["answers"]["text"]))) or (NO_ANSWER,))


PASSAGES: Final[Mapping[str, Quiz]] = {
    "drop": Quiz("ucinlp/drop", "default", "validation", {"passage": str, "question": str}, drop, group="passage"),
    "squad2": Quiz(
        "rajpurkar/squad_v2", "squad_v2", "validation",
        {"title": str, "context": str, "question": str, "answers": dict}, squad2, group="context",
    ),
}  # fmt: skip
_STOPS: Final[Mapping[str, tuple[str, ...]]] = {"drop": (".",), "squad2": ("\n",)}


@dataclass(frozen=True)
class Passage(Short):
    """``drop``, ``squad2``: the share of exact answers; ``drop_f1``, ``squad2_f1``: the F1 of their words.

    Rows of one passage are one cluster.
    """

    measure: Literal["exact", "f1"] = "exact"

    @property
    def name(self) -> str:
        """The benchmark's."""
        return self.id.removesuffix("_f1")

    @property
    def quiz(self) -> Quiz:
        """Where it lies and how it is asked."""
        return PASSAGES[self.name]

    @property
    def metric(self) -> Metric:
        """Exact match, or F1 of words."""
        return EXACT_MATCH if self.measure == "exact" else TOKEN_F1

    @property
    def protocol(self) -> str:
        """How the answer is read."""
        end = "point" if self.name == "drop" else "line end"
        return f"{k_shot(self.shots)}, greedy to the first {end}, the best of the accepted answers"

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One answer."""
        return [Generate(prompts.encode(self.asked(item).context), _MOST_TOKENS, _STOPS[self.name])]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the answer is an accepted one, or the best F1. Companions: the other of both, and ``capped``."""
        response = only(responses, GenerateResponse)
        said = response.text.strip()
        exact, f1 = drop_score(said, drop_golds(item.row)) if self.name == "drop" else squad2_score(said, item.row)
        score, other = (exact, {"f1": f1}) if self.measure == "exact" else (f1, {"exact": exact})
        return ItemOutcome(item.id, item.group, score, said, {**other, "capped": float(response.finish == "length")})


def squad2_score(said: str, row: Mapping[str, Any]) -> tuple[float, float]:
    """Exact match and F1; no answer is `NO_ANSWER`, or nothing at all."""
    said = "" if normalized(said) == NO_ANSWER else said
    golds = [gold for gold in row["answers"]["text"] if normalized(gold)] or [""]
    exact = max(float(normalized(said) == normalized(gold)) for gold in golds)
    return exact, max(token_f1(said, gold) for gold in golds)


def drop_score(said: str, golds: Sequence[Gold]) -> tuple[float, float]:
    """Exact match and F1 (to two decimals) by the authors' rules: the best of the accepted answers."""
    found = drop_words(said)
    scores = [_drop_score(found, [drop_words(span) for span in gold]) for gold in golds]
    return max(exact for exact, _ in scores), max(f1 for _, f1 in scores)


def _drop_score(said: str, gold: Sequence[str]) -> tuple[float, float]:
    exact = float(len(gold) == 1 and gold[0] == said)
    bag = {*said.split()}
    best = max(_bag_f1(bag, {*span.split()}) for span in gold)  # what is said is one span: it answers one of them
    return exact, round(best / len(gold), 2)


def _bag_f1(said: set[str], gold: set[str]) -> float:
    numbers = {word for word in gold if _is_number(word)}
    if numbers and not numbers & said:
        return 0.0
    same = len(said & gold)
    precision, recall = same / len(said) if said else 1.0, same / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def drop_words(text: str) -> str:
    """DROP's normal form: words and parts of compounds without case, articles and punctuation; numbers as floats."""
    words = [_ARTICLES.sub(" ", _plain(part.lower())).split() for part in _PARTS.split(text)]
    return " ".join(" ".join(each) for each in words if each)


def _plain(word: str) -> str:
    bare = word if _is_number(word) else word.translate(_PUNCTUATION)
    return str(float(bare)) if _is_number(bare) else bare


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
