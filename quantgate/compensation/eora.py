"""EoRA over a whole model: block by block, on the inputs that the compensated model so far gives.

As in the authors' code the inputs of a block come from the blocks before it as they will be used, quantized and
corrected, while the error is that of the weights against the original's. One forward of a block for its statistics, and
one for its output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantgate.compensation.low_rank import correction, output_error
from quantgate.core.errors import MethodError
from quantgate.core.progress import Progress
from quantgate.models.layers import Block, Stage, decoder_blocks, hooks, observe_stages, replace_weight
from quantgate.quantize.numerics.hessian import Hessian
from quantgate.quantize.sweep.batches import Batch, capture, run_block
from quantgate.quantize.sweep.driver import probe_of

Parts = Mapping[str, tuple[Tensor, Tensor]]
"""Layer -> its ``B`` ``[out, r]`` and ``A`` ``[r, in]``."""


@torch.no_grad()
def corrections(
    reference: nn.Module, quantized: nn.Module, samples: Sequence[Sequence[int]], rank: int, progress: Progress
) -> tuple[Parts, float]:
    """Corrections of every matrix that differs from the reference's, and the share of output error that is left.

    Args:
        reference: the 16-bit model.
        quantized: its weights are changed: the corrections are added as they are found.
        samples: token ids.
        rank: of every correction.
        progress: told about blocks.

    Raises:
        MethodError: nothing to read, or layers whose weights are no plain matrices.
    """
    who = "eora"
    texts = [list(sample) for sample in samples if len(sample)]
    if not texts:
        raise MethodError(who, "text without tokens", expected="at least one token")
    blocks = decoder_blocks(quantized, who)
    device = next(quantized.parameters()).device
    batches = [capture(quantized, blocks, torch.tensor([text], device=device)) for text in texts]
    probe = probe_of(quantized, blocks)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    before = left = 0.0
    for index, block in enumerate(blocks):
        progress.step(f"{who}: correcting blocks", index, len(blocks))
        stages = observe_stages(block, partial(run_block, block, probe, index), who)
        grams = _grams(block, stages, batches, index)
        for stage, gram in zip(stages, grams, strict=True):
            for name, layer in stage.linears.items():
                error = _error(reference, name, layer)
                if not bool(error.any()):
                    continue
                up, down = (part.to(torch.bfloat16) for part in correction(error, gram, rank))  # as it is stored
                change = up.float() @ down.float()
                before, left = before + output_error(error, gram), left + output_error(error - change, gram)
                replace_weight(layer, layer.weight.float() + change)
                found[name] = (up, down)
        for batch in batches:
            batch.hidden = run_block(block, batch, index)
    progress.step(f"{who}: correcting blocks", len(blocks), len(blocks))
    return found, left / before if before else 1.0


def _grams(block: Block, stages: Sequence[Stage], batches: Sequence[Batch], index: int) -> list[Tensor]:
    """``X X'`` of the input of every stage, ``[in, in]``, up to a factor."""
    sums = [Hessian(stage.first.in_features, stage.first.weight.device) for stage in stages]

    def adding(statistics: Hessian, batch: Batch) -> Any:
        return lambda _, args: statistics.add(batch.rows(args[0]))

    for batch in batches:
        watched = [
            stage.first.register_forward_pre_hook(adding(statistics, batch))
            for stage, statistics in zip(stages, sums, strict=True)
        ]
        with hooks(watched):
            run_block(block, batch, index)
    return [each.matrix() for each in sums]


def _error(reference: nn.Module, name: str, layer: nn.Linear) -> Tensor:
    weight = reference.get_submodule(name).weight
    if not layer.weight.is_floating_point() or layer.weight.shape != weight.shape:
        raise MethodError(
            "eora", f"{name} keeps {layer.weight.dtype} codes", expected="weights that a term can be added to",
            hint="rows that multiply integers (int8) are not compensated here",
        )  # fmt: skip
    return torch.as_tensor(weight).float() - layer.weight.float()
