"""Likelihood and Rolling requests: both ask for log p(token) at known places of the prefix tree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantgate.core.requests import Likelihood, LikelihoodResponse, Rolling, RollingResponse, Sink
from quantgate.engines.torch.adapter import CausalModel
from quantgate.engines.torch.compare import Compared, Position, way_of
from quantgate.engines.torch.fidelity import TopKReader, TopKWriter
from quantgate.engines.torch.head import Scores, scores
from quantgate.engines.torch.plan import Limits, Plan
from quantgate.engines.torch.reader import PlanReader, Reading
from quantgate.engines.torch.states import StatesReader, StatesWriter
from quantgate.engines.torch.tree import build_tree


@dataclass(slots=True)
class _Answer:
    """Values collected for one request until none is missing."""

    missing: int
    logprob: list[float]
    greedy: list[bool]


@dataclass(slots=True)
class _Places:
    """Places of a batch whose distributions are wanted: their row and slot there, and who asked for which tokens."""

    rows: list[int]
    slots: list[int]
    wanted: list[list[Position]]

    def add(self, row: int, slot: int, wanted: list[Position]) -> None:
        self.rows.append(row)
        self.slots.append(slot)
        self.wanted.append(wanted)

    def of(self, hidden: Tensor) -> Tensor:
        """[B, L, hidden] -> [n, hidden]."""
        rows, slots = (torch.tensor(each, dtype=torch.int64, device=hidden.device) for each in (self.rows, self.slots))
        return hidden[rows, slots]


class ScoredRun:
    """Scores all Likelihood and Rolling requests of a run over one plan.

    Args:
        model: the model.
        requests: by their index in the run.
        limits: bounds of a batch.
        sink: called as soon as a request's last value is known.
        keep: where the distributions of Rolling requests go, or None.
        against: the reference's distributions to compare Rolling requests with, or None.
    """

    def __init__(
        self,
        model: CausalModel,
        requests: Mapping[int, Likelihood | Rolling],
        limits: Limits,
        sink: Sink,
        *,
        keep: TopKWriter | StatesWriter | None = None,
        against: TopKReader | StatesReader | None = None,
    ) -> None:
        self.model, self.requests, self.sink = model, requests, sink
        self.head = model.output.head()
        self.way = way_of(self.head, keep, against, model.device)
        parts = {index: _context_and_continuation(request) for index, request in requests.items()}
        sequences = [(*context, *continuation[:-1]) for context, continuation in parts.values()]
        tree, ids = build_tree(sequences, [len(continuation) for _, continuation in parts.values()])
        self.plan = Plan(tree, limits)
        self.wants: dict[int, list[Position]] = defaultdict(list)
        self.answers: dict[int, _Answer] = {}
        for (index, (_, continuation)), places in zip(parts.items(), ids, strict=True):
            n = len(continuation)
            self.answers[index] = _Answer(n, [0.0] * n, [False] * n)
            if self._compares(index):
                self.way.begin(index, n)  # type: ignore[union-attr]  # it compares
            for offset, (place, token) in enumerate(zip(places, continuation, strict=True)):
                self.wants[place].append(Position(index, offset, token))

    def _compares(self, index: int) -> bool:
        """Whether more is wanted of a request than its tokens' losses."""
        return self.way is not None and isinstance(self.requests[index], Rolling)

    def read(self) -> PlanReader:
        """The forward passes; give each :class:`Reading` to :meth:`score`."""
        return PlanReader(self.model, self.plan)

    def score(self, reading: Reading) -> int:
        """Answer everything asked about this batch; returns the number of positions whose logits were needed."""
        plain, compared = _Places([], [], []), _Places([], [], [])
        count = 0
        for number, row in enumerate(reading.batch.rows):
            for slot, place in enumerate(row.ids):
                found = self.wants.pop(place, None)  # a repeated lead is scored where it is read first
                if not found:
                    continue
                count += 1
                others = [want for want in found if not self._compares(want.index)]
                if others:
                    plain.add(number, slot, others)
                for want in found if len(others) < len(found) else ():
                    if self._compares(want.index):
                        compared.add(number, slot, [want])
        finished = [*self._score_plain(plain, reading.hidden), *self._score_compared(compared, reading.hidden)]
        for index in finished:
            self._finish(index)
        return count

    def _score_plain(self, places: _Places, hidden: Tensor) -> list[int]:
        """Answer what asks for losses alone; returns the requests that are complete."""
        finished: list[int] = []
        states = places.of(hidden)
        for start in range(0, len(states), self.head.positions):
            part = slice(start, start + self.head.positions)
            flat = [(row, want) for row, found in enumerate(places.wanted[part]) for want in found]
            rows = torch.tensor([row for row, _ in flat])
            wanted = [want for _, want in flat]
            tokens = torch.tensor([want.token for want in wanted])
            finished += self._take(wanted, rows, scores(self.head, states[part], rows, tokens))
        return finished

    def _score_compared(self, places: _Places, hidden: Tensor) -> list[int]:
        """Answer what is kept or compared, one position a row; returns the requests that are complete."""
        if self.way is None:
            return []
        finished: list[int] = []
        states = places.of(hidden)
        for start in range(0, len(states), self.way.positions):
            part = slice(start, start + self.way.positions)
            wanted = [want for found in places.wanted[part] for want in found]
            found = self.way.read(states[part], wanted)
            finished += self._take(wanted, torch.arange(len(wanted)), found)
        return finished

    def _take(self, wanted: Sequence[Position], rows: Tensor, found: Scores) -> list[int]:
        """Put values where they belong; returns the requests that are complete."""
        rows = rows.to(found.logsum.device)
        tokens = torch.tensor([want.token for want in wanted], device=rows.device)
        values = (found.asked.double() - found.logsum[rows]).tolist()
        # Low precision makes ties: among equals only the first token counts as chosen, as in greedy decoding.
        chosen = (found.top[rows] == tokens).tolist()
        finished = []
        for want, value, greedy in zip(wanted, values, chosen, strict=True):
            answer = self.answers[want.index]
            answer.logprob[want.offset] = value
            answer.greedy[want.offset] = greedy
            answer.missing -= 1
            if not answer.missing:
                finished.append(want.index)
        return finished

    def _finish(self, index: int) -> None:
        answer = self.answers.pop(index)
        if isinstance(self.requests[index], Likelihood):
            response = LikelihoodResponse(sum(answer.logprob), len(answer.logprob), all(answer.greedy))
            self.sink(index, response)
            return
        more = self.way.finish(index) if self.way is not None else Compared()
        nll = tuple(-value for value in answer.logprob)
        self.sink(index, RollingResponse(nll, more.kld, more.same_top, more.kld_bound))


def _context_and_continuation(request: Likelihood | Rolling) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(request, Likelihood):
        return request.context, request.continuation
    return request.tokens[:1], request.tokens[1:]
