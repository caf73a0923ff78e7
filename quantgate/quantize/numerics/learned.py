"""Rounding with a gradient: what is learned about a grid, and what passes through it.

``round`` counts as the identity (straight through) and ``clamp`` as a clamp, so the rounded value moves with the value
where it is inside the range, and with the scale by ``code - zero - value / scale`` inside and ``code - zero`` outside.
Zero points are constants, as in OmniQuant's code.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from quantgate.core.errors import MethodError
from quantgate.quantize.grids import UniformGrid
from quantgate.quantize.settings import ActivationSettings

_TINY: Final = 2.0**-120  # the smallest scale of an input: its quotients stay finite


def steps(values: Tensor, scale: Tensor, zero: Tensor, top: Tensor | int) -> Tensor:
    """Nearest codes less the zero point: ``clamp(round(values / scale + zero), 0, top) - zero``."""
    return _clamped(torch.div(values, scale).add_(zero).round_(), top).sub_(zero)


def _clamped(codes: Tensor, top: Tensor | int) -> Tensor:
    return codes.clamp_(0, top) if isinstance(top, int) else torch.minimum(codes.clamp_(min=0), top, out=codes)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero: Tensor, top: Tensor | int) -> Tensor:
        ratio = values / scale
        codes = (ratio + zero).round_()
        inside = (codes >= 0) & (codes <= top)
        found = _clamped(codes, top).sub_(zero)
        ctx.save_for_backward(torch.addcmul(found, ratio, inside.to(ratio.dtype), value=-1), inside)
        ctx.shape = scale.shape
        return found * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        slope, inside = ctx.saved_tensors
        (gradient,) = gradients
        values = gradient * inside if ctx.needs_input_grad[0] else None
        scale = (gradient * slope).sum_to_size(ctx.shape) if ctx.needs_input_grad[1] else None
        return values, scale, None, None


def rounded(values: Tensor, scale: Tensor, zero: Tensor, top: Tensor | int) -> Tensor:
    """``values`` on their grid, as numbers of their dtype; gradients reach ``values`` and ``scale``.

    Args:
        values: any float dtype and shape.
        scale: positive; broadcasts over ``values``.
        zero: zero point, broadcasts likewise; a constant.
        top: largest code, a number or a tensor that broadcasts.
    """
    found: Tensor = _Rounded.apply(values, scale, zero, top)  # type: ignore[no-untyped-call]  # torch's
    return found


def check_inputs(settings: ActivationSettings, who: str) -> None:
    """Raise MethodError for inputs that nothing can be learned with here."""
    if settings.kind != "int" or settings.granularity != "token":
        raise MethodError(
            who, f"{settings.kind} inputs by {settings.granularity}", expected="whole numbers, a scale a token"
        )


def rounded_tokens(x: Tensor, settings: ActivationSettings) -> Tensor:
    """``x`` (``[..., features]``) as a loaded checkpoint's layers round it, with gradients; see `check_inputs`."""
    grid, values = UniformGrid(settings.bits, settings.sym), x.to(torch.float32)
    low, high = values.amin(-1, keepdim=True).clamp(max=0.0), values.amax(-1, keepdim=True).clamp(min=0.0)
    if grid.symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scale = ((high - low) / grid.top).clamp(min=_TINY)
    zero = torch.full_like(scale, grid.middle) if grid.symmetric else (-low / scale).detach().round()
    return rounded(values, scale, zero, grid.top).to(x.dtype)
