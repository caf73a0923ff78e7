"""Uniform integer grids: each ``quantize`` stands beside the ``dequantize`` that inverts it.

Conventions are AutoGPTQ's, so that what is computed here is what its checkpoint format can store:

* codes are unsigned, ``0 .. 2^bits - 1``; a value is ``scale * (code - zero)``;
* symmetric: ``scale = 2 max|w| / (2^bits - 1)`` and ``zero = 2^(bits-1)``;
* asymmetric: ``scale = (max - min) / (2^bits - 1)`` over a range that always contains 0, ``zero = round(-min/scale)``,
  so 0 is represented exactly;
* scales are stored as fp16. They are rounded to fp16 *before* any code is chosen: stored and computed weights agree
  bit for bit, and no code was picked for a scale that does not exist on disk.

Weights are handled as ``[in, out]`` (the transpose of ``nn.Linear.weight``), the order of the checkpoint format: a
group is a run of rows, scales and zeros are ``[groups, out]``. The last group may be shorter than the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from quantgate.core.errors import MethodError
from quantgate.quantize.settings import check_grid

_SMALLEST_SCALE: Final = 2.0**-24  # the smallest positive fp16
_LARGEST_SCALE: Final = 65504.0


@dataclass(frozen=True)
class UniformGrid:
    """``2^bits`` equidistant levels; symmetric grids have their zero fixed in the middle."""

    bits: int
    symmetric: bool = True

    def __post_init__(self) -> None:
        check_grid(self.bits)

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return 1 << (self.bits - 1)


def fit(values: Tensor, dim: int | tuple[int, ...], grid: UniformGrid) -> tuple[Tensor, Tensor]:
    """Scale and zero point that cover ``values``, reduced over ``dim`` (kept with size 1).

    Args:
        values: float32, any shape; finite.
        dim: the dimensions that share a scale: all of them = per tensor, the last one = per token.
        grid: bits and symmetry.

    Returns:
        ``(scale, zero)``, both float32; every scale is a positive fp16 number, every zero an integer code.

    Raises:
        MethodError: a value is not finite, or a range needs a scale beyond fp16.
    """
    return cover(values.amin(dim, keepdim=True), values.amax(dim, keepdim=True), grid)


def cover(low: Tensor, high: Tensor, grid: UniformGrid, dtype: torch.dtype = torch.float16) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the grid that reaches from ``low`` to ``high`` (float32, equal shapes) and holds 0.

    Returns and raises as `fit`, which passes the extremes of its values; a searched range may be narrower. Scales are
    numbers of ``dtype``; float32 scales (of activations) are not checked: NaN and infinity go through.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if grid.symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scale = (high - low) / grid.top
    if dtype == torch.float16 and not bool((scale <= _LARGEST_SCALE).all()):
        raise MethodError(
            "uniform grid", "weights that are not finite or too large for an fp16 scale", expected="finite weights"
        )
    smallest = _SMALLEST_SCALE if dtype == torch.float16 else torch.finfo(dtype).tiny
    # an empty range (all weights zero) gets scale 1: any positive number reproduces the zeros
    scale = torch.where(high == low, torch.ones_like(scale), scale.clamp(min=smallest))
    scale = scale.to(dtype).to(torch.float32)
    zero = torch.full_like(scale, grid.middle) if grid.symmetric else (-low / scale).round_().clamp_(0, grid.top)
    return scale, zero


def to_steps(values: Tensor, scale: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Nearest number of whole steps from the zero point, ``clamp(round(values / scale), low, high)`` as float32.

    ``low = -zero`` and ``high = top - zero`` are the ends of the grid in steps; halves round to even. The shared core
    of `quantize` and of GPTQ's inner loop, so that both choose the same code for the same weight.
    """
    steps = torch.div(values, scale).round_()
    return steps.clamp_(low, high)  # type: ignore[arg-type]  # numbers and tensors mix, the stub knows only either


def quantize(values: Tensor, scale: Tensor, zero: Tensor, grid: UniformGrid) -> Tensor:
    """Codes (uint8, the shape of ``values``) of the nearest grid points; ``scale`` and ``zero`` broadcast."""
    return (to_steps(values, scale, -zero, grid.top - zero) + zero).to(torch.uint8)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """``scale * (code - zero)`` in float32; exact up to the one rounding of the product."""
    return (codes.to(torch.float32) - zero.to(torch.float32)).mul_(scale.to(torch.float32))


def group_bounds(rows: int, group_size: int) -> list[tuple[int, int]]:
    """Start and end row of every group; ``group_size`` -1 = one group, the last group may be shorter."""
    size = rows if group_size == -1 else group_size
    if size < 1:
        raise MethodError("uniform grid", f"group size {group_size}", expected="-1 (whole column) or at least 1")
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def group_index(rows: int, group_size: int) -> Tensor:
    """The group of each row, int32 ``[rows]``: AutoGPTQ's ``g_idx`` without act-order."""
    size = rows if group_size == -1 else group_size
    return torch.arange(rows, dtype=torch.int32) // size


def fit_groups(weight: Tensor, group_size: int, grid: UniformGrid) -> tuple[Tensor, Tensor]:
    """`fit` for every group of rows of ``weight`` (float32 ``[in, out]``): scales and zeros, ``[groups, out]``."""
    rows, columns = weight.shape
    size = rows if group_size == -1 else group_size
    whole = rows // size * size
    parts = []
    if whole:
        scale, zero = fit(weight[:whole].view(-1, size, columns), 1, grid)
        parts.append((scale.squeeze(1), zero.squeeze(1)))
    if whole < rows:
        parts.append(fit(weight[whole:], 0, grid))
    scales, zeros = zip(*parts, strict=True)
    return torch.cat(scales), torch.cat(zeros)
