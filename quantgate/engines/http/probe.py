"""What is a server, and what can be believed of it? Asked on known strings, before anything is scored.

Every way to likelihoods that its dialect has is tried in turn, and refused with a sentence unless it gives a value a
token, none above 0, not all the same, twice the same, and the same as when the model says the token itself. Numbers of
tokens are compared with the reference's tokenizer first: a server that numbers them otherwise would score nonsense.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from quantgate.core.errors import EngineError, UsageError
from quantgate.core.remote import BUDGET, Remote, RemoteError
from quantgate.core.requests import Generate, Tokens
from quantgate.engines.http.dialects import DIALECTS
from quantgate.engines.http.lines import Codec, Dialect, Facts, Line, NotOfferedError, Way, changed, unlike

KNOWN: Final = "The ferry left the harbour at seven in the morning, and by noon it had reached the island of"
_MARKED: Final = "Name the capital of France."
_NEW: Final = 12  # tokens generated, twice
_CANARY: Final = 8  # tokens scored to see whether it is still the same model
MOVED: Final = 0.05
"""Mean absolute difference of a canary's log-probabilities, nats, from which on it is another model."""
UNLIKE: Final = 0.15  # nats between two ways to the same probability, beside the noise
_OFF: Final = 0.02  # from 1: rounding of a whole vocabulary's probabilities
_AT_ONCE: Final = 2048  # tokens spelt at a time
_TEXTS: Final = ("The 3 ships sailed at 07:45.", "  naïve café — 东京\n\tdef f(x): return x**2", "It costs 5 € …")
_HINT: Final = "docs/servers.md says what each server gives, and how to start it"


@dataclass(frozen=True)
class Canary:
    """What the server said about a known string: log-probabilities, or a text where it gives none."""

    values: tuple[float, ...] = ()
    text: str = ""

    def distance(self, other: Canary) -> float:
        """Mean absolute difference, nats; infinite for what cannot be compared, or another text."""
        if len(self.values) != len(other.values):
            return math.inf
        if not self.values:
            return 0.0 if self.text == other.text else math.inf
        return math.fsum(_apart(*pair) for pair in zip(self.values, other.values, strict=True)) / len(self.values)


@dataclass(frozen=True)
class Server:
    """A server that has been probed. ``line`` counts against the run's budget, ``free`` does not.

    ``refused``: ways to likelihoods that were tried in vain, with the reason. ``noise``: by how much two answers to the
    same question differed at most, nats. ``generates``: whether it gives text, twice the same; ``silent``: why not.
    """

    facts: Facts
    dialect: Dialect
    line: Line
    free: Line
    way: Way | None
    refused: tuple[tuple[str, str], ...]
    noise: float
    generates: bool
    silent: str
    notes: tuple[str, ...] = ()

    def canary(self) -> Canary:
        """What it says now about a known string. Raises RemoteError where that is nothing."""
        tokens = _tokens(self.free.codec, KNOWN)
        try:
            if self.way is not None:
                return Canary(_sample(self.way, self.free, tokens))
            return Canary(text=self.dialect.generate(self.free, Generate(tokens, _NEW)).text)
        except NotOfferedError as error:
            raise unlike(self.free.remote.who, error) from error

    def check_same(self, before: Canary) -> None:
        """Raise ChangedError when its facts are others, or it answers a known string otherwise than ``before``."""
        try:
            facts = _facts(self.dialect, self.free.remote, self.line.model)
        except UsageError as error:
            raise changed(self.free.remote.who, error.found) from error
        if facts != self.facts:
            raise changed(self.free.remote.who, _difference(self.facts, facts))
        if all(self.canary().distance(before) > MOVED + 4 * self.noise for _ in range(2)):
            raise changed(self.free.remote.who, "it answers a known string otherwise than at first")

    def as_record(self) -> dict[str, Any]:
        """For the report."""
        return {
            **self.facts.as_record(),
            "address": self.line.remote.base,
            "likelihoods": self.way.words if self.way else "none",
            "refused": [{"way": name, "reason": reason} for name, reason in self.refused],
            "generates": self.generates,
            "prompts": "text" if self.line.as_text else "token ids",
            "noise_nats": self.noise,
        }


