"""From text to the token ids a model is asked with, by the reference's tokenizer and chat template.

Whatever the tokenizer's own habits, a prompt ends where its text ends: special tokens that a tokenizer would put behind
every text (``add_eos_token``, SEP) are left out, those it puts in front stay. A template's clock stands still, and
system turns that a template refuses go to the head of the first user turn; :meth:`Prompts.record` says which of it was
done.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import cached_property
from typing import Any, Final

from quantgate.core.errors import ModelError, translated
from quantgate.core.requests import Generate, Likelihood, Sampling, Tokens

TODAY: Final = date(2024, 7, 26)  # what Llama 3's own template takes for today where it is given no clock
_PROBE: Final = "a"
_CHANCE: Final = re.compile(r"\|\s*random\b|\blipsum\s*\(")

Turns = Sequence[Mapping[str, str]]


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
        seed: int = 1234,
    ) -> None:
        self._tokenizer = tokenizer
        self.max_length, self.ends = max_length, ends
        self.shipped, self.seed = shipped, seed
        self._name = name
        self._context: tuple[str, bool, int] = ("", False, 0)
        self._corpora: dict[str, Tokens] = {}

    def encode(self, text: str) -> Tokens:
        """Tokens of plain text, with the special tokens the tokenizer puts in front of every text (often none)."""
        return self._ids(text, special=True)

    def plain(self, text: str) -> Tokens:
        """Tokens of plain text and nothing else; kept, since several tasks read the same corpus, a second each."""
        if text not in self._corpora:
            self._corpora[text] = self._ids(text, special=False)
        return self._corpora[text]

    def piece(self, text: str) -> Tokens:
        """Tokens of one document among many, nothing in front of it; not kept."""
        return self._ids(text, special=False)

    @property
    def vocabulary(self) -> int:
        """How many tokens the tokenizer knows."""
        return len(self._tokenizer)

    def decode(self, tokens: Tokens) -> str:
        """Text of tokens, special tokens included."""
        return str(self._tokenizer.decode(list(tokens)))

    def ended(self, request: Generate) -> Generate:
        """``request`` with the tokens that end its answer, and no more new ones than the context has room for."""
        room = self.max_length - len(request.prompt) + 1  # the last new token is never read
        return replace(request, max_new_tokens=min(request.max_new_tokens, max(room, 1)), ends=self.ends)

    def sampling(self, greedy: str) -> Sampling:
        """The model's own sampling. Raises ModelError where it ships none; ``greedy``: the task to ask then."""
        if self.shipped is None:
            raise ModelError(
                f"model {self._name!r}",
                "its generation_config.json asks for no sampling",
                expected="do_sample: true, with a temperature, top_k or top_p",
                hint=f"answers of this model are greedy: --tasks {greedy}",
            )
        return replace(self.shipped, seed=self.seed)

    def pair(self, context: str, continuation: str) -> Likelihood:
        """A likelihood request for ``continuation`` behind ``context``.

        Both are encoded together and split at the length of the encoded context, and spaces that end the context go to
        the continuation: lm-evaluation-harness does the same, so that scores can be compared.
        """
        return self._split(context, continuation, special=True)

    def chat(self, messages: Turns) -> Tokens:
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

    def chat_pair(self, messages: Turns, answer: str) -> Likelihood:
        """A likelihood request for ``answer`` as the assistant's next turn; only the answer's own text is scored."""
        return self._split(self._render(messages, True), answer, special=False)

    def dialogue(self, messages: Turns) -> Tokens:
        """Tokens of a whole dialogue, final answer and its end marker included (calibration samples)."""
        return self._ids(self._render(messages, False), special=False)

    def record(self) -> dict[str, Any]:
        """What of the prompts is not the tokenizer's or the template's own way; for the report."""
        found: dict[str, Any] = {"end_tokens": list(self.ends)}
        if self.behind:
            found["left_out_behind_texts"] = self.decode(self.behind)
        if "strftime_now" in self._template:
            found["date"] = TODAY.isoformat()
        if self._template and self.folds_system:
            found["system_turns"] = "at the head of the first user turn"
        return found

    def notes(self) -> list[str]:
        """The same for the terminal, one sentence each; empty for most models."""
        record, notes = self.record(), []
        if "left_out_behind_texts" in record:
            notes.append(
                f"the tokenizer of {self._name} closes every text with {record['left_out_behind_texts']}: "
                "left out, so that a prompt ends where its text does"
            )
        if "date" in record:
            notes.append(
                f"the chat template of {self._name} tells today's date: it is {record['date']} in every prompt"
            )
        if "system_turns" in record:
            notes.append(
                f"the chat template of {self._name} takes no system turns: they stand {record['system_turns']}"
            )
        return notes

    # --- text -------------------------------------------------------------------------------------------------------

    @property
    def first(self) -> Tokens:
        """The special tokens that the tokenizer puts in front of every text: Gemma's ``<bos>``, for many none."""
        return self._special[0]

    @property
    def behind(self) -> Tokens:
        """Special tokens that the tokenizer would put behind every text: they are left out everywhere."""
        return self._special[1]

    @cached_property
    def plain_tokens(self) -> Tokens:
        """Ids of all tokens that are part of ordinary text, ascending: no special and no added ones."""
        left_out = {*self._tokenizer.all_special_ids, *self._tokenizer.get_added_vocab().values()}
        return tuple(sorted({*self._tokenizer.get_vocab().values()} - left_out))

    @cached_property
    def _special(self) -> tuple[Tokens, Tokens]:
        bare, whole = (self._read(_PROBE, special=on) for on in (False, True))
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        raise ModelError(
            f"model {self._name!r}",
            f"its tokenizer makes {list(whole)} of {_PROBE!r} with special tokens and {list(bare)} without",
            expected="special tokens in front of a text and behind it, and the same text between them",
            hint="mend the tokenizer's post-processor",
        )

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
        tokens = self._read(text, special=False)
        return self.first + tokens if special else tokens

    def _read(self, text: str, *, special: bool) -> Tokens:
        with translated(
            f"model {self._name!r}", "its tokenizer cannot read a text", hint="save the tokenizer's files again"
        ):
            return tuple(self._tokenizer(text, add_special_tokens=special, verbose=False).input_ids)

    # --- chat -------------------------------------------------------------------------------------------------------

    @cached_property
    def _template(self) -> str:
        """Source of the chat template (of all of them, where there are several); empty where there is none."""
        found = getattr(self._tokenizer, "chat_template", None) or ""
        return found if isinstance(found, str) else "\n".join(map(str, found.values()))

    @cached_property
    def folds_system(self) -> bool:
        """Whether the chat template refuses a system turn, or says nothing of it."""
        turns = [{"role": role, "content": f"what the {role} says"} for role in ("system", "user")]
        try:
            return turns[0]["content"] not in self._rendered(turns, True)
        except ModelError:
            return True

    def _render(self, messages: Turns, generation: bool) -> str:
        if not self._template:
            raise ModelError(
                f"model {self._name!r}",
                "its tokenizer has no chat template",
                expected="an instruction-tuned model for chat tasks",
                hint="choose other --tasks, or add chat_template.jinja to the model",
            )
        if _CHANCE.search(self._template):
            raise ModelError(
                f"model {self._name!r}",
                "its chat template draws at random",
                expected="the same prompt each time",
                hint="take the random part out of the template",
            )
        has_system = any(message["role"] == "system" for message in messages)
        return self._rendered(_folded(messages) if has_system and self.folds_system else messages, generation)

    def _rendered(self, messages: Turns, generation: bool) -> str:
        roles = ", ".join(message["role"] for message in messages)
        with translated(
            f"model {self._name!r}",
            f"its chat template cannot render a dialogue of {roles}",
            expected="turns of user and assistant as text",
            hint="choose other --tasks and another --calibration, or mend chat_template.jinja",
        ):
            text: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=generation,
                strftime_now=TODAY.strftime,
            )
            return text


def _folded(messages: Turns) -> list[Mapping[str, str]]:
    """The turns without system turns, whose texts stand at the head of the next user turn."""
    found: list[Mapping[str, str]] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif waiting and message["role"] == "user":
            found.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            found.append(message)
    return [*found, *user("\n\n".join(waiting))] if waiting else found


def user(content: str) -> list[Mapping[str, str]]:
    """A dialogue of one user turn."""
    return [{"role": "user", "content": content}]
