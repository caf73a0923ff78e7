"""What a task asks of a model, and what it gets back.

Three kinds of request cover all benchmarks; an engine answers any mixture of them. Requests hold token ids, never
text, so that reference and subject are asked literally the same, and their digest can key a cache.
Responses are plain numbers and text; they are stored as JSON, one line each, and scored afterwards: a change of a
scorer never costs a model run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeAlias

Tokens: TypeAlias = tuple[int, ...]

KEPT_TOKENS: Final = 256
KEPT_DRAWS: Final = 128
"""Of each of the reference's distributions over a Rolling request: its likeliest tokens, and draws from all others."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Ask for log p(continuation | context). Both are non-empty token sequences."""

    context: Tokens
    continuation: Tokens


@dataclass(frozen=True, slots=True)
class Rolling:
    """Ask for the next-token losses inside one segment of at least 2 tokens: len(tokens) - 1 values."""

    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Generate:
    """Ask for a greedy continuation of ``prompt``: at most ``max_new_tokens``, cut before the first stop string.

    ``ends``: tokens that end the answer. They belong to the question: a model's own files have no say in it.
    """

    prompt: Tokens
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    ends: Tokens = ()


@dataclass(frozen=True, slots=True)
class LikelihoodResponse:
    """``logprob``: sum over the continuation, nats, float32-accumulated. ``greedy``: every token was the argmax."""

    logprob: float
    n_tokens: int
    greedy: bool


@dataclass(frozen=True, slots=True)
class RollingResponse:
    """Per-position values of one segment (positions 1..n-1, predicted from 0..n-2).

    ``nll``: -log p(token), nats. ``kld``: KL(reference || subject), nats; ``kld_bound``: what it certainly reaches; and
    ``same_top``: 1 where both argmaxes agree. All but ``nll`` are empty when no reference was given.
    """

    nll: tuple[float, ...]
    kld: tuple[float, ...] = ()
    same_top: tuple[int, ...] = ()
    kld_bound: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateResponse:
    """``finish`` says why it ended: a stop string, the end token, or the cap on new tokens."""

    text: str
    n_tokens: int
    finish: Literal["stop", "eos", "length"]


Request: TypeAlias = Likelihood | Rolling | Generate
Response: TypeAlias = LikelihoodResponse | RollingResponse | GenerateResponse
Sink: TypeAlias = Callable[[int, Response], None]
"""Called once per request with its index, as soon as the answer is known, in any order."""

_RESPONSES: Final[dict[str, type[Any]]] = {
    "likelihood": LikelihoodResponse,
    "rolling": RollingResponse,
    "generate": GenerateResponse,
}
_KINDS: Final = {kind: name for name, kind in _RESPONSES.items()}


ANSWERS: Final[dict[type[Any], type[Any]]] = {
    Likelihood: LikelihoodResponse,
    Rolling: RollingResponse,
    Generate: GenerateResponse,
}
"""What a request of each kind is answered with."""


def _fields_of(each: Request | Response) -> dict[str, Any]:
    """Fields by name; unlike ``asdict`` without a copy of every token and value."""
    return {field.name: getattr(each, field.name) for field in fields(each)}


def response_to_json(response: Response) -> dict[str, Any]:
    """Plain-JSON form of a response; floats survive exactly (shortest repr), NaN and inf as their JSON extensions."""
    return {"kind": _KINDS[type(response)], **_fields_of(response)}


def response_from_json(content: dict[str, Any]) -> Response:
    """Inverse of :func:`response_to_json`. Raises KeyError or TypeError on any other content."""
    kind = _RESPONSES[content["kind"]]
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    del fields["kind"]
    response: Response = kind(**fields)
    return response


def digest_requests(requests: Iterable[Request]) -> str:
    """sha256 over all requests in order: equal digests mean that literally the same was asked."""
    digest = hashlib.sha256()
    for request in requests:
        line = json.dumps([type(request).__name__, _fields_of(request)], separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
