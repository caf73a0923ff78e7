"""SGLang's native ``/generate``: token ids in, log-probabilities of the prompt from a given place on.

The place is given as the context's end, so that the cached prefix is used; a start of 0 would read every prompt whole
(sgl-project/sglang#902). Its ``/v1/completions`` refuses ``echo`` with ``logprobs`` in the log alone: it is not used.
"""

from __future__ import annotations

from typing import Any, Final

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
    check_count,
    check_ended,
    cut_answer,
    cut_text,
    inside,
    likeliest,
    listed,
    number,
    table,
    told,
    whole,
)

_FACTS: Final = ("/get_model_info", "/model_info")


class Native(Plain):
    """Prompt log-probabilities of the native endpoint."""

    name: Final = "native"
    words: Final = "prompt log-probabilities of the native /generate"

    def scores(self, line: Line, tokens: Tokens, start: int) -> list[Scored]:
        """See `Way.scores`: one call. What comes first in the reply has no value, so one token more is asked for."""
        meta = _generate(line, tokens, 1, {"logprob_start_len": start - 1, "top_logprobs_num": 1})
        wanted = len(tokens) - start
        values = listed(inside(meta, "input_token_logprobs"), "input_token_logprobs")[-wanted:]
        tops = listed(inside(meta, "input_top_logprobs"), "input_top_logprobs")[-wanted:]
        if len(values) < wanted or len(tops) < wanted:
            raise NotOfferedError(f"{len(values)} log-probabilities of {wanted} tokens")
        return [_score(*each) for each in zip(tokens[start:], values, tops, strict=True)]


def _score(token: int, value: Any, top: Any) -> Scored:
    if (other := whole(inside(value, 1))) != token:
        raise NotOfferedError(f"the log-probability of token {other} where {token} was meant")
    mine = number(inside(value, 0))
    return Scored(mine, mine >= number(inside(top, 0, 0)) - CLOSE)


def _generate(line: Line, tokens: Tokens, new: int, more: dict[str, Any], **sampling: Any) -> dict[str, Any]:
    body = {
        "input_ids": list(tokens), "sampling_params": {"max_new_tokens": new, "temperature": 0, **sampling},
        "return_logprob": True, **more,
    }  # fmt: skip
    reply = table(line.ask("/generate", body, len(tokens) + 1), "answer")
    meta = table(inside(reply, "meta_info"), "meta_info")
    check_count(meta.get("prompt_tokens"), tokens)
    return {**meta, "text": reply.get("text", ""), "output_ids": reply.get("output_ids")}


class SgLang:
    """See the module's docstring."""

    name: Final = "SGLang"
    shows_all: bool = False
    ways: Final = (Native(),)

    def facts(self, remote: Remote, model: str) -> Facts | None:
        """See `Dialect.facts`."""
        for path in _FACTS:
            found = told(remote, path)
            if "model_path" in found and "is_generation" in found:
                version = str(told(remote, "/get_server_info").get("version", ""))
                names = ("weight_version", "tokenizer_path")
                details = {name: str(found[name]).rpartition("/")[2] for name in names if found.get(name)}
                return Facts(self.name, str(found["model_path"]).rpartition("/")[2], version, details)
        return None

    def top(self, line: Line, tokens: Tokens, count: int) -> list[Likely]:
        """See `Dialect.top`."""
        meta = _generate(line, tokens, 1, {"logprob_start_len": -1, "top_logprobs_num": count})
        rows = listed(inside(meta, "output_top_logprobs", 0), "likeliest tokens")
        return likeliest(("", inside(each, 0), inside(each, 1)) for each in rows)

    def generate(self, line: Line, request: Generate) -> GenerateResponse:
        """See `Dialect.generate`: token ids where they come back."""
        sampling: dict[str, Any] = {"stop_token_ids": list(request.ends), "skip_special_tokens": True}
        if request.stop:
            sampling["stop"] = list(request.stop)
        meta = _generate(line, request.prompt, request.max_new_tokens, {"logprob_start_len": -1}, **sampling)
        rows = meta.get("output_token_logprobs")
        ids = [whole(inside(each, 1)) for each in rows] if isinstance(rows, list) else []
        line.spend(len(ids))
        reason = meta.get("finish_reason")
        kind = reason.get("type") if isinstance(reason, dict) else reason
        count = len(ids) or whole(meta.get("completion_tokens") or 0, "number of tokens")
        check_ended(request, count or request.max_new_tokens, full=kind == "length")
        if not ids:
            return cut_text(request, str(meta["text"]), count, full=kind == "length")
        answer = cut_answer(line, request, ids)
        matched = reason.get("matched") if isinstance(reason, dict) else None
        stopped = isinstance(matched, str) and matched in request.stop and answer.finish != "stop"
        return GenerateResponse(answer.text, answer.n_tokens, "stop") if stopped else answer

    def cut(self, line: Line, text: str) -> list[int] | None:
        """See `Dialect.cut`: it does not tell."""
        return None

    def spelt(self, line: Line, tokens: Tokens) -> str | None:
        """See `Dialect.spelt`: the prompt's tokens as the log-probabilities' texts."""
        more = {"logprob_start_len": 0, "top_logprobs_num": 0, "return_text_in_logprobs": True}
        rows = listed(inside(_generate(line, tokens, 1, more), "input_token_logprobs"), "input_token_logprobs")
        texts = [each[2] if isinstance(each, list) and len(each) > 2 else None for each in rows]
        if len(texts) != len(tokens) or not all(isinstance(each, str) for each in texts):
            return None
        return "".join(map(str, texts))