def probe(remote: Remote, model: str, tokenizer: Any) -> Server:
    """Find out what the server at ``remote`` is and can give. ``model``: its model's name there, or empty.

    Raises:
        UsageError: it has several models, or none of that name.
        EngineError: it does not answer, speaks nothing that is known, gives nothing, or numbers tokens otherwise.
    """
    dialect, facts = recognised(remote, model)
    remote.patient = True
    named = facts.model if dialect.name != "llama.cpp" else ""
    free = Line(remote, Codec(tokenizer), named, facts.server)
    notes = tuple(_check_tokens(dialect, free))
    free, silent = _generation(dialect, free)
    way, noise, refused = _best_way(dialect, free)
    if way is None and silent:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in (*refused, ("generation", silent)))
        raise EngineError(remote.who, f"it gives nothing that can be scored ({reasons})", hint=_HINT)
    if way is not None and way.as_text:
        free = replace(free, as_text=True)
    return Server(facts, dialect, replace(free, budget=BUDGET), free, way, refused, noise, not silent, silent, notes)


def recognised(remote: Remote, model: str) -> tuple[Dialect, Facts]:
    """The dialect that the server speaks, and what it says of itself; raises as `probe`."""
    for dialect in DIALECTS:
        if (facts := _facts(dialect, remote, model)) is not None:
            return dialect, facts
    _check_let_in(remote)
    raise EngineError(
        remote.who, f"{remote.shown(remote.base)} speaks no API that is known here",
        expected="a server of " + ", ".join(dialect.name for dialect in DIALECTS), hint=_HINT,
    )  # fmt: skip


def _facts(dialect: Dialect, remote: Remote, model: str) -> Facts | None:
    """See `Dialect.facts`; nothing of them is fit for a record as it comes."""
    found = dialect.facts(remote, model)
    return found and found.fit_to_record(remote)


def _check_let_in(remote: Remote) -> None:
    """Raise UsageError for a server that wants a key, or another one."""
    try:
        remote.get("/v1/models")
    except RemoteError as error:
        if error.status in (401, 403):
            raise UsageError(
                remote.who, error.found, expected="a key that the server takes",
                hint=f"set {' or '.join(remote.keys) or 'its key'} in the environment",
            ) from error  # fmt: skip


# --- tokens ---------------------------------------------------------------------------------------------------------


def _check_tokens(dialect: Dialect, line: Line) -> Iterator[str]:
    """Compare numbers and cuts of tokens, as far as the server tells them; yields what is worth a note.

    Raises:
        EngineError: a number stands for another token there.
    """
    codec = line.codec
    try:
        for ids in _vocabulary(codec):
            theirs = dialect.spelt(line, ids)
            if theirs is not None and theirs.strip() != codec.text(ids).strip():
                raise EngineError(
                    line.remote.who, "its tokenizer numbers tokens otherwise than the reference's",
                    expected="the same vocabulary", hint="serve a checkpoint of the very model given with --model",
                )  # fmt: skip
            if theirs is None:
                break
        for text in _TEXTS:
            cut = dialect.cut(line, text)
            if cut is not None and cut != codec.tokenizer.encode(text, add_special_tokens=False):
                yield "the server cuts text otherwise than the reference's tokenizer; it is sent token ids"
                return
    except (NotOfferedError, RemoteError):
        return  # it tells nothing of its tokens: prompts are counted


def _vocabulary(codec: Codec) -> Iterator[Tokens]:
    """All tokens whose text stands for itself: whole letters, and nothing that steers."""
    special = set(codec.tokenizer.all_special_ids)
    ids = [number for number in sorted(codec.tokenizer.get_vocab().values()) if number not in special]
    whole = [number for number in ids if "\ufffd" not in codec.piece(number)]
    for start in range(0, len(whole), _AT_ONCE):
        yield tuple(whole[start : start + _AT_ONCE])


def _tokens(codec: Codec, text: str) -> Tokens:
    return (*codec.first, *codec.tokenizer.encode(text, add_special_tokens=False))


# --- text -----------------------------------------------------------------------------------------------------------


def _generation(dialect: Dialect, line: Line) -> tuple[Line, str]:
    """The line as prompts must be sent, and why no text can be had (empty: it can)."""
    request = Generate(_tokens(line.codec, KNOWN), _NEW)
    reasons = []
    for as_text in (False, True):
        tried = replace(line, as_text=as_text)
        try:
            one, two = (dialect.generate(tried, request) for _ in range(2))
        except (NotOfferedError, RemoteError) as error:
            reasons.append(_words(error))
            continue
        if one != two:
            return tried, "asked twice for its greedy answer it gives two: temperature 0 is ignored, or chance plays in"
        return tried, _unmarked(dialect, tried)
    return line, reasons[-1]


def _unmarked(dialect: Dialect, line: Line) -> str:
    """Whether special tokens that are sent as text are read as such; what is wrong, or empty."""
    marks = [token for token in line.codec.tokenizer.all_special_tokens if token]
    if not line.as_text or not marks:
        return ""
    try:
        dialect.generate(line, Generate(_tokens(line.codec, f"{marks[-1]}{_MARKED}"), 1))
    except (NotOfferedError, RemoteError) as error:
        return f"special tokens in a text are not read as such ({_words(error)})"
    return ""


