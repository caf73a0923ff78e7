"""Ask a model once, keep the answers: journal while asking, store entry when done.

The store's key holds the digest of the literal requests, of the weights, and the engine's version and dtype. So two
tasks that ask the same share the answers, a changed scorer costs no model run, and the 16-bit model's answers can
never be served as a quantized model's.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.errors import EngineError, StoreError
from quantgate.core.keys import ResponsesKey
from quantgate.core.progress import Progress
from quantgate.core.requests import Generate, Likelihood, Request, Response, Rolling, Sink, flaw
from quantgate.store import bound, journal
from quantgate.store.store import ENTRY, Store

RESPONSES: Final = "responses.jsonl"
STATS: Final = "stats.json"

_CHUNK_REQUESTS: Final = {Likelihood: 512, Rolling: 4, Generate: 128}

Ask = Callable[[Sequence[Request], int, Sink, Path], dict[str, float]]
"""Answers (some of) a chunk of requests that starts at the given index, calls the sink per answer (with the index in
what it was given), may write further files into the given directory, and returns plain numbers (seconds, tokens)."""


@dataclass(frozen=True)
class Answered:
    """Responses in the order of the requests. ``path``: the store entry, which may hold further files; ``digest``: of
    its key, to which they are tied.
    """

    responses: list[Response]
    stats: dict[str, float]
    path: Path
    from_cache: bool
    digest: str


@dataclass(frozen=True)
class Company:
    """``cuts``: see :func:`chunks`. ``by_item``: it is not ours to choose: of a chunk only what is missing is asked."""

    cuts: Collection[int] = ()
    by_item: bool = False


def ask(
    store: Store,
    key: ResponsesKey,
    requests: Sequence[Request],
    answer: Ask,
    progress: Progress,
    what: str,
    company: Company | None = None,
) -> Answered:
    """The answers to ``requests``: from the store, or by ``answer``, going on where a killed run stopped.

    ``company``: which of them are asked together; part of the key's business like all that an answer may depend on.
    """
    company = company or Company()
    log = _journal(store, key)
    extra = log.with_suffix(".files")

    def build(target: Path) -> None:
        known, damaged = journal.read(log, key.digest)
        known = {index: response for index, response in known.items() if index < len(requests)}
        if known or damaged:
            lost = f", {damaged} damaged lines are asked again" if damaged else ""
            progress.note(f"resuming {what}: {len(known)} of {len(requests)} answers were kept{lost}")
        extra.mkdir(parents=True, exist_ok=True)
        with journal.appending(log, key.digest) as lines:

            def keep(index: int, response: Response) -> None:
                known[index] = response
                lines.add(index, response)

            stats: dict[str, float] = {}
            for start, stop in chunks(requests, company.cuts):
                if all(index in known for index in range(start, stop)):
                    continue
                places = [index for index in range(start, stop) if not (company.by_item and index in known)]
                checked = _Checked([requests[index] for index in places], places, keep, what)
                for name, value in answer(checked.requests, start, checked.sink, extra).items():
                    stats[name] = stats.get(name, 0.0) + value
                checked.finish()
        lines_of = [journal.dump_line(index, known[index], key.digest) for index in range(len(requests))]
        _publish(target, lines_of, stats, extra, key.digest)

    entry = store.fetch(key, build, what=what)
    if entry.from_cache:
        progress.step(what, 1, 1)
    with contextlib.suppress(OSError):  # the answers are kept; a journal that stays behind is never read again
        log.unlink(missing_ok=True)
    shutil.rmtree(extra, ignore_errors=True)
    responses, _ = journal.read(entry.path / RESPONSES, key.digest)
    stats = entry.json(STATS)
    if not isinstance(stats, dict) or not all(isinstance(value, (int, float)) for value in stats.values()):
        raise StoreError(f"store entry {entry.path}", f"{STATS} holds no numbers", hint="delete the entry")
    if missing := [index for index in range(len(requests)) if index not in responses]:
        found = f"{len(missing)} of {len(requests)} answers of {what} cannot be read"
        raise StoreError(f"store entry {entry.path}", found, hint="delete the entry, and they are asked anew")
    answered = [responses[index] for index in range(len(requests))]
    return Answered(answered, stats, entry.path, entry.from_cache, entry.digest)


def of_others(store: Store, key: ResponsesKey, without: Collection[str], most: int = 8) -> list[list[Response]]:
    """What other models answered to all of these requests on this engine, as far as the store holds it.

    ``without``: digests of weights to pass over. At most ``most`` models, in the order of their entries; what cannot be
    read is passed over too, because nothing depends on it but which items are asked first.
    """
    found: list[list[Response]] = []
    for path in sorted((store.root / key.kind).glob(f"*/{ENTRY}")):
        other = _key_in(path)
        if other is None or other.weights in without or replace(other, weights=key.weights) != key:
            continue
        with contextlib.suppress(StoreError):
            if store.peek(other, what="earlier answers") is not None:
                responses, _ = journal.read(path.parent / RESPONSES, other.digest)
                found.append([responses[index] for index in sorted(responses)])
        if len(found) == most:
            break
    return found


def _key_in(path: Path) -> ResponsesKey | None:
    """The key that an entry says it was made for; None where it says none of this version."""
    try:
        content = reading.parse_json(reading.parse_json(reading.read_text(path))["key"])
        content.pop("kind")
        return ResponsesKey(**content)
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def kept(store: Store, key: ResponsesKey, count: int) -> dict[int, Response]:
    """Answers of a run that is not complete, by index: those of the first ``count`` requests that are there."""
    known, _ = journal.read(_journal(store, key), key.digest)
    return {index: response for index, response in known.items() if index < count}


def _journal(store: Store, key: ResponsesKey) -> Path:
    return store.root / "journals" / f"{key.digest}.jsonl"


class _Checked:
    """A sink for the answers to ``requests``, whose numbers in the whole list are ``places``: each once, and one to it.

    The engine counts from 0.

    Engines may be anybody's: an answer that is missing, or filed under another request, must not become a score.

    Raises:
        EngineError: from `sink` and `finish`.
    """

    def __init__(self, requests: Sequence[Request], places: Sequence[int], keep: Sink, what: str) -> None:
        self.requests, self._places = requests, places
        self._open = dict(enumerate(requests))
        self._keep, self._what, self._asked = keep, what, len(requests)

    def sink(self, index: int, response: Response) -> None:
        """Keep an answer that is waited for."""
        request = self._open.pop(index, None)
        if request is None:
            raise EngineError(self._what, f"answer {index} was not asked for, or came twice", expected="each one once")
        if wrong := flaw(request, response):
            found, _, expected = wrong.partition(", expected ")
            raise EngineError(self._what, f"answer {index} {found}", expected=expected)
        self._keep(self._places[index], response)

    def finish(self) -> None:
        """Refuse a chunk of which answers are missing."""
        if self._open:
            told = self._asked - len(self._open)
            raise EngineError(self._what, f"{told} of {self._asked} requests were answered", expected="all of them")


def chunks(requests: Sequence[Request], cuts: Collection[int] = ()) -> list[tuple[int, int]]:
    """(start, stop) of the chunks the engine is given one after the other; a new one begins at each of ``cuts``.

    An engine's batches are a function of its chunk alone. A resumed run redoes the chunk it was killed in as a whole,
    so every answer was computed in the same company as in an uninterrupted run, and equals it to the last bit.
    """
    bounds = [0]
    for index in range(1, len(requests)):
        kind = type(requests[index])
        if index in cuts or kind is not type(requests[bounds[-1]]) or index - bounds[-1] >= _CHUNK_REQUESTS[kind]:
            bounds.append(index)
    return list(zip(bounds, [*bounds[1:], len(requests)], strict=True))


def _publish(target: Path, lines: list[str], stats: dict[str, Any], extra: Path, key: str) -> None:
    (target / RESPONSES).write_text("".join(lines), encoding="utf-8")
    bound.write_json(target / STATS, stats, key)
    for file in sorted(extra.glob("*.safetensors")):  # not what a kill left half-written
        shutil.copyfile(file, target / file.name)
