"""Asks a model what a task asks, keeps the answers, and scores them. Holds one open model at a time, by its digest."""

from __future__ import annotations

import gc
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from quantgate.core.errors import UsageError, translated
from quantgate.core.items import ItemOutcome
from quantgate.core.keys import ResponsesKey
from quantgate.core.phases import PHASES
from quantgate.core.progress import Share
from quantgate.core.remote import SpentError
from quantgate.core.requests import KEPT_DRAWS, KEPT_TOKENS, Generate, Request, Response, Rolling, Sink
from quantgate.engines.guarded import Guarded
from quantgate.engines.protocol import Against, Distributions, Engine, EngineRow, Job, Keep, Kept, Weights
from quantgate.engines.table import engine_called
from quantgate.runs import answers
from quantgate.runs.asked import Asked
from quantgate.runs.questions import Questions
from quantgate.store.facts import remembered
from quantgate.tasks.base import InTurns, Task
from quantgate.tasks.checked import check_depends, outcome_of
from quantgate.tasks.rolling import RollingTask

AGAIN: Final = ", asked again,"
"""In the name of what is asked once more, for whoever shows progress."""
_ASKING: Final = "compare the model's configuration with its weights and its tokenizer, or choose another --device"


@dataclass(frozen=True)
class Scored:
    """Outcomes of one model on one task. ``origin``: ``baseline``, ``store`` or ``computed``.

    ``noise``: by how much two runs of these weights differ, on the scale of the metric (0 where it was not measured).
    ``kept``: the store entry with the answers, and with the distributions if they were kept. ``spent``: of the budget
    that ended before all items were asked, in words.
    """

    outcomes: list[ItemOutcome]
    origin: str
    seconds: float = 0.0
    tokens: int = 0
    noise: float = 0.0
    kept: Kept | None = None
    spent: str = ""

    def with_more(self, more: Scored) -> Scored:
        """These outcomes and further ones."""
        origin = self.origin if self.origin == more.origin else "computed"
        return Scored(
            self.outcomes + more.outcomes, origin, self.seconds + more.seconds, self.tokens + more.tokens, self.noise
        )


@dataclass(frozen=True)
class Again:
    """The same weights asked once more: in passes of ``batch_tokens``, the first ``alone`` items without company."""

    batch_tokens: int
    alone: int


@dataclass(frozen=True)
class Ask:
    """One model's questions: all that ``asked`` holds of ``task``. ``against``: where the reference's distributions
    lie, for a comparison; ``again``: how, when it is asked once more."""

    task: Task
    asked: Asked
    weights: Weights
    against: Kept | None = None
    again: Again | None = None

    @property
    def what(self) -> str:
        """For progress."""
        return f"{self.weights.name}{AGAIN if self.again else ''} on {self.task.id}"

    @property
    def rolling(self) -> bool:
        """Whether it asks for losses inside texts."""
        return bool(self.asked.requests) and isinstance(self.asked.requests[0], Rolling)

    @property
    def exact(self) -> bool:
        """Whether whole distributions are kept."""
        return isinstance(self.task, RollingTask) and self.task.exact

    @property
    def cuts(self) -> frozenset[int]:
        """Where the company of a request ends."""
        alone = self.again.alone if self.again else 0
        return frozenset(cut for mine in self.asked.slices[:alone] for cut in (mine.start, mine.stop))

    def distributions(self, place: Kept, start: int) -> Distributions:
        """What becomes of them in the chunk that begins at ``start``."""
        return Against(self.against, start) if self.against else Keep(place, self.exact, start)


