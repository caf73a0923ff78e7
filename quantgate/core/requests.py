"""What a task asks of a model, and what it gets back.

Three kinds of request cover all benchmarks; an engine answers any mixture of them. Requests hold token ids, never
text, so that reference and subject are asked literally the same, and their digest can key a cache.
Responses are plain numbers and text; they are stored as JSON, one line each, and scored afterwards: a change of a
scorer never costs a model run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, TypeAlias, get_args

Tokens: TypeAlias = tuple[int, ...]
Finish: TypeAlias = Literal["stop", "eos", "length"]

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
class Sampling:
    """How tokens are drawn instead of taking the likeliest: transformers' settings of the same names.

    ``top_k`` 0 and ``top_p`` 1 leave nothing out. ``seed``: with the prompt, all that the draws hang on.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 1234

    @property
    def described(self) -> str:
        """In words, for records."""
        return (
            f"temperature {self.temperature:g}, top_k {self.top_k}, top_p {self.top_p:g}, repetition penalty "
            f"{self.repetition_penalty:g}, seed {self.seed}"
        )


@dataclass(frozen=True, slots=True)
class Generate:
    """Ask for a continuation of ``prompt``: at most ``max_new_tokens``, cut before the first stop string.

    ``ends``: tokens that end the answer. They belong to the question: a model's own files have no say in it.
    ``sampling``: how tokens are drawn; None: the likeliest each time.
    """

    prompt: Tokens
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    ends: Tokens = ()
    sampling: Sampling | None = None


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
    finish: Finish


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


_ROUNDING: Final = 0.01
"""Nats by which rounding may put a log-probability above 0, or a mean divergence below."""


def is_number(value: object) -> bool:
    """Whether it is a plain number, NaN and infinities among them: what can be stored and read again as it was."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def are_numbers(values: Iterable[object]) -> bool:
    """Whether each of ``values`` is one (`is_number`); asks every type once, however many values there are."""
    return all(issubclass(kind, (int, float)) and kind is not bool for kind in set(map(type, values)))


def flaw(request: Request, response: object) -> str:
    """What of ``response`` no model could have answered to ``request``, in few words; empty where nothing is wrong.

    Kind, types, lengths, and what a probability can be. NaN and infinities pass: they are a broken model's answer, and
    its verdict says so.
    """
    wanted = ANSWERS[type(request)]
    if type(response) is not wanted:
        return f"is a {type(response).__name__}, expected a {wanted.__name__}"
    if isinstance(request, Likelihood) and isinstance(response, LikelihoodResponse):
        return _flaw_of_likelihood(request, response)
    if isinstance(request, Rolling) and isinstance(response, RollingResponse):
        return _flaw_of_rolling(request, response)
    if isinstance(request, Generate) and isinstance(response, GenerateResponse):
        return _flaw_of_text(request, response)
    return ""


def _flaw_of_likelihood(request: Likelihood, response: LikelihoodResponse) -> str:
    if not is_number(response.logprob):
        return f"has a {type(response.logprob).__name__} for a log-probability, expected a float"
    if _ROUNDING < response.logprob < math.inf:
        return f"has the log-probability {response.logprob:.6g}, expected 0 at most"
    if type(response.n_tokens) is not int or response.n_tokens != len(request.continuation):
        return f"is about {response.n_tokens!r} tokens, expected {len(request.continuation)}"
    return "" if isinstance(response.greedy, bool) else "does not say whether it is the greedy one"


def _flaw_of_rolling(request: Rolling, response: RollingResponse) -> str:
    positions = len(request.tokens) - 1
    for name, asked in (("nll", True), ("kld", False), ("kld_bound", False), ("same_top", bool(response.kld))):
        values = getattr(response, name)
        if not isinstance(values, tuple) or not are_numbers(values):
            return f"holds no plain numbers under {name}"
        if len(values) != positions and (asked or values):
            return f"has {len(values)} values of {name}, expected {positions}"
    if any(value < -_ROUNDING for value in response.nll):
        return "has a loss below 0, expected a probability of 1 at most"
    for name in ("kld", "kld_bound"):
        values = getattr(response, name)
        if values and math.fsum(values) / positions < -_ROUNDING:
            return f"has a mean {name} below 0, expected a distance"
    return "" if set(response.same_top) <= {0, 1} else "has other values of same_top than 0 and 1"


def _flaw_of_text(request: Generate, response: GenerateResponse) -> str:
    if not isinstance(response.text, str):
        return f"has a {type(response.text).__name__} for a text"
    if type(response.n_tokens) is not int or not 0 <= response.n_tokens <= request.max_new_tokens:
        return f"has {response.n_tokens!r} tokens, expected {request.max_new_tokens} at most"
    return "" if response.finish in get_args(Finish) else f"ended by {str(response.finish)[:40]!r}"


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
        content = {name: value for name, value in _fields_of(request).items() if value is not None}
        if isinstance(request, Generate) and request.sampling is not None:
            content["sampling"] = asdict(request.sampling)
        line = json.dumps([type(request).__name__, content], separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
