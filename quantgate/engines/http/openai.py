"""``/v1/completions`` as vLLM, llama-cpp-python, LM Studio and hosted endpoints speak it.

Two ways to likelihoods of given tokens: vLLM's own ``prompt_logprobs``, whose answers are filed under token numbers;
and ``echo`` with ``logprobs``, of which servers understand anything or nothing: many answer 200 and ignore it, so what
comes back is counted against what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from quantgate.core.errors import UsageError
from quantgate.core.remote import Remote
from quantgate.core.requests import Generate, GenerateResponse, Tokens
from quantgate.engines.http.lines import (
    CLOSE,
    Facts,
    Likely,
    Line,
    NotOfferedError,
    Plain,
    Scored,
    Way,
    check_count,
    check_ended,
    cut_answer,
    cut_text,
    inside,
    likeliest,
    listed,
    number,
    rows,
    table,
    told,
    wholes,
)
from quantgate.engines.http.topk import TopK

PATH: Final = "/v1/completions"
_FEW: Final = 4  # stop strings that every server takes
_NUMBERED: Final = re.compile(r"token_id:([0-9]{1,9})")
_LM_STUDIO: Final = "/api/v0/models"


class PromptLogprobs(Plain):
    """vLLM's ``prompt_logprobs``."""

    name: Final = "prompt_logprobs"
    words: Final = "prompt log-probabilities (prompt_logprobs)"

    def scores(self, line: Line, tokens: Tokens, start: int) -> list[Scored]:
        """See `Way.scores`: one call."""
        body = {"model": line.model, "prompt": list(tokens), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1}
        reply = line.ask(PATH, body, len(tokens) + 1)
        found = listed(inside(reply, "choices", 0, "prompt_logprobs"), "prompt_logprobs")
        if len(found) != len(tokens):
            raise NotOfferedError(f"{len(found)} prompt_logprobs of {len(tokens)} tokens")
        return [_of(row, token) for row, token in zip(found[start:], tokens[start:], strict=True)]


def _of(row: Any, token: int) -> Scored:
    """The score of ``token`` in one position's table."""
    mine = inside(row, str(token))
    value = number(inside(mine, "logprob"))
    best = max(number(inside(each, "logprob")) for each in row.values())
    return Scored(value, value >= best - CLOSE)


