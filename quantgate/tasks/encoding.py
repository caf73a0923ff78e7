"""A tokenizer as prompts see it: texts to tokens and back, and what it puts in front of a text and behind it."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from quantgate.core.errors import ModelError, translated
from quantgate.core.requests import Tokens

_PROBE: Final = "a"


class Encoding:
    """``tokenizer``: of transformers; ``name``: the model's, for messages."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer, self.name = tokenizer, name

    @property
    def vocabulary(self) -> int:
        """How many tokens the tokenizer knows."""
        return len(self.tokenizer)

    @property
    def first(self) -> Tokens:
        """The special tokens that the tokenizer puts in front of every text: Gemma's ``<bos>``, for many none."""
        return self._special[0]

    @cached_property
    def opening(self) -> Tokens:
        """What a text without a context stands behind: `first`, else the token that begins or ends texts, if any.

        As in lm-evaluation-harness: the first token of a text has a likelihood only behind another one.
        """
        ids = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return self.first or tuple(number for number in ids if number is not None)[:1]

    @property
    def behind(self) -> Tokens:
        """Special tokens that the tokenizer would put behind every text: they are left out everywhere."""
        return self._special[1]

    @cached_property
    def plain_tokens(self) -> Tokens:
        """Ids of all tokens that are part of ordinary text, ascending: no special and no added ones."""
        remember = getattr(self.tokenizer, "said", None)
        return tuple(self._plain_tokens() if remember is None else remember("plain tokens", self._plain_tokens))

    def _plain_tokens(self) -> list[int]:
        left_out = {*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()}
        return sorted({*self.tokenizer.get_vocab().values()} - left_out)

    def ids(self, text: str, *, special: bool) -> Tokens:
        """Tokens of ``text``; ``special``: behind `first`, and never with `behind`."""
        tokens = self._read(text, special=False)
        return self.first + tokens if special else tokens

    def text(self, tokens: Tokens) -> str:
        """Text of tokens, special tokens included."""
        return str(self.tokenizer.decode(list(tokens)))

    @cached_property
    def _special(self) -> tuple[Tokens, Tokens]:
        bare, whole = (self._read(_PROBE, special=on) for on in (False, True))
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        raise ModelError(
            f"model {self.name!r}",
            f"its tokenizer makes {list(whole)} of {_PROBE!r} with special tokens and {list(bare)} without",
            expected="special tokens in front of a text and behind it, and the same text between them",
            hint="mend the tokenizer's post-processor",
        )

    def _read(self, text: str, *, special: bool) -> Tokens:
        # not verbose: what is longer than the context is dealt with, and needs no warning
        with translated(
            f"model {self.name!r}", "its tokenizer cannot read a text", hint="save the tokenizer's files again"
        ):
            return tuple(self.tokenizer(text, add_special_tokens=special, verbose=False).input_ids)
