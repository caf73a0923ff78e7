"""What a matrix suffers from that is no rounding of its own original: told by trying the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from quantgate.checkpoints.findings import ERROR, Finding
from quantgate.checkpoints.layouts.parts import PartsCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

    from quantgate.checkpoints.layouts.protocol import Checkpoint

# share of input features. act-order leaves 0 to 9% in 4 bits and up to 56% in 3, an order drawn at random 41 to 99%
_MISPLACED: Final = 0.35
# loss under the stored order by that of any: 0.24 to 0.73 by rounding with feedback in 3 and 4 bits, 0.95 to 1.06 drawn
_ANY: Final = 0.85
_FEW_BITS: Final = 2  # where the feedback moves features as far as another order does


def order_of_groups(module: str, weight: Tensor, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Whether the stored ``g_idx`` of a matrix with groups in any order belongs to its codes.

    Every input feature is given to the group whose scales fit it best. Codes that were rounded with the stored order
    fit it best nearly everywhere; under another order about as many as were moved do not.
    """
    if not isinstance(checkpoint, PartsCheckpoint) or "g_idx" not in checkpoint.found.get(module, {}):
        return
    order = checkpoint.part(module, "g_idx")
    if bool((order[1:] >= order[:-1]).all()):
        return
    from quantgate.quantize.numerics.uniform import from_tensors

    if checkpoint.modules[module].bits <= _FEW_BITS:
        return
    parts = {key: checkpoint.part(module, key) for key in checkpoint.found[module]}
    stored = from_tensors(parts, checkpoint.settings(module), module)
    lost = _lost(stored.codes.float(), stored.scales.float(), stored.zeros.float(), weight.float().t())
    misplaced = lost.argmin(0) != order
    by_order = lost.gather(0, order.long().unsqueeze(0)).sum() / lost.mean(0).sum().clamp(min=1e-30)
    if float(misplaced.float().mean()) > _MISPLACED and float(by_order) > _ANY:
        count = int(misplaced.sum())
        yield Finding(
            "order_of_groups", ERROR,
            f"g_idx of {module} does not belong to its codes: {count} of {len(order)} input features fit another group",
            (module,), {"features": count},
        )  # fmt: skip


def _lost(codes: Tensor, scales: Tensor, zeros: Tensor, target: Tensor) -> Tensor:
    """Squared error of every input feature under every group's scales, ``[groups, in]``, by the sums of its products.

    Args:
        codes: ``[in, out]``, float.
        scales: ``[groups, out]``.
        zeros: ``[groups, out]``.
        target: the original, ``[in, out]``.
    """
    # s (c - z) - t, squared, with the shift s z of a group apart: s² c² - 2 s c (t + s z) + (t + s z)²
    middle = zeros.mean()  # smaller numbers cancel better
    codes, shift = codes - middle, scales * (zeros - middle)
    crossed = scales @ (codes * target).t() + (scales * shift) @ codes.t()
    rest = target.square().sum(1) + 2 * (shift @ target.t()) + shift.square().sum(1, keepdim=True)
    return scales.square() @ codes.square().t() - 2 * crossed + rest
