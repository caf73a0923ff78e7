"""Likelihood and Rolling requests: both ask for log p(token) at known places of the prefix tree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from quantgate.errors import DataError
from quantgate.scoring.adapter import CausalModel
from quantgate.scoring.fidelity import TopK, TopKReader, TopKWriter, kl_divergence, take_top_k
from quantgate.scoring.plan import Limits, Plan
from quantgate.scoring.reader import PlanReader, Reading
from quantgate.scoring.requests import Likelihood, LikelihoodResponse, Rolling, RollingResponse, Sink
from quantgate.scoring.tree import build_tree

_CHUNK_BYTES: Final = 64 << 20  # float32 logits alive at once


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
                answer.kld, answer.same_top = [0.0] * n, [0] * n
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
        logsumexp = logits.logsumexp(-1)
        top = logits.argmax(-1)
        flat = [(place, want) for place, found in enumerate(wants[start : start + rows]) for want in found]
        places = torch.tensor([place for place, _ in flat], device=logits.device)
        tokens = torch.tensor([want.token for _, want in flat], device=logits.device)
        values = (logits[places, tokens] - logsumexp[places]).tolist()
        greedy = (top[places] == tokens).tolist()
        self._score_rolling(flat, logits, logsumexp, top)
        for (_, want), value, is_top in zip(flat, values, greedy, strict=True):
            answer = self.answers[want.index]
            answer.logprob[want.offset] = value
            answer.greedy[want.offset] = is_top
            answer.missing -= 1
            if not answer.missing:
                finished.append(want.index)
        return len(part)

    def _score_rolling(self, flat: Sequence[tuple[int, _Want]], logits: Tensor, logsumexp: Tensor, top: Tensor) -> None:
        """Keep or compare the whole distribution at the positions of Rolling requests."""
        if self.topk is None and self.against is None:
            return
        by_request: dict[int, list[tuple[int, _Want]]] = defaultdict(list)
        for place, want in flat:
            if isinstance(self.requests[want.index], Rolling):
                by_request[want.index].append((place, want))
        for index, found in by_request.items():
            places = torch.tensor([place for place, _ in found], device=logits.device)
            offsets = [want.offset for _, want in found]
            if self.topk is not None:
                self._keep(index, offsets, logits[places] - logsumexp[places, None])
            if self.against is not None:
                reference = self.against.read(index)[torch.tensor(offsets)].to(logits.device)
                subject = logits[places[:, None], reference.ids.long()] - logsumexp[places, None]
                same = (top[places] == reference.top).int().tolist()
                answer = self.answers[index]
                for at, kld, equal in zip(offsets, kl_divergence(reference, subject).tolist(), same, strict=True):
                    answer.kld[at], answer.same_top[at] = kld, equal

    def _keep(self, index: int, offsets: Sequence[int], logprobs: Tensor) -> None:
        assert self.topk is not None
        taken = take_top_k(logprobs, self.topk.k)
        for at, offset in enumerate(offsets):
            self.answers[index].top[offset] = taken[slice(at, at + 1)]

    def _finish(self, index: int) -> None:
        answer = self.answers.pop(index)
        if isinstance(self.requests[index], Likelihood):
            response = LikelihoodResponse(sum(answer.logprob), len(answer.logprob), all(answer.greedy))
            self.sink(index, response)
            return
        if self.topk is not None:
            pieces = [top for top in answer.top if top is not None]
            self.topk.write(
                index,
                TopK(
                    torch.cat([piece.logprobs for piece in pieces]),
                    torch.cat([piece.ids for piece in pieces]),
                    torch.cat([piece.tail for piece in pieces]),
                    torch.cat([piece.top for piece in pieces]),
                ),
            )
        nll = tuple(-value for value in answer.logprob)
        self.sink(index, RollingResponse(nll, tuple(answer.kld), tuple(answer.same_top)))


def _context_and_continuation(request: Likelihood | Rolling) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(request, Likelihood):
        return request.context, request.continuation
    return request.tokens[:1], request.tokens[1:]