class Echo(Plain):
    """``echo`` with ``logprobs``: the prompt comes back with its log-probabilities, and one token more."""

    def __init__(self, *, as_text: bool) -> None:
        self.as_text = as_text
        self.name = "echo-text" if as_text else "echo"
        self.words = f"prompt log-probabilities (echo, {'text' if as_text else 'token ids'} sent)"

    def scores(self, line: Line, tokens: Tokens, start: int) -> list[Scored]:
        """See `Way.scores`: one call."""
        prompt: Any = line.codec.text(tokens) if self.as_text else list(tokens)
        body = {"model": line.model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        found = inside(line.ask(PATH, body, len(tokens) + 1), "choices", 0, "logprobs")
        if isinstance(found, dict) and "content" in found:
            raise NotOfferedError("only the generated token's log-probability (logprobs.content): echo is ignored")
        values = listed(inside(found, "token_logprobs"), "token_logprobs")
        if len(values) not in (len(tokens), len(tokens) + 1):
            what = "echo is ignored" if len(values) <= 1 < len(tokens) else "it cuts the text otherwise, or adds tokens"
            raise NotOfferedError(f"{len(values)} log-probabilities of {len(tokens)} tokens: {what}")
        tops = inside(found, "top_logprobs")
        tops = tops if isinstance(tops, list) and len(tops) == len(values) else [None] * len(values)
        return [_echoed(values[at], tops[at]) for at in range(start, len(tokens))]


def _echoed(value: Any, top: Any) -> Scored:
    if not isinstance(top, Mapping) or not top:
        raise NotOfferedError("no top_logprobs beside token_logprobs")
    mine = number(value)
    return Scored(mine, mine >= max(map(number, top.values())) - CLOSE)


class OpenAi:
    """See the module's docstring."""

    name: Final = "openai"
    shows_all: bool = False

    @property
    def ways(self) -> tuple[Way, ...]:
        """See `Dialect.ways`."""
        return (PromptLogprobs(), Echo(as_text=False), Echo(as_text=True), TopK(self.top))

    def facts(self, remote: Remote, model: str) -> Facts | None:
        """See `Dialect.facts`: ``/v1/models``; of vLLM its version, of LM Studio the quantization.

        Raises:
            UsageError: the server has several models, or none of that name.
        """
        row = chosen(rows(told(remote, "/v1/models").get("data")), model, remote.who)
        if row is None:
            return None
        version = told(remote, "/version").get("version", "")
        owner = str(row.get("owned_by", ""))
        details: dict[str, str | int | float] = {}
        for key, value in (("root", row.get("root")), ("context", row.get("max_model_len"))):
            if isinstance(value, (str, int)) and value:
                details[key] = value if isinstance(value, int) else value.rpartition("/")[2]
        for each in rows(told(remote, _LM_STUDIO).get("data")):
            if each.get("id") == row["id"]:
                owner, details["quantization"] = "LM Studio", str(each.get("quantization", ""))
        server = "vLLM" if owner == "vllm" else owner if owner == "LM Studio" else self.name
        return Facts(server, str(row["id"]), str(version), details)

    def top(self, line: Line, tokens: Tokens, count: int) -> list[Likely]:
        """See `Dialect.top`."""
        prompt = line.prompt(tokens)
        body = {"model": line.model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": count}
        if line.server == "vLLM":
            body["return_tokens_as_token_ids"] = True
        reply = line.ask(PATH, body, len(tokens) + 1)
        check_count(_used(reply, "prompt_tokens"), tokens, needed=line.as_text)
        found = inside(reply, "choices", 0, "logprobs")
        if isinstance(found, dict) and "content" in found:
            shown = listed(inside(found, "content", 0, "top_logprobs"), "likeliest tokens")
            pairs = [(inside(each, "token"), inside(each, "logprob")) for each in shown]
        else:
            pairs = list(table(inside(found, "top_logprobs", 0), "likeliest tokens").items())
        return likeliest((text, value, _numbered(str(text))) for text, value in pairs)

    def generate(self, line: Line, request: Generate) -> GenerateResponse:
        """See `Dialect.generate`: token ids if the server takes them, otherwise text that is read as they were."""
        body = {
            "model": line.model, "prompt": line.prompt(request.prompt), "max_tokens": request.max_new_tokens,
            "temperature": 0, **({"stop": list(request.stop[:_FEW])} if request.stop else {}),
        }  # fmt: skip
        if line.server == "vLLM":
            body |= {"stop_token_ids": list(request.ends), "return_token_ids": True}
        reply = line.ask(PATH, body, len(request.prompt))
        check_count(_used(reply, "prompt_tokens"), request.prompt, needed=line.as_text)
        choice = table(inside(reply, "choices", 0), "choice")
        reason = inside(choice, "finish_reason")
        if isinstance(choice.get("token_ids"), list) and reason == "length":
            ids = wholes(choice["token_ids"], "tokens")
            line.spend(len(ids))
            check_ended(request, len(ids), full=True)
            return cut_answer(line, request, ids)
        count = _used(reply, "completion_tokens")
        line.spend(count)
        check_ended(request, count or request.max_new_tokens, full=reason == "length")
        answer = cut_text(request, str(inside(choice, "text")), count, full=reason == "length")
        matched = choice.get("stop_reason")
        if reason == "stop" and isinstance(matched, str) and matched in request.stop:
            return GenerateResponse(answer.text, answer.n_tokens, "stop")
        return answer

    def cut(self, line: Line, text: str) -> list[int] | None:
        """See `Dialect.cut`: vLLM alone has it."""
        if line.server != "vLLM":
            return None
        body = {"model": line.model, "prompt": text, "add_special_tokens": False}
        return wholes(inside(line.remote.post("/tokenize", body), "tokens"), "tokens")

    def spelt(self, line: Line, tokens: Tokens) -> str | None:
        """See `Dialect.spelt`: vLLM alone has it."""
        if line.server != "vLLM":
            return None
        body = {"model": line.model, "tokens": list(tokens)}
        return str(inside(line.remote.post("/detokenize", body), "prompt"))


def _used(reply: Any, name: str) -> int:
    """A number of tokens out of ``usage``; 0 where it is not told."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 < count < 1 << 31 else 0


def _numbered(text: str) -> int | None:
    return int(found[1]) if (found := _NUMBERED.fullmatch(text)) else None


def chosen(known: list[dict[str, Any]], model: str, who: str) -> dict[str, Any] | None:
    """The row (by ``id``) of the model that is meant; None of no rows. Raises UsageError where that is not clear."""
    names = [name for row in known if isinstance(name := row.get("id"), str) and name]
    if not names:
        return None
    if not model and len(names) == 1:
        model = names[0]
    if model in names:
        return next(row for row in known if row.get("id") == model)
    found = f"no model {model!r} there" if model else f"{len(names)} models there"
    shown = ", ".join(names[:6])
    raise UsageError(who, found, expected=f"one of {shown}", hint="name it behind the address: http://…/v1#NAME")
