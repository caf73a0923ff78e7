"""Ollama's ``/api/generate`` with ``raw``: text in, the likeliest next tokens out (since 0.12.11).

No token can be forced, and no prompt has log-probabilities: options of one token can be scored, everything else is
generated. How many tokens the prompt had is compared with what was meant, since a prompt that is longer than
``num_ctx`` is cut in silence.
"""

from __future__ import annotations

from typing import Any, Final

from quantgate.core.remote import Remote
from quantgate.core.requests import Generate, GenerateResponse, Tokens
from quantgate.engines.http.lines import (
    Facts,
    Likely,
    Line,
    Way,
    check_count,
    check_ended,
    cut_text,
    inside,
    likeliest,
    listed,
    rows,
    table,
    told,
)
from quantgate.engines.http.openai import chosen
from quantgate.engines.http.topk import TopK

_PLAIN: Final = {"temperature": 0, "seed": 0, "top_k": 1, "repeat_penalty": 1.0}


class Ollama:
    """See the module's docstring."""

    name: Final = "Ollama"
    shows_all: bool = False

    @property
    def ways(self) -> tuple[Way, ...]:
        """See `Dialect.ways`."""
        return (TopK(self.top, as_text=True),)

    def facts(self, remote: Remote, model: str) -> Facts | None:
        """See `Dialect.facts`: ``/api/tags`` says what was really loaded. Raises UsageError as `chosen`."""
        version = told(remote, "/api/version").get("version")
        if not isinstance(version, str):
            return None
        known = rows(told(remote, "/api/tags").get("models"))
        row = chosen([{**each, "id": each.get("name")} for each in known], model, remote.who)
        if row is None:
            return None
        about = row.get("details")
        details: dict[str, str | int | float] = {"digest": str(row.get("digest", ""))[:16]}
        if isinstance(about, dict):
            details["quantization"] = str(about.get("quantization_level", ""))
        return Facts(self.name, str(row["id"]), version, details)

    def top(self, line: Line, tokens: Tokens, count: int) -> list[Likely]:
        """See `Dialect.top`."""
        reply = _generate(line, tokens, {"num_predict": 1}, {"logprobs": True, "top_logprobs": count})
        shown = listed(inside(reply, "logprobs", 0, "top_logprobs"), "likeliest tokens")
        return likeliest((inside(row, "token"), inside(row, "logprob"), None) for row in shown)

    def generate(self, line: Line, request: Generate) -> GenerateResponse:
        """See `Dialect.generate`: text alone."""
        options: dict[str, Any] = {"num_predict": request.max_new_tokens}
        if request.stop:
            options["stop"] = list(request.stop)
        reply = _generate(line, request.prompt, options, {})
        count = reply.get("eval_count")
        count = count if isinstance(count, int) and 0 < count < 1 << 31 else 0
        line.spend(count)
        full = reply.get("done_reason") == "length"
        check_ended(request, count or request.max_new_tokens, full=full)
        return cut_text(request, str(inside(reply, "response")), count, full=full)

    def cut(self, line: Line, text: str) -> list[int] | None:
        """See `Dialect.cut`: prompts are counted instead."""
        return None

    def spelt(self, line: Line, tokens: Tokens) -> str | None:
        """See `Dialect.spelt`: prompts are counted instead."""
        return None


def _generate(line: Line, tokens: Tokens, options: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    body = {
        "model": line.model, "prompt": line.codec.text(tokens), "raw": True, "stream": False,
        "options": {**_PLAIN, **options}, **more,
    }  # fmt: skip
    reply = table(line.ask("/api/generate", body, len(tokens) + 1), "answer")
    inside(reply, "done")
    check_count(reply.get("prompt_eval_count"), tokens, needed=True)
    return reply
