"""From text to the token ids a model is asked with, by the reference's tokenizer and chat template.

Whatever the tokenizer's own habits, a prompt ends where its text ends: special tokens that a tokenizer would put behind
every text (``add_eos_token``, SEP) are left out, those it puts in front stay. A template's clock stands still, and
system turns that a template refuses go to the head of the first user turn; :func:`record_of` says which of it was done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from quantgate.core.errors import ModelError
from quantgate.core.requests import Generate, Likelihood, Sampling, Tokens
from quantgate.tasks.chat import TODAY, ChatTemplate, Turns
from quantgate.tasks.encoding import Encoding

SEED: Final = 1234
"""Of what is drawn, where nobody says another one."""


class Prompts:
    """Encodes prompts.

    Args:
        tokenizer: a transformers tokenizer.
        max_length: the model's context length in tokens.
        name: the model's name for messages.
        ends: tokens that end an answer (see `quantgate.models.ending`).
        shipped: how the model's own files say that answers are drawn; None where they do not.
        seed: of what is drawn.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        name: str,
        ends: Tokens = (),
        *,
        shipped: Sampling | None = None,
        seed: int = SEED,
    ) -> None:
        self.max_length, self.ends, self.name = max_length, ends, name
        self.shipped, self.seed = shipped, seed
        self.encoding, self.template = Encoding(tokenizer, name), ChatTemplate(tokenizer, name)
        self._context: tuple[str, bool, int] = ("", False, 0)
        self._corpora: dict[str, Tokens] = {}

    def encode(self, text: str) -> Tokens:
        """Tokens of plain text, with the special tokens the tokenizer puts in front of every text (often none)."""
        return self.encoding.ids(text, special=True)

    def plain(self, text: str) -> Tokens:
        """Tokens of plain text and nothing else; kept, since several tasks read the same corpus, a second each."""
        if text not in self._corpora:
            self._corpora[text] = self.encoding.ids(text, special=False)
        return self._corpora[text]

    def piece(self, text: str) -> Tokens:
        """Tokens of one document among many, nothing in front of it; not kept."""
        return self.encoding.ids(text, special=False)

    def decode(self, tokens: Tokens) -> str:
        """Text of tokens, special tokens included."""
        return self.encoding.text(tokens)

    def ended(self, request: Generate) -> Generate:
        """``request`` with the tokens that end its answer, and no more new ones than the context has room for."""
        room = self.max_length - len(request.prompt) + 1  # the last new token is never read
        return replace(request, max_new_tokens=min(request.max_new_tokens, max(room, 1)), ends=self.ends)

    def sampling(self, greedy: str) -> Sampling:
        """The model's own sampling. Raises ModelError where it ships none; ``greedy``: the task to ask then."""
        if self.shipped is None:
            raise ModelError(
                f"model {self.name!r}",
                "its generation_config.json asks for no sampling",
                expected="do_sample: true, with a temperature, top_k or top_p",
                hint=f"answers of this model are greedy: --tasks {greedy}",
            )
        return replace(self.shipped, seed=self.seed)

    def pair(self, context: str, continuation: str) -> Likelihood:
        """A likelihood request for ``continuation`` behind ``context``.

        Both are encoded together and split at the length of the encoded context, and spaces that end the context go to
        the continuation; what has no context stands behind the token that begins (or ends) texts:
        lm-evaluation-harness does the same, so that scores can be compared.
        """
        return self._split(context, continuation, special=True)

    def chat(self, messages: Turns) -> Tokens:
        """Tokens of a dialogue up to where the assistant's next answer begins."""
        return self.encoding.ids(self.template.render(messages, True), special=False)

    def chat_cut(self, ask: str, document: str, room: int) -> tuple[Tokens, bool]:
        """As :meth:`chat` for ``ask`` + ``document``, cut at its end until ``room`` tokens of the context are left.

        Also tells whether anything was cut. Raises ModelError when not even an empty document fits.
        """
        limit, cut = self.max_length - room, False
        prompt = self.chat([{"role": "user", "content": ask + document}])
        pieces = self.encoding.ids(document, special=False) if len(prompt) > limit else ()
        while len(prompt) > limit and pieces:
            cut, pieces = (
                True,
                pieces[: -(len(prompt) - limit)],
            )  # a cut may change how its end is cut into tokens: look again
            prompt = self.chat([{"role": "user", "content": ask + self.decode(pieces)}])
        if len(prompt) > limit:
            raise ModelError(
                f"model {self.name!r}",
                f"its context of {self.max_length} tokens has no room for a prompt and {room} new tokens",
                hint="choose other --tasks",
            )
        return prompt, cut

    def chat_pair(self, messages: Turns, answer: str) -> Likelihood:
        """A likelihood request for ``answer`` as the assistant's next turn; only the answer's own text is scored."""
        return self._split(self.template.render(messages, True), answer, special=False)

    def dialogue(self, messages: Turns) -> Tokens:
        """Tokens of a whole dialogue, final answer and its end marker included (calibration samples)."""
        return self.encoding.ids(self.template.render(messages, False), special=False)

    @property
    def first(self) -> Tokens:
        """The special tokens that the tokenizer puts in front of every text: Gemma's ``<bos>``, for many none."""
        return self.encoding.first

    def _split(self, context: str, continuation: str, *, special: bool) -> Likelihood:
        kept = context.rstrip(" ")
        continuation = context[len(kept) :] + continuation
        whole = self.encoding.ids(kept + continuation, special=special)
        n_context = self._length(kept, special)
        before = whole[:n_context] or (self.encoding.opening if special else ())
        return Likelihood(before, whole[n_context:])

    def _length(self, context: str, special: bool) -> int:
        # the options of a question come one after the other behind the same, often long, context
        if self._context[:2] != (context, special):
            self._context = (context, special, len(self.encoding.ids(context, special=special)))
        return self._context[2]


def record_of(prompts: Prompts) -> dict[str, Any]:
    """What of the prompts is not the tokenizer's or the template's own way; for the report."""
    found: dict[str, Any] = {"end_tokens": list(prompts.ends)}
    if behind := prompts.encoding.behind:
        found["left_out_behind_texts"] = prompts.decode(behind)
    if prompts.template.tells_the_date:
        found["date"] = TODAY.isoformat()
    if prompts.template.source and prompts.template.folds_system:
        found["system_turns"] = "at the head of the first user turn"
    return found


def notes_of(prompts: Prompts) -> list[str]:
    """The same for the terminal, one sentence each; empty for most models."""
    record, notes = record_of(prompts), []
    if "left_out_behind_texts" in record:
        notes.append(
            f"the tokenizer of {prompts.name} closes every text with {record['left_out_behind_texts']}: "
            "left out, so that a prompt ends where its text does"
        )
    if "date" in record:
        notes.append(f"the chat template of {prompts.name} tells today's date: it is {record['date']} in every prompt")
    if "system_turns" in record:
        notes.append(f"the chat template of {prompts.name} takes no system turns: they stand {record['system_turns']}")
    return notes


def user(content: str) -> list[Mapping[str, str]]:
    """A dialogue of one user turn."""
    return [{"role": "user", "content": content}]
