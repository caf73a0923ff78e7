"""Collect the statistics of every stage of the 16-bit model over a text, without quantizing anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quantgate.core.errors import MethodError
from quantgate.core.progress import Progress
from quantgate.models.layers import Stage, decoder_blocks, hooks, observe_stages
from quantgate.models.products import wide_products
from quantgate.quantize.numerics.ragged import attention_of
from quantgate.quantize.sweep.batches import Batch, capture, run_block
from quantgate.quantize.sweep.driver import probe_of


class Adding(Protocol):
    """What takes in input vectors."""

    def add(self, rows: Tensor) -> None:
        """Input vectors ``[n, features]``."""


@torch.no_grad()
def collect(
    model: nn.Module, samples: Sequence[Sequence[int]], empty: Callable[[int], Adding], progress: Progress
) -> Mapping[tuple[str, ...], Adding]:
    """Statistics of every stage's input, by the names of its layers.

    Every sample goes through the model alone, so that what it adds does not depend on its company.

    Args:
        model: the 16-bit model.
        samples: token ids, empty ones are left out.
        empty: makes statistics for a number of features.

    Raises:
        MethodError: no tokens, or see ``empty``'s ``add``.
    """
    who = "statistics"
    texts = [sample for sample in samples if len(sample)]
    if not texts:
        raise MethodError(who, "text without tokens", expected="at least one token")
    blocks, device = decoder_blocks(model, who), next(model.parameters()).device
    found: dict[tuple[str, ...], Adding] = {}
    with wide_products(next(model.parameters()).dtype), attention_of(model):
        batches = [capture(model, blocks, torch.tensor([list(text)], device=device)) for text in texts]
        probe = probe_of(model, blocks)
        for index, block in enumerate(blocks):
            progress.step(f"{who}: collecting blocks", index, len(blocks))
            stages = observe_stages(block, partial(run_block, block, probe, index), who)
            mine = {stage.names: empty(stage.first.in_features) for stage in stages}
            for batch in batches:
                with hooks([_adding(stage, batch, mine[stage.names]) for stage in stages]):
                    batch.hidden = run_block(block, batch, index)
            found |= mine
    progress.step(f"{who}: collecting blocks", len(blocks), len(blocks))
    return found


def _adding(stage: Stage, batch: Batch, statistics: Adding) -> RemovableHandle:
    return stage.first.register_forward_pre_hook(lambda _, args: statistics.add(batch.rows(args[0])))
