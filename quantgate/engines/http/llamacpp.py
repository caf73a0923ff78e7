"""llama.cpp's own server: no prompt log-probabilities, but a forced token comes back with its unbiased one.

``logit_bias`` makes a token the only one that can be sampled; ``completion_probabilities`` is a softmax of the raw
logits, in which the sampled token is looked up whatever was done to it afterwards. So one call a token gives an exact
likelihood, and the prefix is in the server's cache by then. ``/v1/completions`` with ``echo`` answers 200, ignores it,
and scores nothing (ggml-org/llama.cpp#27174): it is never used here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from quantgate.core.remote import Remote, RemoteError
from quantgate.core.requests import Generate, GenerateResponse, LikelihoodResponse, Tokens
from quantgate.engines.http.lines import (
    CLOSE,
    Facts,
    Likely,
    Line,
    Plain,
    Scored,
    check_count,
    check_ended,
    cut_answer,
    inside,
    likeliest,
    listed,
    number,
    rows,
    summed,
    told,
    whole,
    wholes,
)

BIAS: Final = 1000.0
SHOWN: Final = 32
"""Next tokens asked for at once where several options begin behind one prefix."""
_PLAIN: Final = {
    "temperature": 0, "top_k": 1, "samplers": ["top_k"], "repeat_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "dry_multiplier": 0.0, "xtc_probability": 0.0, "mirostat": 0, "dynatemp_range": 0.0,
    "post_sampling_probs": False, "backend_sampling": False, "cache_prompt": True, "stream": False,
}  # fmt: skip
"""Greedy, with everything off that would bend the distribution."""


class Forced(Plain):
    """Every token is forced, and its own probability read."""

    name: Final = "forced"
    words: Final = "one forced token a call (logit_bias), the prefix cached"

    def scores(self, line: Line, tokens: Tokens, start: int) -> list[Scored]:
        """See `Way.scores`: as many calls as tokens."""
        return [_forced(line, tokens[:at], tokens[at]) for at in range(start, len(tokens))]

    def likelihoods(self, line: Line, context: Tokens, continuations: Sequence[Tokens]) -> list[LikelihoodResponse]:
        """See `Way.likelihoods`; what several continuations begin with is asked once."""
        known: dict[Tokens, dict[int, Scored]] = {}
        for prefix, wanted in _branches(continuations).items():
            known[prefix] = _several(line, (*context, *prefix), wanted)
        return [summed([known[each[:at]][each[at]] for at in range(len(each))]) for each in continuations]


def _branches(continuations: Sequence[Tokens]) -> dict[Tokens, list[int]]:
    """Prefix of a continuation -> next tokens behind it; neighbours share what the server has in its cache."""
    found: dict[Tokens, list[int]] = {}
    for each in continuations:
        for at, token in enumerate(each):
            following = found.setdefault(each[:at], [])
            if token not in following:
                following.append(token)
    return found


def _several(line: Line, prefix: Tokens, wanted: Sequence[int]) -> dict[int, Scored]:
    if len(wanted) == 1:
        return {wanted[0]: _forced(line, prefix, wanted[0])}
    first, *_ = seen = _top(line, prefix, SHOWN)
    found = {
        each.number: Scored(each.logprob, each.logprob >= first.logprob - CLOSE)
        for each in seen
        if each.number is not None
    }
    return {token: found[token] if token in found else _forced(line, prefix, token) for token in wanted}


def _forced(line: Line, prefix: Tokens, token: int) -> Scored:
    reply = line.ask(
        "/completion",
        {**_PLAIN, "prompt": list(prefix), "n_predict": 1, "n_probs": 1, "logit_bias": [[token, BIAS]]},
        len(prefix) + 1,
    )
    _check_read(reply, prefix)
    chosen = inside(reply, "completion_probabilities", 0)
    if (came := whole(inside(chosen, "id"))) != token:
        raise RemoteError(line.remote.who, f"token {token} was forced and {came} came", expected="logit_bias to work")
    value = number(inside(chosen, "logprob"))
    best = number(inside(chosen, "top_logprobs", 0, "logprob"))
    return Scored(value, value >= best - CLOSE)


def _top(line: Line, prefix: Tokens, count: int) -> list[Likely]:
    body = {**_PLAIN, "prompt": list(prefix), "n_predict": 1, "n_probs": count}
    reply = line.ask("/completion", body, len(prefix) + 1)
    _check_read(reply, prefix)
    found = listed(inside(reply, "completion_probabilities", 0, "top_logprobs"), "likeliest tokens")
    return likeliest((inside(each, "token"), inside(each, "logprob"), inside(each, "id")) for each in found)


def _check_read(reply: Any, prefix: Tokens) -> None:
    """Refuse an answer to a prompt that the server cut short, or that is another one, and one that it drew by chance:
    of the temperature every reply says what it was.
    """
    if not isinstance(reply, dict):
        return
    check_count(reply.get("tokens_evaluated"), prefix)
    if reply.get("truncated") is True:
        raise RemoteError("llama.cpp", f"it cut a prompt of {len(prefix)} tokens short", expected="a larger --ctx-size")
    settings = reply.get("generation_settings")
    warmth = settings.get("temperature") if isinstance(settings, dict) else None
    if isinstance(warmth, (int, float)) and warmth != 0:  # NaN is no zero either
        raise RemoteError("llama.cpp", f"it answered at temperature {warmth:g}", expected="0, as it was asked to")


class LlamaCpp:
    """See the module's docstring."""

    name: Final = "llama.cpp"
    shows_all: bool = True
    ways: Final = (Forced(),)

    def facts(self, remote: Remote, model: str) -> Facts | None:
        """See `Dialect.facts`: ``/props``, and what ``/v1/models`` says of sizes."""
        props = told(remote, "/props")
        if "default_generation_settings" not in props:
            return None
        described = _described(told(remote, "/v1/models"), model)
        details: dict[str, str | int | float] = {}
        settings = props["default_generation_settings"]
        context = settings.get("n_ctx") if isinstance(settings, dict) else None
        for key, value in (
            ("file", str(props.get("model_path", "")).replace("\\", "/").rpartition("/")[2]),
            ("quantization", described.get("ftype", props.get("model_ftype"))),
            ("parameters", described.get("n_params")),
            ("bytes", described.get("size")),
            ("context", context),
        ):
            if isinstance(value, (str, int)) and value:
                details[key] = value
        name = model or str(props.get("model_alias") or details.get("file", ""))
        slots = props.get("total_slots")
        return Facts(
            self.name, name.rpartition("/")[2], str(props.get("build_info", "")), details,
            slots if isinstance(slots, int) and slots > 0 else 0,
        )  # fmt: skip

    def top(self, line: Line, tokens: Tokens, count: int) -> list[Likely]:
        """See `Dialect.top`."""
        return _top(line, tokens, count)

    def generate(self, line: Line, request: Generate) -> GenerateResponse:
        """See `Dialect.generate`: in tokens."""
        body: dict[str, Any] = {
            **_PLAIN, "prompt": list(request.prompt), "n_predict": request.max_new_tokens, "stop": list(request.stop),
            "return_tokens": True,
        }  # fmt: skip
        reply = line.ask("/completion", body, len(request.prompt))
        _check_read(reply, request.prompt)
        tokens = wholes(inside(reply, "tokens"), "tokens")
        line.spend(len(tokens))
        check_ended(request, len(tokens), full=inside(reply, "stop_type") == "limit")
        answer = cut_answer(line, request, tokens)
        if inside(reply, "stop_type") == "word" and answer.finish != "stop":
            # the server leaves out the token that completed the stop string
            return GenerateResponse(answer.text, answer.n_tokens, "stop")
        return answer

    def cut(self, line: Line, text: str) -> list[int] | None:
        """See `Dialect.cut`."""
        body = {"content": text, "add_special": False, "parse_special": True}
        return wholes(inside(line.remote.post("/tokenize", body), "tokens"), "tokens")

    def spelt(self, line: Line, tokens: Tokens) -> str | None:
        """See `Dialect.spelt`."""
        reply = line.remote.post("/detokenize", {"tokens": list(tokens)})
        return str(inside(reply, "content"))


def _described(models: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    """``meta`` of the model that is meant, or of the only one."""
    found = rows(models.get("data"))
    named = [each for each in found if model == each.get("id") or model in _list(each.get("aliases"))]
    meta = (named or found or [{}])[0].get("meta")
    return meta if isinstance(meta, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
