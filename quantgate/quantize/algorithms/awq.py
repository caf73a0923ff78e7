"""AWQ (Lin et al. 2023): scale up the weights that large activations meet, then narrow each group's range.

Scale search, per stage. ``s = mean|x|^r / mean|w|^(1-r)`` over a grid of ratios ``r``, where ``|w|`` is relative to the
largest weight of its group, and ``s`` is normalised by ``sqrt(max s * min s)``. Of all ``r`` (and of no scaling at all)
the one is taken whose rounded weights change the stage's output least. ``w s`` is quantized, ``1/s`` is folded into
what produces the input, so the float model stays what it was.

Clip search, per group of one output row: the range is shrunk step by step, and the step that changes the output least
is kept. Both ends of an asymmetric range move, as the quantizer's do (LLMC's finding: a symmetric clip before an
asymmetric quantizer is what makes AWQ fail at 2 bit).

The change of the output over all calibration tokens is not sampled but exact: ``|dW X|^2 = tr(dW H dW^T)`` needs only
the input's second moments ``H``, which GPTQ collects anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from quantgate.quantize.base import LayerResult, Order, Statistics
from quantgate.quantize.grids import UniformGrid, cover, fit_groups, group_bounds, group_index, quantize, to_steps
from quantgate.quantize.numerics.hessian import exact_bf16_products, hessian_of
from quantgate.quantize.numerics.statistics import InputStatistics
from quantgate.quantize.numerics.uniform import UniformWeight, gptq_layout_config
from quantgate.quantize.settings import AwqSettings, ClipSettings, Need
from quantgate.quantize.transforms.fold import Fold

_SMALLEST: Final = 1e-4  # of a scale before normalisation, as in the paper's code
_CHUNK: Final = 1 << 19  # weights worked on at a time: few enough for the caches, many for one conversion of H to bf16
_USUAL: Final = 0.4  # of the grid: where the best ratio mostly is, so most of the others are soon given up


def _columns(weights: Sequence[Tensor]) -> Tensor:
    """The stage's weights as one float32 matrix ``[in, out]``."""
    return torch.cat([weight.to(torch.float32) for weight in weights]).t().contiguous()


def weight_magnitude(columns: Tensor, group_size: int) -> Tensor:
    """Mean over ``out`` of ``|w|`` relative to the largest weight of its group: float32 ``[in]``."""
    parts = []
    for start, end in group_bounds(len(columns), group_size):
        group = columns[start:end].abs()
        parts.append((group / (group.amax(0) + 1e-6)).mean(1))
    return torch.cat(parts)


def candidate_scales(activation: Tensor, weight: Tensor, grid: int) -> list[Tensor]:
    """Scale vectors to try, float32 ``[channels]`` each: none at all (ones), then every ratio of the grid.

    Args:
        activation: mean magnitude of each channel of the input.
        weight: mean relative magnitude of the weights it meets.
        grid: number of ratios.
    """
    found = [torch.ones_like(activation)]
    for step in range(grid):
        ratio = step / grid
        scale = (activation.pow(ratio) / (weight.pow(1 - ratio) + _SMALLEST)).clamp(min=_SMALLEST)
        found.append(scale / (scale.max() * scale.min()).sqrt())
    return found


