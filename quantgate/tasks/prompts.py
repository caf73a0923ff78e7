"""From text to the token ids a model is asked with, by the model's own tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from quantgate.errors import ModelError
from quantgate.scoring.requests import Likelihood, Tokens


class Prompts:
    """Encodes prompts.

    Args:
        tokenizer: a transformers tokenizer.
        max_length: the model's context length in tokens.
        name: the model's name for messages.
    """

    def __init__(self, tokenizer: Any, max_length: int, name: str) -> None:
        self._tokenizer = tokenizer
        self.max_length = max_length
        self._name = name
        self._context: tuple[str, bool, int] = ("", False, 0)

    def encode(self, text: str) -> Tokens:
        """Tokens of plain text, with the special tokens the tokenizer puts in front of every text (often none)."""
        return self._ids(text, special=True)

    def plain(self, text: str) -> Tokens:
        """Tokens of plain text and nothing else."""
        return self._ids(text, special=False)

    @cached_property
    def first(self) -> Tokens:
        """The special tokens that the tokenizer puts in front of every text: Gemma's ``<bos>``, for many none."""
        text = self._ids("a", special=False)
        whole = self._ids("a", special=True)
        places = range(len(whole) - len(text) + 1)
        at = next((place for place in places if whole[place : place + len(text)] == text), 0)
        return whole[:at]

    def decode(self, tokens: Tokens) -> str:
        """Text of tokens, special tokens included."""
        return str(self._tokenizer.decode(list(tokens)))

    def pair(self, context: str, continuation: str) -> Likelihood:
        """A likelihood request for ``continuation`` behind ``context``.

        Both are encoded together and split at the length of the encoded context, and spaces that end the context go to
        the continuation: lm-evaluation-harness does the same, so that scores can be compared.
        """
        return self._split(context, continuation, special=True)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> Tokens:
        """Tokens of a dialogue up to where the assistant's next answer begins."""
        return self._ids(self._render(messages, True), special=False)

    def chat_cut(self, ask: str, document: str, room: int) -> tuple[Tokens, bool]:
        """As :meth:`chat` for ``ask`` + ``document``, cut at its end until ``room`` tokens of the context are left.

        Also tells whether anything was cut. Raises ModelError when not even an empty document fits.
        """
        limit, cut = self.max_length - room, False
        prompt = self.chat([{"role": "user", "content": ask + document}])
        pieces = self._ids(document, special=False) if len(prompt) > limit else ()
        while len(prompt) > limit and pieces:
            cut, pieces = (
                True,
                pieces[: -(len(prompt) - limit)],
            )  # a cut may change how its end is cut into tokens: look again
            prompt = self.chat([{"role": "user", "content": ask + self.decode(pieces)}])
        if len(prompt) > limit:
            raise ModelError(
                f"model {self._name!r}",
                f"its context of {self.max_length} tokens has no room for a prompt and {room} new tokens",
                hint="choose other --tasks",
            )
        return prompt, cut

    def chat_pair(self, messages: Sequence[Mapping[str, str]], answer: str) -> Likelihood:
        """A likelihood request for ``answer`` as the assistant's next turn; only the answer's own text is scored."""
        return self._split(self._render(messages, True), answer, special=False)

    def dialogue(self, messages: Sequence[Mapping[str, str]]) -> Tokens:
        """Tokens of a whole dialogue, final answer and its end marker included (calibration samples)."""
        return self._ids(self._render(messages, False), special=False)

    def _split(self, context: str, continuation: str, *, special: bool) -> Likelihood:
        kept = context.rstrip(" ")
        continuation = context[len(kept) :] + continuation
        whole = self._ids(kept + continuation, special=special)
        n_context = self._length(kept, special)
        return Likelihood(whole[:n_context], whole[n_context:])

    def _length(self, context: str, special: bool) -> int:
        # the options of a question come one after the other behind the same, often long, context
        if self._context[:2] != (context, special):
            self._context = (context, special, len(self._ids(context, special=special)))
        return self._context[2]

    def _ids(self, text: str, *, special: bool) -> Tokens:
        # not verbose: what is longer than the context is dealt with, and needs no warning
        return tuple(self._tokenizer(text, add_special_tokens=special, verbose=False).input_ids)

    def _render(self, messages: Sequence[Mapping[str, str]], generation: bool) -> str:
        if not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(
                f"model {self._name!r}",
                "its tokenizer has no chat template",
                expected="an instruction-tuned model for chat tasks",
                hint="choose other --tasks, or add chat_template.jinja to the model",
            )
        text: str = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=generation
        )
        return text


def user(content: str) -> list[Mapping[str, str]]:
    """A dialogue of one user turn."""
    return [{"role": "user", "content": content}]
