"""A model's chat template: dialogues as text, with a clock that stands still and without turns it does not take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import Any, Final

from quantgate.core.errors import ModelError, translated

TODAY: Final = date(2024, 7, 26)  # what Llama 3's own template takes for today where it is given no clock
_CHANCE: Final = re.compile(r"\|\s*random\b|\blipsum\s*\(")

Turns = Sequence[Mapping[str, str]]


class ChatTemplate:
    """``tokenizer``: of transformers, which holds the template; ``name``: the model's, for messages."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name

    @property
    def source(self) -> str:
        """Source of the template (of all of them, where there are several); empty where there is none."""
        found = getattr(self._tokenizer, "chat_template", None) or ""
        return found if isinstance(found, str) else "\n".join(map(str, found.values()))

    @property
    def tells_the_date(self) -> bool:
        """Whether it asks for today's date."""
        return "strftime_now" in self.source

    @cached_property
    def folds_system(self) -> bool:
        """Whether it refuses a system turn, or says nothing of it."""
        remember = getattr(self._tokenizer, "said", None)  # a refusal too need not be asked for twice
        return bool(self._folds() if remember is None else remember("folds system turns", self._folds))

    def _folds(self) -> bool:
        turns = [{"role": role, "content": f"what the {role} says"} for role in ("system", "user")]
        try:
            return turns[0]["content"] not in self._rendered(turns, True)
        except ModelError:
            return True

    def render(self, messages: Turns, generation: bool) -> str:
        """The dialogue as text; ``generation``: up to where the assistant's next answer begins.

        Raises:
            ModelError: there is no template, it draws at random, or it cannot render these turns.
        """
        if not self.source:
            raise ModelError(
                f"model {self._name!r}",
                "its tokenizer has no chat template",
                expected="an instruction-tuned model for chat tasks",
                hint="choose other --tasks, or add chat_template.jinja to the model",
            )
        if _CHANCE.search(self.source):
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
    return [*found, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else found