class Scoring:
    """See the module's docstring.

    Args:
        questions: what is asked, in which tokens, of which reference.
        row: the kind of engine; None: the one that the options name.

    Raises:
        UsageError: there is no such engine.
    """

    def __init__(self, questions: Questions, row: EngineRow | None = None) -> None:
        self.questions, self.store, self.options = questions, questions.store, questions.options
        self.row = Guarded(row or engine_called(self.options.engine))
        self._own: dict[str, Guarded] = {}
        self._open: tuple[str, Engine] | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What about the engine can change an answer."""
        return self._identity_of(self.row)

    def _identity_of(self, row: Guarded) -> dict[str, Any]:
        model, setting = self.questions.model, self.options.setting
        hangs_on = row.hangs_on(setting)
        if hangs_on is None:
            return row.identity(model.path, model.id, setting)
        facts = self.questions.facts(f"engine {row.name}", **hangs_on)
        found: dict[str, Any] = remembered(facts, lambda: row.identity(model.path, model.id, setting))
        return found

    def _row(self, weights: Weights) -> Guarded:
        """What answers for ``weights``: an engine of their own (a server), or the run's."""
        own: EngineRow | None = getattr(weights, "engine", None)
        if own is None:
            return self.row
        if weights.digest_loaded not in self._own:
            self._own[weights.digest_loaded] = Guarded(own)
        return self._own[weights.digest_loaded]

    def score(self, ask: Ask) -> Scored:
        """Outcomes of the items asked, from the store or computed."""
        try:
            with PHASES.of(ask.what):
                answered = self._answers(ask)
        except SpentError as error:
            if (partial := self._partial(ask, error.found)) is None or ask.again is not None:
                raise
            return partial
        if isinstance(ask.task, InTurns):
            ask, answered = self._in_turns(ask, ask.task, answered)
        outcomes = _outcomes(ask, answered.responses)
        origin = "store" if answered.from_cache else "computed"
        stats = answered.stats
        return Scored(
            outcomes,
            origin,
            stats.get("seconds", 0.0),
            int(stats.get("tokens", 0)),
            kept=Kept(answered.path, answered.digest),
        )

    def reference_answers(self, task: Task, asked: Asked) -> list[Response]:
        """What the reference answers to all requests of a task, in their order."""
        ask = Ask(task, asked, self.questions.model)
        with PHASES.of(ask.what):
            return self._answers(ask).responses if asked.requests else []

    def _in_turns(self, ask: Ask, task: InTurns, first: answers.Answered) -> tuple[Ask, answers.Answered]:
        """The questions and answers of both turns, those of an item side by side."""
        old, prompts = ask.asked, self.questions.prompts
        second = replace(old.part(()), detail=old.detail)
        with self.questions.remembered.about(f"{ask.task.id}, further turns"):
            for item, mine in zip(old.items, old.slices, strict=True):
                further = task.next_turn(item, first.responses[mine], prompts) if old.requests[mine] else []
                second.add(item, [prompts.ended(each) if isinstance(each, Generate) else each for each in further])
        then = self._answers(replace(ask, asked=second)) if second.requests else first
        whole, responses = replace(old.part(())), list[Response]()
        for at, item in enumerate(old.items):
            turns = ((old, old.slices[at], first), (second, second.slices[at], then))
            whole.add(item, [request for asked, mine, _ in turns for request in asked.requests[mine]])
            responses += [response for _, mine, found in turns for response in found.responses[mine]]
        stats = {name: value + then.stats.get(name, 0.0) for name, value in first.stats.items()}
        from_cache = first.from_cache and then.from_cache
        return replace(ask, asked=whole), replace(first, responses=responses, stats=stats, from_cache=from_cache)

    def _partial(self, ask: Ask, spent: str) -> Scored | None:
        """Outcomes of the items that were answered before the budget ended; None where that was none of them."""
        if isinstance(ask.task, InTurns):
            return None
        known = answers.kept(self.store, self._key(ask), len(ask.asked.requests))
        slices = ask.asked.slices
        whole = [at for at, mine in enumerate(slices) if all(each in known for each in range(mine.start, mine.stop))]
        part = ask.asked.part(whole)
        if not part.requests:
            return None
        responses = [known[each] for at in whole for each in range(slices[at].start, slices[at].stop)]
        return Scored(_outcomes(replace(ask, asked=part), responses), "computed", spent=spent)

    def others(self, ask: Ask, without: Collection[str]) -> list[list[ItemOutcome]]:
        """Outcomes of other models on the very same items, as far as the store holds them; see `answers.of_others`."""
        if isinstance(ask.task, InTurns):
            return []
        found = answers.of_others(self.store, self._key(ask), without)
        return [_outcomes(ask, each) for each in found if len(each) == len(ask.asked.requests)]

    def _key(self, ask: Ask) -> ResponsesKey:
        row = self._row(ask.weights)
        distributed = ask.rolling and row.capabilities.distributions
        identity = self.identity if row is self.row else self._identity_of(row)
        return ResponsesKey(
            weights=ask.weights.digest_loaded,
            tokenizer=self.questions.model.digest.tokenizer,
            requests=ask.asked.digest,
            engine=identity | (vars(ask.again) if ask.again else {}),
            against=self._kept(ask) if distributed else "",
        )

    def _answers(self, ask: Ask) -> answers.Answered:
        self._check_capable(ask)
        distributed = ask.rolling and self._row(ask.weights).capabilities.distributions
        key = self._key(ask)
        progress, requests = self.store.progress, ask.asked.requests

        row = self._row(ask.weights)

        def answer(chunk: Sequence[Request], start: int, sink: Sink, extra: Path) -> dict[str, float]:
            engine = self._engine(ask.weights)
            job = Job(
                ask.what,
                Share(progress, start, len(chunk), len(requests)),
                key.engine.get("batch_tokens"),
                ask.distributions(Kept(extra, key.digest), start) if distributed else None,
            )
            with self.store.computing(self.options.shared), translated(ask.what, "cannot be asked", hint=_ASKING):
                stats = engine.run(chunk, sink, job)
            ask.weights.check_unchanged()  # they are mapped: a file written in place changes them later
            return dict(stats)

        company = answers.Company(ask.cuts, getattr(row, "by_item", False))
        return answers.ask(self.store, key, requests, answer, progress, ask.what, company)

    def _kept(self, ask: Ask) -> str:
        """What about a comparison changes its numbers: what of which reference is kept, and how it is compared."""
        reference = self.questions.model.digest.whole if ask.against else "this model"
        kept = "all" if ask.exact else f"states, or the top {KEPT_TOKENS} and {KEPT_DRAWS} draws,"
        return f"{kept} of {reference}, version {self.row.comparison}"

    def _check_capable(self, ask: Ask) -> None:
        compared = isinstance(ask.task, RollingTask) and ask.task.measure != "ppl"
        row = self._row(ask.weights)
        if lacking := row.capabilities.lacking(ask.asked.requests, compared=compared):
            who = f"engine {row.name}" if row is self.row else ask.weights.who
            raise UsageError(
                who, f"it gives no {lacking}", expected=f"what {ask.task.id} asks for",
                hint="leave the task out with --tasks, or choose another engine",
            )  # fmt: skip

    def _engine(self, weights: Weights) -> Engine:
        if self._open is None or self._open[0] != weights.digest_loaded:
            self.release()
            with PHASES.of(f"{weights.name}: loading"), translated(weights.who, "cannot be loaded"):
                opened = self._row(weights).open(weights, self.questions.remembered.real, self.options.setting)
            self._open = (weights.digest_loaded, opened)
            weights.check_unchanged()
        return self._open[1]

    def release(self) -> None:
        """Let go of the open model; the next question opens one again."""
        if self._open is not None:
            self._open = None
            gc.collect()


def _outcomes(ask: Ask, responses: Sequence[Response]) -> list[ItemOutcome]:
    asked = [(item, responses[mine]) for item, mine in zip(ask.asked.items, ask.asked.slices, strict=True)]
    found = [
        ItemOutcome(item.id, item.group, None, unscored=ask.asked.unasked[item.id])
        if item.id in ask.asked.unasked
        else outcome_of(ask.task, item, mine)
        for item, mine in asked
    ]
    check_depends(ask.task, asked, found)
    return found
