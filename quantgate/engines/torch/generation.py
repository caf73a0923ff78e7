"""Generation with continuous batching: finished rows leave, waiting prompts take their place.

Prompts are read over the same prefix tree as everything else (a shared preamble once); their keys and values then move
into a running batch whose rows are aligned at their last token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor

from quantgate.core.requests import Generate, GenerateResponse, Sink, Tokens
from quantgate.engines.stops import cut_at_stop
from quantgate.engines.torch.adapter import CausalModel
from quantgate.engines.torch.cache import GrowingCache, Grown, PrefixCache
from quantgate.engines.torch.head import first_argmax
from quantgate.engines.torch.plan import Limits, Plan, Row
from quantgate.engines.torch.reader import PlanReader, Reading
from quantgate.engines.torch.sampling import Draws
from quantgate.engines.torch.tree import build_tree
from quantgate.models.ending import named_or_known

_MAX_ROWS: Final = 128
_ROWS_AT_ONCE: Final = 16
_ROOM: Final = 64  # free columns of a fresh cache
_SLACK_TOKENS: Final = 8  # tokens that may decode to nothing inside a stop string

Finish = Literal["stop", "eos", "length"]


@dataclass(slots=True)
class _Running:
    """One prompt being continued. ``length`` tokens are in its keys and values; ``tokens`` are the new ones.

    ``held`` are the keys and values it had when its batch was composed.
    """

    index: int
    cap: int
    length: int
    held: Grown
    tokens: list[int] = field(default_factory=list)
    finish: Finish | Literal["left"] | None = None


class GenerationRun:
    """Continues all Generate requests of a run.

    Args:
        model: the model.
        tokenizer: decodes.
        requests: by their index in the run.
        limits: ``batch`` bounds reading, ``context`` the tokens held while generating.
        sink: called when a request's text is complete.
        begun: new tokens that a request has already.
        reach: tokens that may be read in one sequence; requests that need more end up in ``left``, with what they have.
    """

    def __init__(
        self,
        model: CausalModel,
        tokenizer: Any,
        requests: Mapping[int, Generate],
        limits: Limits,
        sink: Sink,
        *,
        begun: Mapping[int, Tokens] | None = None,
        reach: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.requests, self.sink = model, tokenizer, requests, sink
        self.limits, self.begun, self.reach = limits, begun or {}, reach
        self.left: dict[int, Tokens] = {}
        texts = [(*request.prompt, *self.begun.get(index, ())) for index, request in requests.items()]
        tree, ids = build_tree(texts, [1] * len(requests))
        self.plan = Plan(tree, limits)
        self.at: dict[int, list[int]] = {}
        for index, path in zip(requests, ids, strict=True):
            self.at.setdefault(path[-1], []).append(index)
        self.caps = {index: self._cap(request) for index, request in requests.items()}
        self.draws = {i: Draws(r.prompt, r.sampling) for i, r in requests.items() if r.sampling is not None}
        self.total = self.plan.tokens_read + sum(self.caps.values())
        self.generated = 0
        self._done = 0
        self._waiting: deque[_Running] = deque()

    def _cap(self, request: Generate) -> int:
        """The model's window may leave less room than was asked for; the answer then ends with ``length``."""
        limit = self.model.max_length
        if limit is None:
            return request.max_new_tokens
        return min(request.max_new_tokens, limit - len(request.prompt) + 1)

    def steps(self) -> Iterator[int]:
        """Run to the end; yields the number of tokens done (of ``total``) now and then."""
        readings = iter(PlanReader(self.model, self.plan, keep_all=True))
        running: list[_Running] = []
        cache: GrowingCache | None = None
        exhausted = False
        while True:
            alive = [one for one in running if one.finish is None]
            while not exhausted and self._fits([*alive, *self._waiting], more=1):
                reading = next(readings, None)
                exhausted = reading is None
                if reading is not None:
                    self._start(reading)
                    yield self._done
            running, cache = self._compose(running, cache)
            if cache is None:
                return
            while _is_full_enough(running):
                self._step(running, cache)
                yield self._done + sum(len(one.tokens) for one in running if one.finish is None)

    def _fits(self, rows: Sequence[_Running], more: int = 0) -> bool:
        """Whether these rows, and so many more of no greater length, can run together."""
        count = len(rows) + more
        longest = max((one.length - one.held.before for one in rows), default=0)
        common = sum({one.held.trunk: one.held.before for one in rows}.values())
        return count <= _MAX_ROWS and count * (longest + _ROOM) + common <= self.limits.context

    def _start(self, reading: Reading) -> None:
        """First token of every prompt that ends in this batch; the unfinished wait with their keys and values."""
        found = [
            (number, slot, index)
            for number, row in enumerate(reading.batch.rows)
            for slot, place in enumerate(row.ids)
            for index in self.at.pop(place, ())
        ]
        self._done += sum(len(row.ids) for row in reading.batch.rows)
        if not found:
            return
        assert reading.cache is not None
        rows = torch.tensor([number for number, _, _ in found], device=self.model.device)
        slots = torch.tensor([slot for _, slot, _ in found], device=self.model.device)
        begun = [self.begun.get(index, ()) for _, _, index in found]
        first = self._next(reading.hidden[rows, slots], [index for _, _, index in found], begun)
        for (number, slot, index), new, token in zip(found, begun, first, strict=True):
            held = self._held(reading.batch.rows[number], number, slot, reading.cache)
            one = _Running(index, self.caps[index], len(self.requests[index].prompt) + len(new), held, list(new))
            self._append(one, token)
            if one.finish is None:
                self._waiting.append(one)

    def _held(self, row: Row, number: int, slot: int, cache: PrefixCache) -> Grown:
        path = [at for at in range(slot + 1) if row.last[at] >= slot]
        slots = torch.tensor(path, device=self.model.device)
        return cache.grown(number, slots, row.trunk)

    def _compose(
        self, running: Sequence[_Running], cache: GrowingCache | None
    ) -> tuple[list[_Running], GrowingCache | None]:
        """A fresh batch of everything unfinished and as many waiting prompts as fit."""
        rows: list[_Running] = []
        for number, one in enumerate(running):
            if one.finish is None:
                assert cache is not None
                one.held = replace(one.held, own=cache.last_of(number, one.length - one.held.before))
                rows.append(one)
        fresh: list[_Running] = []
        while self._waiting and (not (rows or fresh) or self._fits([*rows, *fresh, self._waiting[0]])):
            fresh.append(self._waiting.popleft())
        rows += sorted(fresh, key=lambda one: one.held.trunk)
        if not rows:
            return rows, None
        held = [one.held for one in rows]
        if cache is None:
            free = self.limits.context // len(rows) - max(one.length for one in rows)
            return rows, GrowingCache(held, max(_ROOM, min(free, max(one.cap for one in rows))))
        cache.compose(held)
        return rows, cache

    def _step(self, running: Sequence[_Running], cache: GrowingCache) -> None:
        """One more token for every row (rows that already ended are read along until the batch is composed anew)."""
        device = self.model.device
        past = cache.get_seq_length()
        lengths = torch.tensor([one.length for one in running], device=device)
        padding = past + torch.tensor(cache.outside, device=device) - lengths
        tokens = torch.tensor([[one.tokens[-1]] for one in running], device=device)
        mask: Tensor | None = None
        if bool((padding > 0).any()):
            mask = (torch.arange(past + 1, device=device)[None] >= padding[:, None]).long()
        positions = lengths[:, None]
        ends = [end for end in (self.model.max_length, self.reach) if end is not None]
        if ends:
            positions = positions.clamp(max=min(ends) - 1)  # rows that ended may run past the window
        hidden = self.model.hidden(tokens, positions=positions, mask=mask, cache=cache)
        tokens_of = self._next(hidden[:, -1], [one.index for one in running], [one.tokens for one in running])
        for one, token in zip(running, tokens_of, strict=True):
            one.length += 1
            if one.finish is None:
                self._append(one, token)
            else:
                one.tokens.append(token)

    def _next(self, hidden: Tensor, indices: Sequence[int], new: Sequence[Sequence[int]]) -> list[int]:
        """The next token of each row behind its ``new`` ones: the likeliest, or what its request draws.

        Float32 logits of a few rows at a time stay in the cache.
        """
        logits = self.model.logits(hidden)
        best: list[int] = torch.cat(
            [first_argmax(part.float()) for part in torch.split(logits, _ROWS_AT_ONCE)]
        ).tolist()
        for row, (index, tokens) in enumerate(zip(indices, new, strict=True)):
            if index in self.draws:
                best[row] = self.draws[index].token(logits[row], tokens)
        return best

    def _append(self, one: _Running, token: int) -> None:
        """Take a token, and end the request where it says so."""
        request = self.requests[one.index]
        one.tokens.append(token)
        self.generated += 1
        finish: Finish | None = None
        if token in request.ends:
            finish = "eos"
        elif self._stopped(one.tokens, request.stop):
            finish = "stop"
        elif len(one.tokens) >= one.cap:
            finish = "length"
        one.finish = finish
        if finish is not None:
            self._done += one.cap
            kept = one.tokens[:-1] if finish == "eos" else one.tokens
            text = cut_at_stop(self._decode(kept), request.stop)
            self.sink(one.index, GenerateResponse(text, len(one.tokens), finish))
        elif self.reach is not None and len(request.prompt) + len(one.tokens) > self.reach:
            one.finish = "left"
            self.left[one.index] = tuple(one.tokens)
            self._done += one.cap

    def _stopped(self, tokens: Sequence[int], stop: Sequence[str]) -> bool:
        """Whether a stop string is complete; only the tail is decoded, since it was checked token by token."""
        if not stop:
            return False
        reach = max(len(text.encode()) for text in stop) + _SLACK_TOKENS
        tail = self._decode(tokens[-reach:])
        if not any(text in tail for text in stop):
            return False
        text = self._decode(tokens)
        return cut_at_stop(text, stop) != text

    def _decode(self, tokens: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


def _is_full_enough(running: Sequence[_Running]) -> bool:
    """Whether to go on with this batch; otherwise its dead rows are removed and waiting prompts let in."""
    dead = sum(one.finish is not None for one in running)
    return dead < max(1, len(running) // 8)


def end_tokens(model: CausalModel, tokenizer: Any) -> Tokens:
    """Tokens that end an answer of a model in memory, for whoever asks it without files; see `models.ending`."""
    configs = (getattr(model.model, "generation_config", None), model.model.config, model.config)
    return named_or_known([getattr(each, "eos_token_id", None) for each in configs], tokenizer, f"model {model.name!r}")
