"""Runs the batches of a plan: builds inputs and masks, keeps and frees the trunks' keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantgate.engines.torch.adapter import CausalModel
from quantgate.engines.torch.cache import Prefix, PrefixCache
from quantgate.engines.torch.plan import ROOT, Batch, Plan


@dataclass(frozen=True, slots=True)
class Reading:
    """One batch that was read.

    Attributes:
        batch: its rows.
        hidden: the head's input, [B, L, hidden], right-padded.
        cache: keys and values of the batch, or None where none were needed.
    """

    batch: Batch
    hidden: Tensor
    cache: PrefixCache | None


class PlanReader:
    """Forward passes over a plan's batches, one after the other.

    Args:
        model: the model.
        plan: what to read.
        keep_all: keep each batch's keys and values until the next one (generation goes on from them).
    """

    def __init__(self, model: CausalModel, plan: Plan, *, keep_all: bool = False) -> None:
        self.model, self.plan, self.keep_all = model, plan, keep_all
        self.trunks: dict[int, Prefix] = {}

    def __iter__(self) -> Iterator[Reading]:
        for batch in self.plan.batches:
            reading = self._read(batch)
            yield reading
            for number in batch.drop:
                del self.trunks[number]

    def _read(self, batch: Batch) -> Reading:
        device = self.model.device
        prefixes = [self.trunks.get(row.trunk) for row in batch.rows]
        needed = self.keep_all or any(prefixes) or any(row.keep != ROOT for row in batch.rows)
        cache = self.model.prefix_cache(prefixes) if needed else None
        width = max(len(row.ids) for row in batch.rows)
        tree = self.plan.tree
        tokens = _padded([[tree.tokens[at] for at in row.ids] for row in batch.rows], width).to(device)
        if self._is_plain(batch, prefixes):
            hidden = self.model.hidden(tokens, cache=cache)
        else:
            prefix = cache.width if cache is not None else 0
            positions = _padded([[tree.depth[at] for at in row.ids] for row in batch.rows], width).to(device)
            allowed = self._allowed(batch, width, prefix).to(device)
            mask = self.model.masks(allowed, positions, prefix)
            hidden = self.model.hidden(tokens, positions=positions, mask=mask, cache=cache)
        if cache is not None:
            self._keep(batch, cache)
        return Reading(batch, hidden, cache)

    def _is_plain(self, batch: Batch, prefixes: Sequence[Prefix | None]) -> bool:
        """Whether the model's own causal masks and positions are right: chains that start at the same position."""
        if not all(row.is_chain for row in batch.rows):
            return False
        if not any(prefixes):
            return True
        return not self.model.branching and len({self.plan.lengths[row.trunk] for row in batch.rows}) == 1

    def _allowed(self, batch: Batch, width: int, prefix: int) -> Tensor:
        """bool [B, width, prefix + width]: each token sees its trunk, its ancestors in the row, and itself.

        ``prefix`` is 0 where the attention function sees to the trunks.
        """
        slots = torch.arange(width)
        last = torch.tensor([[*row.last, *range(len(row.last), width)] for row in batch.rows])
        own = (slots[None, None, :] <= slots[None, :, None]) & (slots[None, :, None] <= last[:, None, :])
        lengths = torch.tensor([self.plan.lengths[row.trunk] for row in batch.rows])
        before = torch.arange(prefix)[None, :] < lengths[:, None]
        return torch.cat([before[:, None, :].expand(len(last), width, prefix), own], dim=2)

    def _keep(self, batch: Batch, cache: PrefixCache) -> None:
        for index, row in enumerate(batch.rows):
            if row.keep != ROOT:
                slots = torch.arange(len(row.ids), device=self.model.device)
                self.trunks[row.keep] = cache.prefix_of(index, slots)


def _padded(rows: list[list[int]], width: int) -> Tensor:
    """int64 [B, width], filled up with zeros on the right."""
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])
