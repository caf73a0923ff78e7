"""What a matrix suffers from that is no rounding of its own original: told by trying the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from quantgate.checkpoints.findings import ERROR, Finding
from quantgate.checkpoints.layouts.parts import PartsCheckpoint
from quantgate.checkpoints.matrices import plain_distance

if TYPE_CHECKING:
    from torch import Tensor

    from quantgate.checkpoints.layouts.protocol import Checkpoint


def order_of_groups(module: str, weight: Tensor, checkpoint: Checkpoint, allowed: float) -> Iterator[Finding]:
    """Whether another ``g_idx`` than the stored one makes the matrix of ``module`` a rounding of ``weight``.

    Every input feature is given to the group whose scales fit it best. Where that brings the distance below
    ``allowed``, the codes and scales are right, and the order is not theirs.
    """
    import torch

    if not isinstance(checkpoint, PartsCheckpoint) or "g_idx" not in checkpoint.found.get(module, {}):
        return
    from quantgate.quantize.numerics.uniform import UniformWeight, from_tensors

    parts = {key: checkpoint.part(module, key) for key in checkpoint.found[module]}
    stored = from_tensors(parts, checkpoint.settings(module), module)
    codes, target = stored.codes.float(), weight.t()
    lost = []
    for group in range(len(stored.scales)):
        values = stored.scales[group].float() * (codes - stored.zeros[group].float())
        lost.append((values - target).square().sum(1))
    best = torch.stack(lost).argmin(0)
    moved = int((best != stored.g_idx).sum())
    mended = UniformWeight(stored.codes, stored.scales, stored.zeros, best.to(torch.int32), stored.grid)
    if moved and plain_distance(weight, mended.dequantize(torch.float32)) <= allowed:
        yield Finding(
            "order_of_groups", ERROR,
            f"g_idx of {module} does not belong to its codes: {moved} of {len(best)} input features fit another group",
            (module,), {"features": moved},
        )  # fmt: skip
