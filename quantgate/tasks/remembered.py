"""A tokenizer that remembers what it said: it is loaded when it is asked something new, and not before.

What a tokenizer makes of a text hangs on its files and on the libraries that read them, and on nothing else. Only that
is remembered, text by text: prompts are put together anew in every run, so that a changed prompt is a new question.
Only what prompts ask is remembered, and only while nobody laid hands on the tokenizer: whoever sets something in it, or
calls what may do so, is told by the tokenizer itself from then on.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from quantgate.core import reading
from quantgate.store.facts import Facts
from quantgate.tasks.chat import TODAY

_PLAIN: Final = frozenset({"bos_token_id", "eos_token_id", "chat_template"})  # what can be written as JSON
_AS_TEXT: Final = frozenset({"tokenize", "add_generation_prompt", "strftime_now"})
_READING: Final = frozenset({  # what can be called without changing it
    "all_special_ids", "all_special_tokens", "added_tokens_decoder", "added_tokens_encoder", "batch_decode",
    "convert_ids_to_tokens", "convert_tokens_to_ids", "convert_tokens_to_string", "encode", "get_added_vocab",
    "get_vocab", "special_tokens_map", "tokenize", "vocab",
})  # fmt: skip
_OWN: Final = frozenset({"real", "_load", "_open", "_facts", "_touched"})
_IDS: Final = np.dtype("<i4")


class Remembered:
    """A transformers tokenizer as prompts use it.

    Args:
        load: loads it.
        facts: what was said before, by scope (a task's name, say).
    """

    def __init__(self, load: Callable[[], Any], facts: Callable[[str], Facts]) -> None:
        self._load, self._open = load, facts
        self._facts: Facts | None = None
        self._touched = False

    @cached_property
    def real(self) -> Any:
        """The tokenizer itself; loaded now, if it was not."""
        return self._load()

    @contextmanager
    def about(self, scope: str) -> Iterator[None]:
        """Remember what is asked meanwhile. Outside of it everything is asked anew."""
        before, self._facts = self._facts, self._open(scope)
        try:
            yield
        finally:
            self._facts.keep()
            self._facts = before

    def said(self, name: str, ask: Callable[[], Any], of: bytes = b"") -> Any:
        """What ``ask`` says of the argument ``of``, as JSON: lists come for tuples."""
        return reading.parse_json(self._said(name, of, lambda: json.dumps(ask())))

    def __len__(self) -> int:
        return int(self.said("len", lambda: len(self.real)))

    def __call__(self, text: Any, *more: Any, **how: Any) -> Any:
        """Token ids of ``text`` as ``input_ids``: remembered as `quantgate.tasks.encoding` asks for them, else anew."""
        special = how.get("add_special_tokens")
        usual = how == {"add_special_tokens": special, "verbose": False} and isinstance(special, bool)
        if more or not usual or type(text) is not str:
            return self.real(text, *more, **how)

        def ask() -> str:
            return base64.b64encode(np.asarray(self.real(text, **how).input_ids, _IDS).tobytes()).decode()

        said = self._said(f"ids {special}", text.encode("utf-8", "surrogatepass"), ask)
        return SimpleNamespace(input_ids=np.frombuffer(base64.b64decode(said), _IDS).tolist())

    def decode(self, tokens: Any, *more: Any, **how: Any) -> Any:
        """Text of tokens, special tokens included; remembered of a list of numbers, asked anew of all else."""
        numbers = type(tokens) is list and all(issubclass(each, (int, np.integer)) for each in set(map(type, tokens)))
        if more or how or not numbers:
            return self.real.decode(tokens, *more, **how)
        of = json.dumps([*map(int, tokens)]).encode()
        return self._said("text", of, lambda: str(self.real.decode(tokens)))

    def apply_chat_template(self, turns: Any, *more: Any, **how: Any) -> Any:
        """A dialogue as text; remembered as `quantgate.tasks.chat` asks for it, else asked anew."""
        if more or how.keys() != _AS_TEXT or not _is_usual(turns, **how):
            return self.real.apply_chat_template(turns, *more, **how)
        of = json.dumps([turns, how["add_generation_prompt"], TODAY.isoformat()])
        return self._said("dialogue", of.encode(), lambda: str(self.real.apply_chat_template(turns, **how)))

    def __getattr__(self, name: str) -> Any:
        if name in _PLAIN:
            return self.said(name, lambda: getattr(self.real, name, None))
        if name.startswith("__") or name in _OWN:
            raise AttributeError(name)
        found = getattr(self.real, name)
        self._touched |= name not in _READING and not isinstance(found, str | int | float | None)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            self._touched = True
            setattr(self.real, name, value)

    def _said(self, name: str, of: bytes, ask: Callable[[], str]) -> str:
        return ask() if self._facts is None or self._touched else self._facts.remember(name, of, ask)


def _is_usual(turns: Any, tokenize: Any, add_generation_prompt: Any, strftime_now: Any) -> bool:
    """Whether a dialogue is of texts alone, and asked for as prompts ask."""
    return (
        tokenize is False
        and isinstance(add_generation_prompt, bool)
        and strftime_now == TODAY.strftime
        and type(turns) is list
        and all(type(turn) is dict and all(map(_is_text, (*turn, *turn.values()))) for turn in turns)
    )


def _is_text(value: Any) -> bool:
    return type(value) is str
