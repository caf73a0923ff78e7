"""Running a model with some of its modules exchanged, from the first block whose output that can change.

The hidden states at every block boundary are kept once. Blocks in front of the first exchanged module are stood in for
by functions that hand their stored output on, so that an exchange costs the blocks behind it and the output head. All
of it happens in the model's own forward: what is measured is what a full evaluation of the exchanged model gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from quantgate.models.layers import Block, decoder_blocks, hooks

_CHUNK_TOKENS: Final = 512  # of one forward: bounds its logits
_ROWS: Final = 64  # positions of one softmax


@dataclass(frozen=True)
class Segment:
    """Tokens of one item. ``first``: the first position that is predicted and scored, at least 1."""

    item: str
    tokens: tuple[int, ...]
    first: int = 1

    @property
    def scored(self) -> int:
        """How many positions are scored."""
        return len(self.tokens) - self.first


@dataclass
class Chunk:
    """Segments of one forward, padded on the right: ``ids`` ``[n, length]``.

    ``rows``: flat positions whose next token is scored; ``targets``: those tokens; ``owner``: which of all segments
    each belongs to. ``boundaries``: output of every block, ``[n, length, width]``. ``logprobs``: the reference's,
    float32 ``[rows, vocabulary]``.
    """

    ids: Tensor
    rows: Tensor
    targets: Tensor
    owner: Tensor
    boundaries: list[Tensor] = field(default_factory=list)
    logprobs: Tensor | None = None


@dataclass
class Spent:
    """What forwards have cost: passes of one block over all segments, and of the output head."""

    blocks: float = 0.0
    heads: float = 0.0

    def full_evaluations(self, blocks: int, head_in_blocks: float) -> float:
        """The same in forwards of a whole model of ``blocks`` blocks, whose head costs ``head_in_blocks`` of them."""
        return (self.blocks + self.heads * head_in_blocks) / (blocks + head_in_blocks)


@dataclass(frozen=True)
class Effect:
    """What an exchange does at every scored position, in the order of the segments.

    ``divergence``: KL(reference || exchanged), nats. ``loss``: how much less likely the text's own token became, nats.
    ``owner``: the segment of each position.
    """

    divergence: Tensor
    loss: Tensor
    owner: Tensor

    def by_segment(self, values: Tensor | None = None) -> list[float]:
        """Mean of ``values`` (the divergence, if None) over the positions of every segment."""
        values = self.divergence if values is None else values
        count = int(self.owner.max()) + 1
        sums = torch.zeros(count, dtype=torch.float64).index_add_(0, self.owner, values.double())
        return (sums / torch.bincount(self.owner, minlength=count)).tolist()


def chunks_of(segments: Sequence[Segment], device: torch.device) -> list[Chunk]:
    """The segments in their order, as many side by side as stay within a bound."""
    groups: list[list[int]] = []
    for index, segment in enumerate(segments):
        longest = max([len(segments[each].tokens) for each in (groups[-1] if groups else [])] + [len(segment.tokens)])
        if groups and longest * (len(groups[-1]) + 1) <= _CHUNK_TOKENS:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [_chunk([segments[each] for each in group], group, device) for group in groups]


def _chunk(segments: Sequence[Segment], numbers: Sequence[int], device: torch.device) -> Chunk:
    longest = max(len(segment.tokens) for segment in segments)
    ids = torch.zeros(len(segments), longest, dtype=torch.int64)
    rows: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    for place, segment in enumerate(segments):
        ids[place, : len(segment.tokens)] = torch.tensor(segment.tokens)
        scored = range(segment.first, len(segment.tokens))
        rows += [place * longest + position - 1 for position in scored]
        targets += [segment.tokens[position] for position in scored]
        owner += [numbers[place]] * len(scored)
    put = torch.tensor
    return Chunk(ids.to(device), put(rows, device=device), put(targets, device=device), put(owner))


class Bench:
    """A model with stored block boundaries on which modules are exchanged.

    Args:
        model: in evaluation mode; its modules are exchanged and put back.
        segments: what it reads.
        who: for messages.
    """

    def __init__(self, model: Any, segments: Sequence[Segment], who: str) -> None:
        self.model, self.segments = model, segments
        self.blocks: list[Block] = decoder_blocks(model, who)
        self.chunks = chunks_of(segments, next(model.parameters()).device)
        self.spent = Spent()
        self._tuples = False

    @torch.no_grad()
    def observe(self, against: Bench | None = None) -> Effect | None:
        """Run the model as it is, and keep its block boundaries.

        ``against``: whose distributions everything is compared with from now on, this run first of all. None: with its
        own, which are kept.
        """
        parts = []
        for number, chunk in enumerate(self.chunks):
            logits = self._observed(chunk)
            if against is None:
                rows = torch.split(logits.float(), _ROWS)
                chunk.logprobs = torch.cat([part.log_softmax(-1) for part in rows])
            else:
                chunk.logprobs = against.chunks[number].logprobs
                parts.append(compare(chunk, logits))
        return self._joined(parts) if parts else None

    def _observed(self, chunk: Chunk) -> Tensor:
        chunk.boundaries.clear()

        def keep(_: nn.Module, __: Any, output: Any) -> None:
            self._tuples = isinstance(output, tuple)
            chunk.boundaries.append(output[0] if self._tuples else output)

        with hooks([block.module.register_forward_hook(keep) for block in self.blocks]):
            return self.logits(chunk, 0)

    def _joined(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Effect:
        divergence, loss = (torch.cat(each) for each in zip(*parts, strict=True))
        return Effect(divergence, loss, torch.cat([chunk.owner for chunk in self.chunks]))

    @torch.no_grad()
    def effect(self, modules: Mapping[str, nn.Module], first: int = 0) -> Effect:
        """The effect of putting ``modules`` in, by name; blocks before ``first`` are not run again."""
        parts = []
        with exchanged(self.model, modules):
            for chunk in self.chunks:
                parts.append(compare(chunk, self.logits(chunk, first)))
        return self._joined(parts)

    def logits(self, chunk: Chunk, first: int) -> Tensor:
        """Logits ``[rows, vocabulary]`` of the scored positions, from the stored input of block ``first`` on."""
        with self._stood_in(chunk, first):
            return self._logits(chunk)

    def spend(self, forwards: float) -> None:
        """Count what one chunk has cost beside its forward, in forwards."""
        self.spent.blocks += forwards * len(self.blocks) / len(self.chunks)
        self.spent.heads += forwards / len(self.chunks)

    def _logits(self, chunk: Chunk) -> Tensor:
        logits: Tensor = self.model(input_ids=chunk.ids, use_cache=False).logits
        self.spent.heads += 1 / len(self.chunks)
        return logits.flatten(0, 1)[chunk.rows]

    @contextmanager
    def _stood_in(self, chunk: Chunk, first: int) -> Iterator[None]:
        share = 1 / len(self.chunks)
        self.spent.blocks += (len(self.blocks) - first) * share
        if not first:
            yield
            return
        hidden = chunk.boundaries[first - 1]
        output = (hidden,) if self._tuples else hidden
        before = [vars(block.module).get("forward") for block in self.blocks[:first]]
        try:
            for block in self.blocks[:first]:
                vars(block.module)["forward"] = lambda *_, **__: output
            yield
        finally:
            for block, original in zip(self.blocks[:first], before, strict=True):
                if original is None:
                    del vars(block.module)["forward"]
                else:
                    vars(block.module)["forward"] = original


def compare(chunk: Chunk, logits: Tensor) -> tuple[Tensor, Tensor]:
    """KL(kept || softmax of logits), and the loss of likelihood of the text: nats, float64 ``[rows]``, on the CPU."""
    assert chunk.logprobs is not None
    divergence, loss = [], []
    parts = (torch.split(each, _ROWS) for each in (chunk.logprobs, logits, chunk.targets))
    for ours, other, target in zip(*parts, strict=True):
        theirs = other.float().log_softmax(-1)
        divergence.append((ours.exp() * (ours - theirs)).sum(-1, dtype=torch.float64))
        index = target.unsqueeze(-1)
        loss.append((ours.gather(-1, index) - theirs.gather(-1, index)).squeeze(-1).double())
    return torch.cat(divergence).cpu(), torch.cat(loss).cpu()


@contextmanager
def exchanged(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """``model`` with ``modules`` in the place of its own of these names, until the block is left."""
    before = {name: model.get_submodule(name) for name in modules}
    try:
        for name, module in modules.items():
            model.set_submodule(name, module)
        yield
    finally:
        for name, module in before.items():
            model.set_submodule(name, module)
