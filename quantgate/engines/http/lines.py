"""What all dialects share: a line to a server, what a token's score is, and how a way to likelihoods looks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Protocol

from quantgate.core.errors import EngineError
from quantgate.core.remote import Budget, Remote, RemoteError
from quantgate.core.requests import Generate, GenerateResponse, LikelihoodResponse, Tokens
from quantgate.engines.stops import cut_at_stop

CLIPPED: Final = -9000.0
"""Servers that write -9999 or the like mean minus infinity."""
ROUNDING: Final = 0.01  # nats above 0 that rounding may make of a certain token
_MOST: Final = 1 << 31
_LARGEST: Final = 1 << 63
CLOSE: Final = 1e-5  # nats: a token as likely as the likeliest one is the greedy one


class NotOfferedError(Exception):
    """A server does not do what a way needs; the text says what it did instead."""


@dataclass(frozen=True, slots=True)
class Scored:
    """log p of one token, nats; ``best``: no other token was likelier."""

    logprob: float
    best: bool


@dataclass(frozen=True, slots=True)
class Likely:
    """One of the likeliest next tokens: its text, its number where the server tells it, log p in nats."""

    text: str
    logprob: float
    number: int | None = None


@dataclass(frozen=True)
class Facts:
    """What a server says of itself. ``details``: plain values; when one of them changes, so has the model.

    ``slots``: questions that it works on at a time, each with a cache of its own; 0 where it does not say.
    """

    server: str
    model: str
    version: str = ""
    details: Mapping[str, str | int | float] = field(default_factory=dict)
    slots: int = field(default=0, compare=False)

    def as_record(self) -> dict[str, Any]:
        """For records and digests."""
        return {"server": self.server, "model": self.model, "version": self.version, **self.details}

    def fit_to_record(self, remote: Remote) -> Facts:
        """These facts with nothing in them that is long, steers a terminal, or is too large a number.

        Raises:
            EngineError: the model's name is so; it is sent back with every question, so it cannot be shortened.
        """
        if remote.shown(self.model) != self.model:
            raise EngineError(
                remote.who, f"its model calls itself {remote.shown(self.model)!r}",
                expected="a short name of plain letters", hint="give it another name where it is served",
            )  # fmt: skip
        details = {
            name: remote.shown(value) if isinstance(value, str) else value
            for name, value in self.details.items()
            if isinstance(value, str) or abs(value) < _LARGEST
        }
        return replace(self, version=remote.shown(self.version), details=details)


class Codec:
    """The reference's tokenizer, as a server that takes text sees it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def first(self) -> Tokens:
        """What the tokenizer puts in front of every text, and a server therefore too."""
        bare = self.tokenizer.encode("a", add_special_tokens=False)
        whole = self.tokenizer.encode("a")
        return tuple(whole[: next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)])

    def text(self, tokens: Sequence[int]) -> str:
        """The text that a server reads as ``tokens``, if it cuts text as we do."""
        bare = self._bare(tokens)
        return str(self.tokenizer.decode(list(bare), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def comes_back(self, tokens: Sequence[int]) -> bool:
        """Whether that text is cut into these tokens again."""
        return list(self.tokenizer.encode(self.text(tokens), add_special_tokens=False)) == list(self._bare(tokens))

    def piece(self, token: int) -> str:
        """The text of one token."""
        return str(self.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def answer(self, tokens: Sequence[int]) -> str:
        """What is generated, as the engine in process reads it."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _bare(self, tokens: Sequence[int]) -> Sequence[int]:
        size = len(self.first)
        return tokens[size:] if size and tuple(tokens[:size]) == self.first else tokens


class ChangedError(RemoteError):
    """The server is no longer the one that was asked first."""


@dataclass(frozen=True)
class Line:
    """A server, under the model's name there, with the tokenizer of whoever asks.

    ``server``: its software; ``as_text``: prompts are sent as text, because it takes no token ids. ``seen``: what its
    answers said of the model that gave them. ``budget``: counts what is asked; None: nobody counts.
    """

    remote: Remote
    codec: Codec
    model: str
    server: str = ""
    as_text: bool = False
    budget: Budget | None = None
    seen: dict[str, str] = field(default_factory=dict, compare=False)

    def spend(self, tokens: int) -> None:
        """Count tokens that the server read or wrote."""
        if self.budget is not None:
            self.budget.spend(tokens)

    def prompt(self, tokens: Tokens) -> list[int] | str:
        """``tokens`` as the server takes them."""
        return self.codec.text(tokens) if self.as_text else list(tokens)

    def ask(self, path: str, body: Mapping[str, Any], tokens: int) -> object:
        """Post, count what it takes, and see whether the same model answers.

        Raises:
            ChangedError: an answer names another model, or another fingerprint, than the first one did.
            RemoteError, SpentError: see `Remote.post`.
        """
        if self.budget is not None:
            self.budget.take(self.remote.who)
        reply: object = self.remote.post(path, body)
        self.spend(tokens)
        for name in ("model", "system_fingerprint"):
            said = reply.get(name) if isinstance(reply, dict) else None
            if isinstance(said, str) and self.seen.setdefault(name, said) != said:
                before, now = self.remote.shown(self.seen[name]), self.remote.shown(said)
                raise changed(self.remote.who, f"{name} {now!r} instead of {before!r}")
        return reply


def changed(who: str, what: str) -> ChangedError:
    """What to say of a server whose model was exchanged."""
    return ChangedError(
        who, f"the server changed its model in the middle of the run ({what})", expected="one model from first to last",
        hint="let it run undisturbed, and run again",
    )  # fmt: skip


def unlike(who: str, error: NotOfferedError) -> RemoteError:
    """What to say of a server that answers otherwise than when it was probed."""
    return RemoteError(who, str(error), expected="an answer of the kind it gave before", hint="look into its log")


def check_count(count: Any, tokens: Sequence[int], *, needed: bool = False) -> None:
    """Refuse a prompt that the server cut into another number of tokens, or of which, where ``needed``, it tells none.

    Raises:
        NotOfferedError: it does not read what was meant, or nothing shows that it does.
    """
    read = count if isinstance(count, int) and not isinstance(count, bool) and 0 < count < _MOST else 0
    if needed and not read:
        raise NotOfferedError("it does not say how many tokens it read: nothing shows that it cuts text alike")
    if read and read != len(tokens):
        more = " (BOS put in front twice?)" if read == len(tokens) + 1 else ""
        raise NotOfferedError(f"it read {read} tokens where {len(tokens)} were meant: it cuts text otherwise{more}")


class Way(Protocol):
    """One way to the likelihood of given tokens."""

    @property
    def name(self) -> str:
        """In records and keys."""
        ...

    @property
    def words(self) -> str:
        """For people: ``prompt log-probabilities (echo)``."""
        ...

    @property
    def single(self) -> bool:
        """Whether only continuations of one token can be scored."""
        ...

    @property
    def as_text(self) -> bool:
        """Whether text is sent, which the server cuts into tokens itself."""
        ...

    def scores(self, line: Line, tokens: Tokens, start: int) -> list[Scored]:
        """Of every token from number ``start`` (1 at least), behind those before it.

        Raises:
            NotOfferedError: the server answered, but not that.
            RemoteError: it gave no usable answer.
        """
        ...

    def likelihoods(self, line: Line, context: Tokens, continuations: Sequence[Tokens]) -> list[LikelihoodResponse]:
        """One answer a continuation, in their order; as `scores`."""
        ...


class Plain:
    """Likelihoods that are sums of scores."""

    single: bool = False
    as_text: bool = False

    def scores(self, line: Line, tokens: Tokens, start: int) -> list[Scored]:
        """See `Way.scores`."""
        raise NotImplementedError

    def likelihoods(self, line: Line, context: Tokens, continuations: Sequence[Tokens]) -> list[LikelihoodResponse]:
        """See `Way.likelihoods`."""
        return [summed(self.scores(line, (*context, *each), len(context))) for each in continuations]


class Dialect(Protocol):
    """What one kind of server understands."""

    @property
    def name(self) -> str:
        """Of the software."""
        ...

    @property
    def ways(self) -> tuple[Way, ...]:
        """To likelihoods, the best one first."""
        ...

    @property
    def shows_all(self) -> bool:
        """Whether `top` gives as many next tokens as are asked for, all of them too."""
        ...

    def facts(self, remote: Remote, model: str) -> Facts | None:
        """What the server says of itself; None where it is of another kind. ``model``: which one is meant, or empty."""
        ...

    def top(self, line: Line, tokens: Tokens, count: int) -> list[Likely]:
        """The likeliest next tokens, the likeliest first; raises NotOfferedError, RemoteError."""
        ...

    def generate(self, line: Line, request: Generate) -> GenerateResponse:
        """A greedy continuation; raises NotOfferedError, RemoteError."""
        ...

    def cut(self, line: Line, text: str) -> list[int] | None:
        """``text`` as the server cuts it, special tokens read and none added; None where it does not tell."""
        ...

    def spelt(self, line: Line, tokens: Tokens) -> str | None:
        """``tokens`` as the server spells them; None where it does not tell."""
        ...


def summed(scores: Sequence[Scored]) -> LikelihoodResponse:
    """The likelihood of all of these tokens."""
    total = math.fsum(each.logprob for each in scores)
    return LikelihoodResponse(total, len(scores), all(each.best for each in scores))


def number(value: object) -> float:
    """A log-probability out of a reply, nats. Raises NotOfferedError for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise NotOfferedError(f"{type(value).__name__} where a log-probability should be")
    try:
        found = float(value)
    except OverflowError:  # an integer of hundreds of digits
        found = math.inf if value > 0 else -math.inf
    if math.isnan(found):
        raise NotOfferedError("a log-probability that is no number")
    if found > ROUNDING:
        raise NotOfferedError(f"a log-probability of {found:.4g}, above 0")
    return -math.inf if found <= CLIPPED else min(found, 0.0)


def whole(value: object, what: str = "number of a token") -> int:
    """A number of a token, or of tokens, out of a reply. Raises NotOfferedError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
        raise NotOfferedError(f"{type(value).__name__} where a {what} should be")
    return value


def wholes(value: object, what: str) -> list[int]:
    """A list of numbers of tokens out of a reply; as `whole`."""
    return [whole(each) for each in listed(value, what)]


def likeliest(rows: Iterable[tuple[object, object, object]]) -> list[Likely]:
    """Next tokens as (text, log-probability, number or None) out of a reply, the likeliest first; as `number`."""
    found = [Likely(str(text), number(value), None if at is None else whole(at)) for text, value, at in rows]
    return sorted(found, key=lambda each: -each.logprob)


def inside(reply: object, *path: str | int) -> object:
    """What lies at ``path`` in a reply. Raises NotOfferedError naming what is missing."""
    found: Any = reply
    for at, step in enumerate(path):
        fits = isinstance(found, dict if isinstance(step, str) else list)
        try:
            found = found[step] if fits else None
        except (KeyError, IndexError):
            fits = False
        if not fits:
            raise NotOfferedError(f"no {'.'.join(map(str, path[: at + 1]))} in the reply")
    return found


def listed(value: object, what: str) -> list[Any]:
    """A list out of a reply. Raises NotOfferedError."""
    if not isinstance(value, list):
        raise NotOfferedError(f"no list of {what} in the reply")
    return value


def table(value: Any, what: str) -> dict[str, Any]:
    """An object out of a reply. Raises NotOfferedError."""
    if not isinstance(value, dict):
        raise NotOfferedError(f"no {what} in the reply")
    return value


def rows(value: Any) -> list[dict[str, Any]]:
    """The objects of a list in what a server tells of itself; empty where there is none."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def told(remote: Remote, path: str) -> dict[str, Any]:
    """The object at ``path``, and an empty one where the server has none. Raises RemoteError where nothing answers."""
    try:
        found = remote.get(path)
    except RemoteError as error:
        if error.status:
            return {}
        if "no JSON" in error.found:
            return {}
        raise
    return found if isinstance(found, dict) else {}


def check_ended(request: Generate, count: int, *, full: bool) -> None:
    """Refuse an answer that the server says ended at a cap, when the request's own was not reached.

    Raises:
        NotOfferedError: the server has a cap of its own, or no room in its context: the answer is cut short.
    """
    if full and count < request.max_new_tokens:
        raise NotOfferedError(f"it cut an answer short: {count} tokens where {request.max_new_tokens} were asked for")


def cut_answer(line: Line, request: Generate, tokens: Sequence[int]) -> GenerateResponse:
    """What the engine in process would have made of generated ``tokens``: cut at an end, a stop string, the cap."""
    kept = list(tokens[: request.max_new_tokens])
    end = next((at for at, token in enumerate(kept) if token in request.ends), None)
    text = line.codec.answer(kept if end is None else kept[:end])
    cut = cut_at_stop(text, request.stop)
    count = len(kept) if end is None else end + 1
    if cut != text:
        return GenerateResponse(cut, count, "stop")
    ended = end is not None or len(kept) < request.max_new_tokens
    return GenerateResponse(text, count, "eos" if ended else "length")


def cut_text(request: Generate, text: str, count: int, *, full: bool) -> GenerateResponse:
    """As `cut_answer` where a server gives text alone. ``full``: it stopped at the cap."""
    cut = cut_at_stop(text, request.stop)
    count = max(0, min(count, request.max_new_tokens))
    return GenerateResponse(cut, count, "stop" if cut != text else "length" if full else "eos")
