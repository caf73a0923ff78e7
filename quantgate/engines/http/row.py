"""A server behind the engine's seam: what was probed is what it can, and answers are kept only while it stays the same.

Answers are held back until a known string, asked again, is answered as before; then they are handed on. A server whose
model was exchanged in between so leaves nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from quantgate.core.errors import EngineError
from quantgate.core.remote import RemoteError, SpentError
from quantgate.core.requests import Generate, Likelihood, Request, Response, Rolling, RollingResponse, Sink, Tokens
from quantgate.engines.http.flight import MOST, Flight
from quantgate.engines.http.lines import NotOfferedError, unlike
from quantgate.engines.http.probe import Canary, Server
from quantgate.engines.protocol import Capabilities, Job, Setting, Weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION: Final = 1
WINDOW: Final = 32  # jobs between two looks at the canary, or four rounds of what is in flight

Indices: TypeAlias = tuple[int, ...]


class HttpRow:
    """One probed server as a row. Its company is its own affair: what was answered is kept item by item.

    ``canary``: what it said of a known string when it was probed, and has to say to the end; None: it is asked now.
    """

    name: Final = "http"
    comparison: Final = 0
    by_item: Final = True

    def __init__(self, server: Server, canary: Canary | None = None) -> None:
        self.server, self.canary = server, canary or server.canary()

    @property
    def capabilities(self) -> Capabilities:
        """What the probe showed."""
        way = self.server.way
        return Capabilities(
            likelihood=way is not None,
            losses=way is not None and not way.single,
            generate=self.server.generates,
        )

    def identity(self, model: Path, who: str, setting: Setting) -> dict[str, Any]:
        """See `EngineRow.identity`: what the server is, and by which way it is asked."""
        server = self.server
        return {
            "name": self.name,
            "version": VERSION,
            "server": server.facts.server,
            "likelihoods": server.way.name if server.way else "",
            "as_text": server.line.as_text,
        }

    def open(self, weights: Weights, tokenizer: PreTrainedTokenizerBase, setting: Setting) -> HttpEngine:
        """See `EngineRow.open`; it is open already."""
        return HttpEngine(self.server, self.canary)


@dataclass
class HttpEngine:
    """A server that is asked job after job."""

    server: Server
    canary: Canary

    def __post_init__(self) -> None:
        slots = min(MOST, self.server.facts.slots)  # more questions would take each other's cached prefix away
        remote = self.server.line.remote
        self.flight = Flight(lambda: remote.complaints, slots or MOST, slots or 1, bool(slots), remote.stop)

    def run(self, requests: Sequence[Request], sink: Sink, job: Job) -> dict[str, float]:
        """See `Engine.run`.

        Raises:
            EngineError: the server cannot be asked this, gave no usable answer, or changed its model.
            SpentError: the budget is used up; what was answered has been handed on.
        """
        started = time.perf_counter()
        self._check(requests)
        groups = grouped(requests)
        read = sum(map(_size, requests))
        done = 0
        while done < len(groups):
            window = groups[done : done + max(WINDOW, 4 * self.flight.limit)]
            self._window(requests, window, sink, partial(_step, job, done, len(groups)))
            done += len(window)
        return {"seconds": time.perf_counter() - started, "tokens": float(read)}

    def _window(
        self, requests: Sequence[Request], window: Sequence[Indices], sink: Sink, step: Callable[[int], None]
    ) -> None:
        held: list[tuple[int, Response]] = []
        count = 0

        def landed(number: int, found: Sequence[Response]) -> None:
            nonlocal count
            held.extend(zip(window[number], found, strict=True))
            count += 1
            step(count)

        failed: EngineError | None = None
        try:
            self.flight.run([partial(self._answer, [requests[at] for at in group]) for group in window], landed)
        except (SpentError, RemoteError) as error:
            failed = error
        try:
            self.server.check_same(self.canary)
        except RemoteError as error:
            raise failed or error from error
        for index, response in held:
            sink(index, response)
        if failed is not None:
            raise failed

    def _check(self, requests: Sequence[Request]) -> None:
        """Refuse what this server cannot be asked, before it is asked anything."""
        line, way = self.server.line, self.server.way
        if line.as_text or (way is not None and way.as_text):
            lost = sum(not line.codec.comes_back(_tokens_of(request)) for request in requests)
            if lost:
                raise EngineError(
                    line.remote.who, f"{lost} of {len(requests)} prompts are cut otherwise once they are sent as text",
                    expected="a server that takes token ids", hint="docs/servers.md says which do",
                )  # fmt: skip
        pairs = [request for request in requests if isinstance(request, Likelihood)]
        longer = sum(len(request.continuation) > 1 for request in pairs)
        if way is not None and way.single and longer:
            raise EngineError(
                line.remote.who,
                f"it gives the likeliest next tokens alone, and {longer} of {len(pairs)} options are longer than that",
                expected="log-likelihoods of given text",
                hint="docs/servers.md says which servers give them",
            )

    def _answer(self, group: Sequence[Request]) -> list[Response]:
        """Answers to requests that share their context."""
        line, way = self.server.line, self.server.way
        first = group[0]
        try:
            if isinstance(first, Generate):
                return [self.server.dialect.generate(line, first)]
            assert way is not None  # capabilities say so
            if isinstance(first, Rolling):
                return [RollingResponse(tuple(-each.logprob for each in way.scores(line, first.tokens, 1)))]
            continuations = [request.continuation for request in group if isinstance(request, Likelihood)]
            return [*way.likelihoods(line, first.context, continuations)]
        except NotOfferedError as error:
            raise unlike(line.remote.who, error) from error


def grouped(requests: Sequence[Request]) -> list[Indices]:
    """Which requests are asked together: the continuations of one context; neighbours share their beginnings."""
    found: dict[tuple[object, ...], list[int]] = {}
    for index, request in enumerate(requests):
        key: tuple[object, ...] = (index,) if not isinstance(request, Likelihood) else ("context", request.context)
        found.setdefault(key, []).append(index)
    return [tuple(each) for each in sorted(found.values(), key=lambda each: _tokens_of(requests[each[0]]))]


def _step(job: Job, before: int, total: int, count: int) -> None:
    job.progress.step(job.what, before + count, total)


def _tokens_of(request: Request) -> Tokens:
    if isinstance(request, Likelihood):
        return (*request.context, *request.continuation)
    return request.prompt if isinstance(request, Generate) else request.tokens


def _size(request: Request) -> int:
    return len(_tokens_of(request))