def rounding_loss(
    columns: Tensor, scale: Tensor, hessian: Tensor, settings: AwqSettings, least: float = math.inf
) -> float:
    """``tr(d H d^T)`` of the change ``d`` that rounding ``w * scale`` to the grid makes to ``w``.

    Args:
        columns: float32 ``[in, out]``.
        scale: float32 ``[in]``.
        hessian: float32 ``[in, in]``.
        settings: the grid.
        least: give up, with infinity, once the loss is larger: outputs only add to it, ``H`` is positive semidefinite.
    """
    grid = UniformGrid(settings.bits, settings.sym)
    scaled_hessian = hessian / scale / scale.unsqueeze(1)
    total = 0.0
    for chunk in torch.split(columns, max(_CHUNK // len(columns), 1), dim=1):
        values = chunk * scale.unsqueeze(1)
        error = _round(values, settings.group_size, grid).sub_(values)
        with exact_bf16_products(True):  # ranks candidates: three digits of a sum over all weights are plenty
            total += float((scaled_hessian @ error).mul_(error).sum())
        if total > least:
            return math.inf
    return total


def _round(values: Tensor, group_size: int, grid: UniformGrid) -> Tensor:
    """``values`` (float32 ``[in, out]``) on the grid fitted to them, as numbers."""
    rows, out = values.shape
    size = rows if group_size == -1 else group_size
    whole = rows // size * size
    parts = [values[:whole].view(-1, size, out)] if whole else []
    rounded = []
    for part in [*parts, values[whole:].unsqueeze(0)] if whole < rows else parts:
        scale, zero = cover(part.amin(1, keepdim=True), part.amax(1, keepdim=True), grid)
        rounded.append(to_steps(part, scale, -zero, grid.top - zero).mul_(scale).view(-1, out))
    return torch.cat(rounded) if len(rounded) > 1 else rounded[0]


@dataclass(frozen=True)
class Awq:
    """The scale search as the driver sees it."""

    settings: AwqSettings
    needs: ClassVar[frozenset[Need]] = frozenset({"hessian", "magnitude"})

    def covers(self, fold: Fold) -> bool:
        """Every stage that can be scaled is."""
        return True

    def scale(self, fold: Fold, weights: Sequence[Tensor], statistics: InputStatistics) -> Tensor:
        """The scale of each channel of the fold's source, float32 ``[size]``; ones if no scaling is better."""
        columns, hessian = _columns(weights), hessian_of(statistics, "awq")
        activation = fold.pooled(statistics.mean_magnitude)
        weight = fold.pooled(weight_magnitude(columns, self.settings.group_size))
        scales = candidate_scales(activation, weight, self.settings.grid)
        losses = [math.inf] * len(scales)
        for index in sorted(range(len(scales)), key=lambda index: abs(index - _USUAL * len(scales))):
            scale = scales[index][fold.channels]
            losses[index] = rounding_loss(columns, scale, hessian, self.settings, min(losses))
        return scales[losses.index(min(losses))]


def clip_ranges(columns: Tensor, hessian: Tensor, settings: ClipSettings) -> tuple[Tensor, Tensor]:
    """Scales and zero points, float32 ``[groups, out]``, whose range changes each group's part of the output least.

    Args:
        columns: float32 ``[in, out]``.
        hessian: float32 ``[in, in]``; its blocks on the diagonal are what a group is judged by.
        settings: grid and candidates; the first candidate is the full range.
    """
    grid = UniformGrid(settings.bits, settings.sym)
    found = [
        _clip_group(columns[start:end], hessian[start:end, start:end], grid, settings)
        for start, end in group_bounds(len(columns), settings.group_size)
    ]
    scales, zeros = zip(*found, strict=True)
    return torch.stack(scales), torch.stack(zeros)


def _clip_group(group: Tensor, hessian: Tensor, grid: UniformGrid, settings: ClipSettings) -> tuple[Tensor, Tensor]:
    """The best scale and zero point of one group (float32 ``[size, out]``) per output, ``[out]`` each."""
    low, high = torch.aminmax(group, dim=0)
    best: tuple[Tensor, Tensor] | None = None
    least = torch.empty(0)
    for step in range(settings.steps):
        keep = 1.0 - settings.max_shrink * step / settings.steps
        scale, zero = cover(low * keep, high * keep, grid)
        error = to_steps(group, scale, -zero, grid.top - zero).mul_(scale).sub_(group)
        loss = (hessian @ error).mul_(error).sum(0)
        if best is None:
            best, least = (scale, zero), loss
        else:
            better = loss < least
            least = torch.where(better, loss, least)
            best = torch.where(better, scale, best[0]), torch.where(better, zero, best[1])
    assert best is not None
    return best


@dataclass(frozen=True)
class ClippedRtn:
    """Round to nearest within searched ranges, as the driver sees it. Statistics are those of the 16-bit model."""

    settings: ClipSettings
    order: ClassVar[Order] = Order(true_sequential=False, block_sequential=False)
    needs: ClassVar[frozenset[Need]] = frozenset({"hessian"})

    def statistics(self, in_features: int, device: torch.device) -> InputStatistics:
        """Second moments of the input."""
        return InputStatistics(in_features, device, self.needs)

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """One result a weight; the loss is relative to the output's energy."""
        hessian = hessian_of(statistics, "clipped rtn")
        return [self._one(weight.to(torch.float32).t().contiguous(), hessian) for weight in weights]

    def _one(self, columns: Tensor, hessian: Tensor) -> LayerResult:
        settings = self.settings
        grid = UniformGrid(settings.bits, settings.sym)
        if settings.steps > 1:
            scales, zeros = clip_ranges(columns, hessian, settings)
        else:
            scales, zeros = fit_groups(columns, settings.group_size, grid)
        g_idx = group_index(len(columns), settings.group_size).to(columns.device)
        codes = quantize(columns, scales[g_idx], zeros[g_idx], grid)
        stored = UniformWeight(codes, scales.to(torch.float16), zeros.to(torch.uint8), g_idx, grid)
        error = stored.dequantize(torch.float32).t() - columns
        with exact_bf16_products(True):  # two sums for the report
            loss, energy = (float((hessian @ part).mul_(part).sum()) for part in (error, columns))
        return LayerResult(stored, loss / max(energy, 1e-30))

    def checkpoint_config(self) -> dict[str, Any]:
        """Settings in the words of the GPTQ layout, from which only the choice of ranges differs."""
        settings = self.settings
        return gptq_layout_config(bits=settings.bits, group_size=settings.group_size, sym=settings.sym)
