"""Likelihood and Rolling requests: both ask for log p(token) at known places of the prefix tree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from quantgate.core.errors import DataError
from quantgate.core.requests import Likelihood, LikelihoodResponse, Rolling, RollingResponse, Sink
from quantgate.engines.torch.adapter import CausalModel
from quantgate.engines.torch.fidelity import TopK, TopKReader, TopKWriter, divergence, first_argmax, take_top_k
from quantgate.engines.torch.plan import Limits, Plan
from quantgate.engines.torch.reader import PlanReader, Reading
from quantgate.engines.torch.tree import build_tree

_CHUNK_BYTES: Final = 16 << 20  # float32 logits alive at once; larger blocks are page-faulted anew each time


@dataclass(frozen=True, slots=True)
class _Want:
    """Somebody asks for log p(token) after one tree position: it is value ``offset`` of request ``index``."""

    index: int
    offset: int
    token: int


@dataclass(slots=True)
class _Answer:
    """Values collected for one request until none is missing."""

    missing: int
    logprob: list[float]
    greedy: list[bool]
    kld: list[float] = field(default_factory=list)
    kld_bound: list[float] = field(default_factory=list)
    same_top: list[int] = field(default_factory=list)
    top: list[TopK | None] = field(default_factory=list)


class ScoredRun:
    """Scores all Likelihood and Rolling requests of a run over one plan.

    Args:
        model: the model.
        requests: by their index in the run.
        limits: bounds of a batch.
        sink: called as soon as a request's last value is known.
        topk: where the top k of Rolling requests go, or None.
        against: the reference's top k to compare Rolling requests with, or None.
    """

    def __init__(
        self,
        model: CausalModel,
        requests: Mapping[int, Likelihood | Rolling],
        limits: Limits,
        sink: Sink,
        *,
        topk: TopKWriter | None = None,
        against: TopKReader | None = None,
    ) -> None:
        self.model, self.requests, self.sink = model, requests, sink
        self.topk, self.against = topk, against
        parts = {index: _context_and_continuation(request) for index, request in requests.items()}
        sequences = [(*context, *continuation[:-1]) for context, continuation in parts.values()]
        tree, ids = build_tree(sequences, [len(continuation) for _, continuation in parts.values()])
        self.plan = Plan(tree, limits)
        self.wants: dict[int, list[_Want]] = defaultdict(list)
        self.answers: dict[int, _Answer] = {}
        for (index, (_, continuation)), places in zip(parts.items(), ids, strict=True):
            self.answers[index] = self._blank(index, len(continuation))
            for offset, (place, token) in enumerate(zip(places, continuation, strict=True)):
                self.wants[place].append(_Want(index, offset, token))

    def _blank(self, index: int, n: int) -> _Answer:
        answer = _Answer(n, [0.0] * n, [False] * n)
        if isinstance(self.requests[index], Rolling):
            if self.against is not None:
                self._check_reference(index, n)
                answer.kld, answer.kld_bound, answer.same_top = [0.0] * n, [0.0] * n, [0] * n
            if self.topk is not None:
                answer.top = [None] * n
        return answer

    def _check_reference(self, index: int, n: int) -> None:
        assert self.against is not None
        found = len(self.against.read(index).top)
        if found != n:
            raise DataError(
                f"fidelity file of request {index}",
                f"holds {found} positions",
                expected=f"{n}",
                hint="it belongs to other text: score the reference again",
            )

    def read(self) -> PlanReader:
        """The forward passes; give each :class:`Reading` to :meth:`score`."""
        return PlanReader(self.model, self.plan)

    def score(self, reading: Reading) -> int:
        """Answer everything asked about this batch; returns the number of positions whose logits were needed."""
        rows, slots, wants = [], [], []
        for number, row in enumerate(reading.batch.rows):
            for slot, place in enumerate(row.ids):
                found = self.wants.pop(place, None)  # a repeated lead is scored where it is read first
                if found:
                    rows.append(number)
                    slots.append(slot)
                    wants.append(found)
        if not rows:
            return 0
        device = self.model.device
        hidden = reading.hidden[torch.tensor(rows, device=device), torch.tensor(slots, device=device)]
        finished: list[int] = []
        step = 0
        while step < len(wants):
            step += self._score_chunk(hidden, wants, step, finished)
        for index in finished:
            self._finish(index)
        return len(wants)

    def _score_chunk(self, hidden: Tensor, wants: Sequence[list[_Want]], start: int, finished: list[int]) -> int:
        """Score some positions from ``start`` on, as many as fit the memory for logits; returns how many."""
        rows = max(1, _CHUNK_BYTES // (4 * self.model.vocabulary))
        part = hidden[start : start + rows]
        logits = self.model.logits(part).float()
        flat = [(place, want) for place, found in enumerate(wants[start : start + rows]) for want in found]
        places = torch.tensor([place for place, _ in flat], device=logits.device)
        tokens = torch.tensor([want.token for _, want in flat], device=logits.device)
        largest = logits.amax(-1)
        asked = logits[places, tokens]
        is_top = asked == largest[places]
        # Low precision makes ties: among equals only the first token counts as chosen, as in greedy decoding.
        tied = places[is_top]
        is_top[is_top.clone()] = first_argmax(logits[tied]) == tokens[is_top]
        logits -= largest[:, None]
        fidelity = self._fidelity(flat)
        top = first_argmax(logits) if fidelity else largest
        logsum = (logits.exp() if fidelity else logits.exp_()).sum(-1).log_()
        if fidelity:
            logits -= logsum[:, None]
            self._score_rolling(fidelity, logits, top)
        values = (asked - largest[places] - logsum[places]).tolist()
        for (_, want), value, greedy in zip(flat, values, is_top.tolist(), strict=True):
            answer = self.answers[want.index]
            answer.logprob[want.offset] = value
            answer.greedy[want.offset] = greedy
            answer.missing -= 1
            if not answer.missing:
                finished.append(want.index)
        return len(part)

    def _fidelity(self, flat: Sequence[tuple[int, _Want]]) -> dict[int, list[tuple[int, _Want]]]:
        """Per Rolling request what was asked about it, where whole distributions are kept or compared."""
        by_request: dict[int, list[tuple[int, _Want]]] = defaultdict(list)
        if self.topk is None and self.against is None:
            return by_request
        for place, want in flat:
            if isinstance(self.requests[want.index], Rolling):
                by_request[want.index].append((place, want))
        return by_request

    def _score_rolling(self, by_request: Mapping[int, list[tuple[int, _Want]]], logprobs: Tensor, top: Tensor) -> None:
        """Keep or compare the whole distributions (float32 [n, vocabulary], argmax [n]) of Rolling requests."""
        for index, found in by_request.items():
            places = _run_of([place for place, _ in found])
            offsets = [want.offset for _, want in found]
            answer = self.answers[index]
            if self.topk is not None:
                taken = take_top_k(logprobs[places], self.topk.k, self.topk.draws, offsets)
                for at, offset in enumerate(offsets):
                    answer.top[offset] = taken[slice(at, at + 1)]
            if self.against is not None:
                reference = self.against.read(index)[torch.tensor(offsets)].to(logprobs.device)
                klds, bounds = (values.tolist() for values in divergence(reference, logprobs[places]))
                same = (top[places] == reference.top).int().tolist()
                for at, kld, bound, equal in zip(offsets, klds, bounds, same, strict=True):
                    answer.kld[at], answer.kld_bound[at], answer.same_top[at] = kld, bound, equal

    def _finish(self, index: int) -> None:
        answer = self.answers.pop(index)
        if isinstance(self.requests[index], Likelihood):
            response = LikelihoodResponse(sum(answer.logprob), len(answer.logprob), all(answer.greedy))
            self.sink(index, response)
            return
        if self.topk is not None:
            pieces = [top for top in answer.top if top is not None]
            self.topk.write(index, TopK.joined(pieces))
        nll = tuple(-value for value in answer.logprob)
        self.sink(index, RollingResponse(nll, tuple(answer.kld), tuple(answer.same_top), tuple(answer.kld_bound)))


def _run_of(places: list[int]) -> slice | list[int]:
    """A slice where the places follow each other, as they mostly do: whole distributions are then not copied."""
    run = slice(places[0], places[-1] + 1)
    return run if places == list(range(run.start, run.stop)) else places


def _context_and_continuation(request: Likelihood | Rolling) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(request, Likelihood):
        return request.context, request.continuation
    return request.tokens[:1], request.tokens[1:]
