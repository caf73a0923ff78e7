"""Text Generation Inference: the prompt's tokens with their log-probabilities (``decoder_input_details``).

It takes text alone, and says which tokens it made of it: they are compared with those that were meant, every time.
Which token was the likeliest it tells of generated ones only; where the value leaves that open, it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from quantgate.core.remote import Remote
from quantgate.core.requests import Generate, GenerateResponse, LikelihoodResponse, Tokens
from quantgate.engines.http.lines import (
    Facts,
    Likely,
    Line,
    NotOfferedError,
    Plain,
    Scored,
    check_ended,
    cut_answer,
    inside,
    likeliest,
    listed,
    number,
    summed,
    table,
    told,
    whole,
)

_MOST_TOP: Final = 5
_SURE: Final = math.log(0.5)  # a token of more than half the probability is the likeliest


class Prefill(Plain):
    """``details.prefill`` of ``/generate``."""

    name: Final = "prefill"
    words: Final = "prompt log-probabilities (decoder_input_details, text sent)"
    as_text: bool = True

    def scores(self, line: Line, tokens: Tokens, start: int) -> list[Scored]:
        """See `Way.scores`; ``best`` only where the value alone says it."""
        details = _details(line, tokens, 1, {"decoder_input_details": True})
        rows = _same(details, tokens)
        return [_score(row) for row in rows[start:]]

    def likelihoods(self, line: Line, context: Tokens, continuations: Sequence[Tokens]) -> list[LikelihoodResponse]:
        """See `Way.likelihoods`: where it is open whether a continuation is the greedy one, it is generated."""
        found: list[LikelihoodResponse] = []
        for each in continuations:
            scores = self.scores(line, (*context, *each), len(context))
            if not all(score.best for score in scores) and all(score.logprob > -math.log(1e6) for score in scores):
                rows = listed(inside(_details(line, context, len(each), {}), "tokens"), "tokens")
                greedy = [inside(row, "id") for row in rows] == list(each)
                scores = [replace(score, best=greedy) for score in scores]
            found.append(summed(scores))
        return found


def _score(row: Any) -> Scored:
    value = number(inside(row, "logprob"))
    return Scored(value, value > _SURE)


def _same(details: Any, tokens: Tokens) -> list[Any]:
    """The prompt's rows. Raises NotOfferedError where they are not of ``tokens``."""
    rows = listed(inside(details, "prefill"), "prefill")
    if not rows:
        raise NotOfferedError("an empty prefill: decoder_input_details is ignored")
    read = [inside(row, "id") for row in rows]
    if read != list(tokens):
        more = " (BOS put in front twice?)" if read[1:] == list(tokens) else ""
        raise NotOfferedError(f"it cuts the text otherwise: {len(read)} tokens for {len(tokens)}{more}")
    return rows


def _details(line: Line, tokens: Tokens, new: int, more: dict[str, Any]) -> dict[str, Any]:
    parameters = {"max_new_tokens": new, "do_sample": False, "details": True, **more}
    reply = line.ask("/generate", {"inputs": line.codec.text(tokens), "parameters": parameters}, len(tokens) + 1)
    return table(inside(reply, "details"), "details")


class Tgi:
    """See the module's docstring."""

    name: Final = "TGI"
    shows_all: bool = False
    ways: Final = (Prefill(),)

    def facts(self, remote: Remote, model: str) -> Facts | None:
        """See `Dialect.facts`: ``/info``."""
        found = told(remote, "/info")
        if "model_id" not in found or ("max_total_tokens" not in found and "max_input_tokens" not in found):
            return None
        names = ("model_sha", "model_dtype", "max_input_tokens")
        details = {name: found[name] for name in names if isinstance(found.get(name), (str, int))}
        return Facts(self.name, str(found["model_id"]), str(found.get("version", "")), details)

    def top(self, line: Line, tokens: Tokens, count: int) -> list[Likely]:
        """See `Dialect.top`: five at most."""
        details = _details(line, tokens, 1, {"top_n_tokens": min(count, _MOST_TOP)})
        rows = listed(inside(details, "top_tokens", 0), "likeliest tokens")
        return likeliest((inside(row, "text"), inside(row, "logprob"), inside(row, "id")) for row in rows)

    def generate(self, line: Line, request: Generate) -> GenerateResponse:
        """See `Dialect.generate`: the prompt as text, the answer in tokens."""
        stop = {"stop": list(request.stop[:4])} if request.stop else {}
        details = _details(line, request.prompt, request.max_new_tokens, {"decoder_input_details": True, **stop})
        _same(details, request.prompt)
        ids = [whole(inside(row, "id")) for row in listed(inside(details, "tokens"), "tokens")]
        line.spend(len(ids))
        check_ended(request, len(ids), full=details.get("finish_reason") == "length")
        return cut_answer(line, request, ids)

    def cut(self, line: Line, text: str) -> list[int] | None:
        """See `Dialect.cut`: every prompt is checked instead."""
        return None

    def spelt(self, line: Line, tokens: Tokens) -> str | None:
        """See `Dialect.spelt`: every prompt is checked instead."""
        return None
