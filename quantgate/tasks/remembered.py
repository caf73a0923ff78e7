"""A tokenizer that remembers what it said: it is loaded when it is asked something new, and not before.

What a tokenizer makes of a text hangs on its files and on the libraries that read them, and on nothing else. Only that
is remembered, text by text: prompts are put together anew in every run, so that a changed prompt is a new question.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from quantgate.core import reading
from quantgate.core.requests import Tokens
from quantgate.store.facts import Facts
from quantgate.tasks.chat import TODAY

LIBRARIES: Final = ("transformers", "tokenizers", "jinja2", "sentencepiece", "tiktoken", "protobuf")
"""Those that have a say in what a tokenizer makes of a text."""
_PLAIN: Final = frozenset({"bos_token_id", "eos_token_id", "chat_template"})  # what can be written as JSON
_AS_IDS: Final = frozenset({"add_special_tokens", "verbose"})
_AS_TEXT: Final = frozenset({"tokenize", "add_generation_prompt", "strftime_now"})
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

    def __call__(self, text: str, **how: Any) -> Any:
        """Token ids of ``text`` as ``input_ids``; ``how``: remembered as :data:`_AS_IDS` has it, else asked anew."""
        if not how.keys() <= _AS_IDS or not isinstance(text, str):
            return self.real(text, **how)

        def ask() -> str:
            return base64.b64encode(_bytes(self.real(text, **how).input_ids)).decode()

        said = self._said(f"ids {how.get('add_special_tokens')}", text.encode("utf-8", "surrogatepass"), ask)
        return SimpleNamespace(input_ids=np.frombuffer(base64.b64decode(said), _IDS).tolist())

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, special tokens included."""
        return str(self.said("text", lambda: str(self.real.decode(list(tokens))), _bytes(tokens)))

    def apply_chat_template(self, turns: Sequence[Mapping[str, str]], **how: Any) -> Any:
        """A dialogue as text; ``how``: remembered as `quantgate.tasks.chat` asks for it, else asked anew."""
        if how.keys() != _AS_TEXT or how["tokenize"] is not False:
            return self.real.apply_chat_template(turns, **how)
        of = json.dumps([turns, how["add_generation_prompt"], TODAY.isoformat()], default=repr)
        return self.said("dialogue", lambda: str(self.real.apply_chat_template(turns, **how)), of.encode())

    def __getattr__(self, name: str) -> Any:
        if name in _PLAIN:
            return self.said(name, lambda: getattr(self.real, name, None))
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.real, name)

    def _said(self, name: str, of: bytes, ask: Callable[[], str]) -> str:
        return ask() if self._facts is None else self._facts.remember(name, of, ask)


def _bytes(tokens: Sequence[int] | Tokens) -> bytes:
    return np.asarray(tokens, dtype=_IDS).tobytes()
