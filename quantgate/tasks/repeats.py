"""Which items ask the same as others, and which stand among their own few-shot examples.

What an item asks is taken as text, before any tokenizer or template, and brought into a normal form: spaces, case,
punctuation, Unicode form, and the order and lettering of its options make no difference. Digits, letters and the signs
between numbers do. So a copy is found whatever model is asked, and a question that was changed in one word is another.

A copy is asked nothing: it would give the same answer again and make a small sample look like a large one. Segments of
a text are copies when more than half of their words lie in 13-word runs of earlier segments.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from quantgate.core.errors import DataError
from quantgate.core.items import Item
from quantgate.core.requests import Likelihood, Request, Rolling, Sampling, Tokens
from quantgate.tasks.base import Task
from quantgate.tasks.overlap import Words, covered, run_hashes, words_of
from quantgate.tasks.prompts import Prompts

MOSTLY: Final = 0.5
"""Share of items that repeat others above which a benchmark is none, and of words that makes a segment a copy."""
_LETTERED: Final = re.compile(r"^\s*\(?[A-Ja-j][.)]\s+")
_SIGNS: Final = "*/%"  # signs of arithmetic that Unicode calls punctuation
_NOTHING: Final[Tokens] = (0,)

Key: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]


class _Heard(Prompts):
    """Stands in for prompts and keeps the texts that a task would have encoded."""

    def __init__(self) -> None:
        self.contexts: list[str] = []
        self.options: list[str] = []
        self.seed = 0

    def sampling(self, greedy: str) -> Sampling:
        return Sampling()

    def encode(self, text: str) -> Tokens:
        self.contexts.append(text)
        return _NOTHING

    def decode(self, tokens: Tokens) -> str:
        return ""

    def pair(self, context: str, continuation: str) -> Likelihood:
        self.options.append(continuation)
        self.encode(context)
        return Likelihood(_NOTHING, _NOTHING)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> Tokens:
        return self.encode("\n".join(message["content"] for message in messages))

    def chat_cut(self, ask: str, document: str, room: int) -> tuple[Tokens, bool]:
        return self.encode(ask + document), False

    def chat_pair(self, messages: Sequence[Mapping[str, str]], answer: str) -> Likelihood:
        self.options.append(answer)
        self.chat(messages)
        return Likelihood(_NOTHING, _NOTHING)


def texts_asked(task: Task, item: Item) -> tuple[list[str], list[str]]:
    """The prompts of an item without its examples, each once, and the options scored behind them; both may be empty."""
    heard = _Heard()
    task.requests(replace(item, shots=(), group=""), heard)
    return list(dict.fromkeys(heard.contexts)), heard.options


def key_of(task: Task, item: Item) -> Key | None:
    """What an item asks in normal form, equal for copies; None when it asks no text (a segment of tokens)."""
    contexts, options = texts_asked(task, item)
    if not contexts:
        return None
    lines = (normal(_LETTERED.sub("", line)) for context in contexts for line in context.split("\n"))
    return tuple(sorted(filter(None, lines))), tuple(sorted(map(normal, options)))


def normal(text: str) -> str:
    """``text`` without spaces, case and punctuation in one Unicode form; as it is when nothing else would be left.

    Signs of arithmetic, a minus in front of a digit and a point between digits are kept: 7 - 5 is not 7 + 5 and 1.5 is
    not 15.
    """
    whole = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    kept = [
        sign
        for sign, before, after in zip(whole, f" {whole}", f"{whole[1:]} ", strict=False)
        if unicodedata.category(sign)[0] in "LNMS"
        or sign in _SIGNS
        or (sign == "-" and after.isdigit())
        or (sign == "." and before.isdigit() and after.isdigit())
    ]
    return "".join(kept) or whole


class Copies:
    """Finds, item by item, the earlier one that asks the same."""

    def __init__(self, task: Task, prompts: Prompts) -> None:
        self._task, self._prompts = task, prompts
        self._first: dict[Key, str] = {}
        self._runs: dict[int, str] = {}
        self._literal: dict[tuple[Request, ...], str] = {}
        self._shots: dict[int, tuple[Mapping[str, Any], Key | None]] = {}
        self.found: dict[str, str] = {}
        """Copy -> the item it is a copy of, by id."""

    def earlier(self, item: Item) -> str:
        """Id of an earlier item that asks the same (``item`` is put down as its copy); empty when it is the first."""
        if getattr(self._task, "every_item", False):  # its authors want an answer to each, whatever it repeats
            return ""
        key = key_of(self._task, item)
        original = self._same_text(item) if key is None else self._first.setdefault(key, item.id)
        if original in ("", item.id):
            return ""
        self.found[item.id] = original
        return original

    def apart_from_itself(self, item: Item) -> Item:
        """``item`` without those of its examples that ask what it asks itself, or that nobody could be shown."""
        if not item.shots:
            return item
        own = key_of(self._task, item)
        kept = tuple(shot for shot in item.shots if is_text(shot) and self._key_of_shot(item, shot) != own)
        return item if len(kept) == len(item.shots) else replace(item, shots=kept)

    def _key_of_shot(self, item: Item, shot: Mapping[str, Any]) -> Key | None:
        # items share the rows of their examples; the row is kept beside its key, or its number could be another's
        if id(shot) not in self._shots:
            self._shots[id(shot)] = shot, key_of(self._task, replace(item, row=shot))
        return self._shots[id(shot)][1]

    def _same_text(self, item: Item) -> str:
        [*requests] = self._task.requests(item, self._prompts)
        if not any(isinstance(each, Rolling) for each in requests):  # of other packages, made of tokens: word for word
            return self._literal.setdefault(tuple(requests), item.id) if requests else ""
        words = [word for each in requests if isinstance(each, Rolling) for word in self._words(each)]
        runs = run_hashes(words)
        hit = [run in self._runs for run in runs]
        if words and covered(hit, len(words)) > MOSTLY:
            return self._runs[next(run for run, seen in zip(runs, hit, strict=True) if seen)]
        for run in runs:
            self._runs.setdefault(run, item.id)
        return ""

    def _words(self, request: Rolling) -> Words:
        return words_of(self._prompts.decode(request.tokens))


def is_text(value: Any) -> bool:
    """Whether all strings inside a row are Unicode text: lone surrogates are none, and no tokenizer takes them."""
    if isinstance(value, str):
        return not any("\ud800" <= sign <= "\udfff" for sign in value)
    if isinstance(value, Mapping):
        return all(map(is_text, value.values()))
    return not isinstance(value, list | tuple) or all(map(is_text, value))


def check_unique(task: str, copies: Mapping[str, str], count: int) -> None:
    """Raise DataError when more than half of ``count`` items are copies of others: that is no benchmark.

    Fewer are no error, because benchmarks hold real repeats (11 of 102 in MMLU's college physics).
    """
    if len(copies) > MOSTLY * count:
        name, original = next(iter(copies.items()))
        raise DataError(
            f"task {task}",
            f"{len(copies)} of {count} items ask the same as another ({name} as {original})",
            expected=f"at most {MOSTLY:.0%} copies",
            hint="remove the copies from the data",
        )
