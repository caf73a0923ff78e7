"""What a judge is asked about whole answers, and how its reply is read: a rating of 1 to 10, or the better of two.

The tasks are FastChat's (MT-Bench's single-answer grading, Zheng et al. 2023) and AlpacaEval's (Li et al. 2023), the
words are our own: what a judge is shown, in which order, and the form of its verdict are theirs. Ratings therefore
compare a quantized model with its original under one judge, and are no figures for a public table; for those the
answers are exported (`quantgate report RUN --submit DIR`) and judged by the authors' own tools.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

LEAST: Final = 1.0
MOST: Final = 10.0
_RATING: Final = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
_SINGLE: Final = re.compile(r"\[\s*(\d+(?:\.\d+)?)\s*\]")
_BETTER: Final = re.compile(r"\[\[\s*([ABC])\s*\]\]")

_WHAT: Final = (
    "You are an impartial judge of an assistant's answer to a user. Look at how helpful, relevant, accurate, deep, "
    "creative and detailed it is."
)
_WHAT_IS_RIGHT: Final = (
    "You are an impartial judge of an assistant's answer to a user. Look at whether it is correct and helpful: compare "
    "it with the reference answer, and name its mistakes."
)
_HOW: Final = (
    "Explain your judgement in a few sentences, be as objective as possible, and then give a rating from 1 to 10 in "
    'exactly this form: "[[rating]]", for example: "Rating: [[5]]".'
)


def rating_prompt(questions: Sequence[str], answers: Sequence[str], reference: Sequence[str] = ()) -> str:
    """Ask for a rating of the last of ``answers``; earlier turns are shown, and a reference answer to each if given."""
    last = "" if len(questions) == 1 else " Rate the answer to the last question only; what came before is its context."
    parts = [f"{_WHAT_IS_RIGHT if reference else _WHAT}{last}\n\n{_HOW}"]
    if reference:
        parts.append(_dialogue("Reference answer", questions, reference))
    parts.append(_dialogue("Assistant", questions, answers))
    return "\n\n".join(parts)


def _dialogue(who: str, questions: Sequence[str], answers: Sequence[str]) -> str:
    turns = [f"### User:\n{asked}\n\n### {who}:\n{said}" for asked, said in zip(questions, answers, strict=True)]
    return "\n\n".join([f"<|Start: {who}|>", *turns, f"<|End: {who}|>"])


def read_rating(reply: str) -> float | None:
    """The last rating of a reply, in double or, failing that, single brackets; None for none, or none from 1 to 10."""
    found = _RATING.findall(reply) or _SINGLE.findall(reply)
    rating = float(found[-1]) if found else 0.0
    return rating if LEAST <= rating <= MOST else None


def pair_prompt(question: str, first: str, second: str) -> str:
    """Ask which of two answers to ``question`` is better."""
    return (
        "You are an impartial judge of two assistants' answers to the same instruction. Say which one a user would "
        "prefer. Neither their order nor their length may matter, and the assistants have no names.\n\nExplain your "
        'judgement in a few sentences, and then say exactly "[[A]]" if A is better, "[[B]]" if B is better, and '
        f'"[[C]]" if neither is.\n\n<|Instruction|>\n{question}\n\n<|Start: A|>\n{first}\n<|End: A|>\n\n'
        f"<|Start: B|>\n{second}\n<|End: B|>"
    )


def read_better(reply: str) -> Literal["A", "B", "C"] | None:
    """What a reply names last; None when it names nothing."""
    found = _BETTER.findall(reply)
    return found[-1] if found else None
