"""A language model as judge, behind an OpenAI-compatible endpoint, for what no rule can check.

Replies are asked for at temperature 0 and kept on disk by the digest of endpoint, model and prompt: a run that is
repeated, or that shares answers with another one, asks nothing twice and gets the same verdicts.

An endpoint that does not answer is an error. A single reply without a text (null content, a filter's refusal, no JSON)
is asked for once more and then counts as a reply that says nothing: it costs the verdict it was about. An endpoint of
which the first replies are all like that is no judge, and an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.errors import UsageError
from quantgate.core.reading import Unreadable
from quantgate.core.remote import Manners, Remote, RemoteError
from quantgate.store.store import write_atomically
from quantgate.tasks.base import Task

KEY: Final = "QUANTGATE_JUDGE_KEY"
_MAX_TOKENS: Final = 1024
_TIMEOUT_S: Final = 120.0
_ATTEMPTS: Final = 4
_ATTEMPTS_AT_TEXT: Final = 2
_NO_JUDGE_AFTER: Final = 20  # replies without a text, and not one with


@dataclass
class _Seen:
    """How many replies of this run had a text, and how many had none."""

    texts: int = 0
    empty: int = 0


class _NoTextError(Exception):
    """The endpoint answered, but there is no text in it."""


@dataclass(frozen=True)
class Judge:
    """``url``: base of the endpoint, with its ``/v1``; ``model``: its name there; ``cache``: where replies are kept.

    The key, where the endpoint wants one, comes from the environment variable ``QUANTGATE_JUDGE_KEY``.
    """

    url: str
    model: str
    cache: Path
    pause_s: float = 1.0
    _seen: _Seen = field(default_factory=_Seen, repr=False, compare=False)

    def reply(self, prompt: str) -> str:
        """The judge's reply to one user turn; empty when it has no text.

        Raises UsageError when the endpoint does not answer, or answers with nothing but such replies.
        """
        digest = hashlib.sha256(json.dumps([self.url, self.model, _MAX_TOKENS, prompt]).encode()).hexdigest()
        path = self.cache / f"{digest}.json"
        if (kept := _kept(path, self.model, prompt)) is not None:
            return kept
        try:
            reply = self._ask(prompt)
        except _NoTextError as error:
            self._seen.empty += 1
            if self._seen.empty >= _NO_JUDGE_AFTER and not self._seen.texts:
                raise self._error(str(error)) from error
            return ""
        self._seen.texts += 1
        write_atomically(path, json.dumps({"model": self.model, "prompt": prompt, "reply": reply}) + "\n")
        return reply

    def _ask(self, prompt: str) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": _MAX_TOKENS,
        }
        manners = Manners(_ATTEMPTS, self.pause_s, _TIMEOUT_S, reading.MOST_REPLY)
        remote = Remote(self.url.rstrip("/"), f"--judge {self.url}", (KEY,), manners)
        try:
            for attempt in range(1, _ATTEMPTS_AT_TEXT + 1):
                try:
                    return _content(_body(remote, body))
                except _NoTextError:
                    if attempt == _ATTEMPTS_AT_TEXT:
                        raise
        except RemoteError as error:
            raise self._error(error.found) from error
        finally:
            remote.close()
        raise AssertionError("at least one attempt")

    def _error(self, problem: str) -> UsageError:
        return UsageError(
            f"--judge {self.url}",
            f"model {self.model!r} gave no reply ({problem})",
            expected="an OpenAI-compatible endpoint",
            hint=f"check --judge, --judge-model and {KEY}; replies so far are kept",
        )


def judged_by(task: Task, judge: Judge | None) -> Task:
    """The task, or the one that it asks, with ``judge`` where it can use one."""
    inner: Any = task
    if is_dataclass(inner) and not isinstance(inner, type):
        if hasattr(inner, "judge"):
            inner = replace(inner, judge=judge)
        elif (asked := getattr(inner, "of", None)) is not None:
            inner = replace(inner, of=judged_by(asked, judge))
    found: Task = inner
    return found


def _body(remote: Remote, asked: dict[str, Any]) -> bytes:
    try:
        return remote.read("/chat/completions", asked)
    except RemoteError as error:
        if error.status in range(200, 300):  # it came, and was too long for any judgement
            raise _NoTextError(error.found) from error
        raise


def _kept(path: Path, model: str, prompt: str) -> str | None:
    """The reply kept in ``path``; None if there is none, or the file does not hold one to this prompt."""
    try:
        content = reading.read_json(path)
    except (OSError, Unreadable):
        return None
    sound = isinstance(content, dict) and content.get("model") == model and content.get("prompt") == prompt
    return content["reply"] if sound and isinstance(content.get("reply"), str) else None


def _content(body: bytes) -> str:
    try:
        content = reading.parse_json(body)["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise _NoTextError("no choices[0].message.content in the reply") from error
    except Unreadable as error:
        raise _NoTextError(f"no JSON in the reply ({error})") from error
    if not isinstance(content, str):
        raise _NoTextError(f"choices[0].message.content is a {type(content).__name__}")
    return content


def constraints_prompt(instructions: Sequence[str], answer: str) -> str:
    """Ask which of the added constraints an answer meets.

    ``instructions``: the seed instruction, then one per level, each with one constraint more than the one before; the
    answer is to the last.
    """
    count = len(instructions) - 1
    chain = "\n\n".join(
        f"#Instruction with {level} added constraint{'s' * (level != 1)}#\n{text}"
        if level
        else f"#Initial instruction#\n{text}"
        for level, text in enumerate(instructions)
    )
    plural = "s" * (count != 1)
    return (
        f"An initial instruction was made stricter step by step, by one constraint at a time, {count} time{plural} in "
        f"all.\n\n{chain}\n\n#Answer to the instruction with {count} added constraint{plural}#\n{answer}\n\n"
        "#Your task#\n"
        f"1) Name the {count} added constraint{plural}, in the order in which they were added.\n"
        "2) Discuss for each of them whether the answer satisfies it.\n"
        f"3) As the last line, write nothing but a Python list of {count} element{plural}, each 'YES' or 'NO': whether "
        "the answer satisfies that constraint."
    )


def parse_verdicts(reply: str, count: int) -> list[bool] | None:
    """The list on the reply's last line as truth values; None unless it holds exactly ``count`` times YES or NO.

    A single verdict may stand without its brackets.
    """
    lines = reply.strip("` \t\n").split("\n")  # a code fence around the list ends with a line of backquotes
    found = re.search(r"\[([^\[\]]*)\]", lines[-1])
    if found is None and count != 1:
        return None
    words = [word.strip().strip("'\"`").upper() for word in (found[1] if found else lines[-1]).split(",")]
    if len(words) != count or not set(words) <= {"YES", "NO"}:
        return None
    return [word == "YES" for word in words]
