"""FollowBench's rules: constraints that a program can check, as the benchmark's repository does.

For content and situation constraints, and for text editing, a level has one right answer (``target``). For summaries
and two groups of format constraints, level n asks for the first n of five checks. ``example`` constraints ask for the
form of the examples. The regular expressions, counts and words are the repository's, oddities included: a sentence is
what stands between full stops, exclamation and question marks (so ``3.5`` ends one), and the suffix to avoid is ``-ly``
with its hyphen.
"""

from __future__ import annotations

import re
import string
from ast import literal_eval as python_literal
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

Check: TypeAlias = Callable[[str], bool]
ByTarget: TypeAlias = Callable[[str, str], bool]


# --- what the checks look at ------------------------------------------------------------------------------------------


def sentences(text: str) -> list[str]:
    """The pieces between ``.``, ``!`` and ``?``, empty ones left out."""
    return [piece for piece in re.split(r"[.!?]", text) if piece]


def has_word(text: str, word: str) -> bool:
    """Whether ``word`` stands in ``text`` as a whole word, in this very case."""
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


def _nth_sentence(number: int, fits: Check) -> Check:
    def check(text: str) -> bool:
        found = sentences(text)
        return len(found) >= number and fits(found[number - 1])

    return check


def _words(text: str) -> int:
    return len(text.split(" "))


def _marks(text: str) -> int:
    return sum(char in string.punctuation for char in text)


def _word(word: str) -> Check:
    return lambda text: has_word(text, word)


def _no(fits: Check) -> Check:
    return lambda text: not fits(text)


def _all(*checks: Check) -> Check:
    return lambda text: all(check(text) for check in checks)


def _sentence_count(count: int) -> Check:
    return lambda text: len(sentences(text)) == count


# --- one right answer a level -----------------------------------------------------------------------------------------


def last_match(pattern: str) -> ByTarget:
    """The last match of ``pattern`` in the answer is the target."""
    return lambda answer, target: re.findall(pattern, answer)[-1:] == [target]


BY_TARGET: Final[Mapping[str, ByTarget]] = {
    "E2E": lambda answer, target: answer == target,
    "WIKIEVENTS": lambda answer, target: set(answer.split("\n")) <= set(target.split("\n")),
    "CONLL2003": lambda answer, target: answer in python_literal(target),
    "text_editing": lambda answer, target: answer == target,
    "BBH_logical": last_match(r"\([A-Z]\)"),
    "BBH_time": last_match(r"\d{2}/\d{2}/\d{4}"),
    "self_made_space": lambda answer, target: target in answer,
    "gsm_8k": last_match(r"\$\d+"),
}


# --- level n asks for the first n checks ------------------------------------------------------------------------------

SUMMARIES: Final[Mapping[str, tuple[Check, ...]]] = {
    "cnn_dailymail": (
        _sentence_count(3),
        lambda text: all(len(sentence.split()) < 15 for sentence in sentences(text)),
        _all(
            _nth_sentence(1, _word("Potter")), _nth_sentence(2, _word("actor")), _nth_sentence(3, _word("films"))
        ),
        _no(_nth_sentence(2, _word("lavish"))),
        _nth_sentence(3, lambda text: re.search(r"\b(has|have)\s+\w+", text) is not None),
    ),
    "xsum": (
        _sentence_count(1),
        lambda text: _words(text) < 20,
        _no(_word("Newton Stewart")),
        lambda text: re.search(r"\b(am|is|are)\s+\w+ing\b", text) is not None,
        _word("operation"),
    ),
    "samsum": (
        _sentence_count(1),
        lambda text: _words(text) < 15,
        _word("stuff"),
        lambda text: "procrast" not in text.lower(),
        lambda text: _marks(text) == 1,
    ),
    "gigaword": (
        lambda text: _words(text) == 8,
        lambda text: _marks(text) == 0,
        str.islower,
        _no(_word("bus")),
        _word("in"),
    ),
    "arxiv": (
        _sentence_count(1),
        lambda text: _words(text) <= 20,
        lambda text: text.startswith("We"),
        _word("activations"),
        _no(_word("transformer")),
    ),
}  # fmt: skip


def three_paragraphs(text: str, level: int) -> bool:
    """Format group 22: three short paragraphs of long sentences, numbered from level 4; a fourth, fixed one at 5."""
    paragraphs = text.split("\n\n")
    closing = "Those are suggestions"
    checks: tuple[Check, ...] = (
        lambda _: len(paragraphs) == (4 if level == 5 else 3),
        lambda _: all(len(sentences(paragraph)) < 3 for paragraph in paragraphs[:3]),
        lambda _: all(len(sentence.split()) > 20 for sentence in sentences(text)),
        lambda _: all(re.match(r"\d+\.", each.lstrip()) for each in paragraphs if each.strip()),
        lambda _: text.endswith(closing),
    )
    return all(check(text) for check in checks[:level])


def five_points(text: str, level: int) -> bool:
    """Format group 30: five bold, numbered keywords, each explained in one sentence of 10 to 15 words."""
    pieces = re.split(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=\.|\?)\s", text)
    points = [piece for piece in pieces if any(f"{number}." in piece for number in range(1, 6))]
    checks: tuple[Check, ...] = (
        lambda _: "**" in text,
        lambda _: len(re.findall(r"\*\*[\d].+?:", text)) == 5,
        lambda _: all(len(point.split(".")) < 3 for point in points),
        lambda _: all(10 <= len(piece.split()) <= 15 for piece in pieces),
        lambda _: not any(word.endswith("-ly") for word in text.split()),
    )
    return all(check(text) for check in checks[:level])


FORMATS: Final[Mapping[int, Callable[[str, int], bool]]] = {22: three_paragraphs, 30: five_points}


def in_the_form_of_the_examples(answer: str, target: str) -> bool:
    """The whole answer has the form of ``target``, where ``{answer}`` stands for anything on one line."""
    form = target.replace("{instruction}\n", "").replace("{{", "{").replace("}}", "}")
    return re.fullmatch(".*".join(re.escape(part) for part in form.split("{answer}")), answer) is not None


def rule_for(category: str, source: str, example_id: int) -> Callable[[str, str, int], bool] | None:
    """Whether (answer, target, level) satisfies all constraints of its level; None where only a judge can tell."""
    if category == "example":
        return lambda answer, target, level: in_the_form_of_the_examples(answer, target)
    if category == "format" and example_id in FORMATS:
        return lambda answer, target, level: FORMATS[example_id](answer, level)
    if category == "mixed" and source in SUMMARIES:
        return lambda answer, target, level: all(check(answer) for check in SUMMARIES[source][:level])
    if category in ("content", "situation", "mixed") and source in BY_TARGET:
        return lambda answer, target, level: BY_TARGET[source](answer, target)
    return None