# --- likelihoods ----------------------------------------------------------------------------------------------------


def _best_way(dialect: Dialect, line: Line) -> tuple[Way | None, float, tuple[tuple[str, str], ...]]:
    """The first way that can be believed, its noise in nats, and those that cannot, with the reason."""
    refused: list[tuple[str, str]] = []
    for way in dialect.ways:
        used = replace(line, as_text=way.as_text or (line.as_text and way.single))
        try:
            return way, _tried(way, dialect, used), tuple(refused)
        except (NotOfferedError, RemoteError) as error:
            refused.append((way.name, _words(error)))
    return None, 0.0, tuple(refused)


def _tried(way: Way, dialect: Dialect, line: Line) -> float:
    """The noise of ``way``. Raises NotOfferedError for values that cannot be believed."""
    tokens = _tokens(line.codec, KNOWN)
    one, two = (_sample(way, line, tokens) for _ in range(2))
    if all(value == one[0] for value in one):
        raise NotOfferedError(f"all {len(one)} log-probabilities of a known string are {one[0]:g}")
    if any(value > 0.01 for value in one):
        raise NotOfferedError(f"a log-probability of {max(one):.4g}, above 0")
    if any(math.isnan(value) for value in one):
        raise NotOfferedError("a log-probability that is no number")
    noise = max(_apart(*pair) for pair in zip(one, two, strict=True))
    if noise > UNLIKE:
        raise NotOfferedError(f"two answers to the same question differ by {noise:.3g} nats: chance plays in")
    if not way.single:
        _check_whole(dialect, line, tokens)
        _check_told(way, dialect, line, tokens, noise)
    return noise


def _sample(way: Way, line: Line, tokens: Tokens) -> tuple[float, ...]:
    """Values of a known string that any other model gives otherwise."""
    if not way.single:
        scored = way.scores(line, tokens, len(tokens) - _CANARY)
        return tuple(each.logprob for each in scored)
    ids = [(number,) for number in range(min(_AT_ONCE, len(line.codec.tokenizer)))]
    values = (each.logprob for each in way.likelihoods(line, tokens, ids))
    shown = sorted({value for value in values if not math.isnan(value)}, reverse=True)
    return tuple(shown[:_CANARY]) or (math.nan,)


def _check_whole(dialect: Dialect, line: Line, tokens: Tokens) -> None:
    """All next tokens must have the probability 1 together, where the server shows all. Raises NotOfferedError.

    What shifts or scales all values alike shows in nothing else.
    """
    count = len(line.codec.tokenizer)
    try:
        shown = dialect.top(line, tokens, count) if dialect.shows_all else []
    except RemoteError:
        return
    total = math.fsum(math.exp(each.logprob) for each in shown)
    if len(shown) >= count and abs(total - 1) > _OFF:
        raise NotOfferedError(f"all {len(shown)} next tokens together have a probability of {total:.3g}")


def _check_told(way: Way, dialect: Dialect, line: Line, tokens: Tokens, noise: float) -> None:
    """The likeliest next tokens must have the same probability when they are given. Raises NotOfferedError."""
    for cut in (len(tokens), len(tokens) - 3):
        try:
            shown = dialect.top(line, tokens[:cut], 2)
        except RemoteError:
            return  # it shows no next tokens: nothing to compare with
        for likely in shown[:2]:
            number = likely.number if likely.number is not None else _number(line.codec, likely.text)
            if number is None or (way.as_text and not line.codec.comes_back((*tokens[:cut], number))):
                continue
            given = way.scores(line, (*tokens[:cut], number), cut)[0].logprob
            if not abs(given - likely.logprob) <= UNLIKE + 2 * noise:
                said = f"{given:.4g} when it is given, {likely.logprob:.4g} when it is said"
                raise NotOfferedError(f"a token has the log-probability {said}")


def _number(codec: Codec, text: str) -> int | None:
    found = codec.tokenizer.encode(text, add_special_tokens=False)
    return int(found[0]) if len(found) == 1 else None


def _apart(one: float, other: float) -> float:
    return 0.0 if one == other else abs(one - other)


def _words(error: Exception) -> str:
    return error.found if isinstance(error, RemoteError) else str(error)


def _difference(before: Facts, now: Facts | None) -> str:
    if now is None:
        return "it is of another kind"
    old, new = before.as_record(), now.as_record()
    name = next(name for name in {**old, **new} if old.get(name) != new.get(name))
    return f"{name} {new.get(name)!r} instead of {old.get(name)!r}"
