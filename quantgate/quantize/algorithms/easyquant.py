"""EasyQuant (Tang et al. 2024): outliers apart, then the best range for the rest; no data is looked at.

Weights at least ``n`` standard deviations from the mean of their matrix stay in 16 bit (the paper prints the variance;
only the standard deviation has the right unit). The others go on the symmetric grid ``s * {-2^(k-1) + 1 .. 2^(k-1)}``
with the ``s`` that minimizes their squared error. The paper descends to it by 100 to 500 Adam steps with the rounding
held constant: ``search="adam"``. By default ``s`` is searched, from the absolute maximum downwards and then around the
best in small steps: the errors are no larger than those of the descent (a test compares them) and there is no learning
rate to choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from quantgate.core.errors import MethodError
from quantgate.quantize.base import LayerResult, Order, Statistics
from quantgate.quantize.grids import group_bounds, group_index
from quantgate.quantize.numerics.layout import Parts, layout_config, stored_parts
from quantgate.quantize.numerics.outliers import Outliers, outliers_of, read_outliers
from quantgate.quantize.numerics.packing import pack_stream, unpack_stream
from quantgate.quantize.settings import EasyQuantSettings

_SMALLEST_SCALE: Final = 2.0**-24  # the smallest positive fp16
_SHRINKS: Final = tuple(step / 50 for step in range(50, 14, -1))  # of the absolute maximum: 1 down to 0.3
_ADAM_STEPS: Final = 500
_ADAM_RATE: Final = 1e-3
_NUDGES: Final = tuple(1 + step / 400 for step in range(-7, 8) if step)  # of the best so far: half a step at most


def outlier_mask(weight: Tensor, sigmas: float) -> Tensor:
    """Which entries of ``weight`` (float32) are at least ``sigmas`` standard deviations from the mean."""
    return (weight - weight.mean()).abs() >= sigmas * weight.std(correction=0)


def _codes(members: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Nearest grid points in steps of ``scale``, float32."""
    lowest, highest = 1 - (1 << (bits - 1)), 1 << (bits - 1)
    return torch.div(members, scale).round_().clamp_(lowest, highest)


def fit(members: Tensor, bits: int) -> Tensor:
    """The scale of each output feature of one group: fp16 numbers as float32 ``[out]``.

    Args:
        members: the group's weights without outliers (zeros in their place), float32 ``[g, out]``.
        bits: of a code.

    Raises:
        MethodError: weights that need a scale beyond fp16.
    """
    widest = members.abs().amax(0) / ((1 << (bits - 1)) - 1)
    best = torch.full_like(widest, torch.inf)
    scale = widest

    def consider(tried: Tensor) -> None:
        nonlocal best, scale
        tried = tried.clamp(min=_SMALLEST_SCALE).to(torch.float16).to(torch.float32)
        error = torch.addcmul(members, _codes(members, tried, bits), tried, value=-1).square_().sum(0)
        better = error < best
        best, scale = torch.where(better, error, best), torch.where(better, tried, scale)

    for shrink in _SHRINKS:
        consider(widest * shrink)
    coarse = scale
    for nudge in _NUDGES:
        consider(coarse * nudge)
    if not bool(torch.isfinite(best).all()):
        raise MethodError(
            "easyquant", "weights that are not finite or too large for an fp16 scale", expected="finite weights"
        )
    return scale


def descend(members: Tensor, bits: int) -> Tensor:
    """The scale of each output feature of one group by the paper's descent: fp16 numbers as float32 ``[out]``.

    Arguments and errors as of `fit`. Steps are relative to the start, so that one learning rate suits every row; the
    scale with the least error on the way is kept, as it is where the last step overshoots.
    """
    start = (members.abs().amax(0) / ((1 << (bits - 1)) - 1)).clamp(min=_SMALLEST_SCALE)
    scale, best, least = start.clone(), start.clone(), torch.full_like(start, torch.inf)
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, _ADAM_STEPS + 1):
        tried = scale.to(torch.float16).to(torch.float32).clamp(min=_SMALLEST_SCALE)
        codes = _codes(members, tried, bits)
        error = codes * tried - members
        loss = error.square().sum(0)
        best, least = torch.where(loss < least, tried, best), torch.minimum(loss, least)
        gradient = 2 * (error * codes).sum(0)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        move = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-12)
        scale = scale - _ADAM_RATE * start * move
    if not bool(torch.isfinite(least).all()):
        raise MethodError(
            "easyquant", "weights that are not finite or too large for an fp16 scale", expected="finite weights"
        )
    return best


@dataclass(frozen=True)
class EasyQuantWeight:
    """``codes``: uint8 ``[in, out]``, 0 at the grid's lower end; ``scales``: fp16 ``[groups, out]``; ``outliers``."""

    codes: Tensor
    scales: Tensor
    outliers: Outliers
    settings: EasyQuantSettings

    @property
    def n_weights(self) -> int:
        """Number of weights that are represented."""
        return self.codes.numel()

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight ``[out, in]``: ``scale * (code - 2^(bits-1) + 1)`` in float32, the outliers, rounded once."""
        group = group_index(len(self.codes), self.settings.group_size).to(self.codes.device).to(torch.int64)
        steps = self.codes.to(torch.float32) - (2 ** (self.settings.bits - 1) - 1)
        values = steps.mul_(self.scales.to(torch.float32)[group])
        return self.outliers.put_into(values.t().contiguous()).to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Codes as one bit stream, scales, outliers."""
        codes = pack_stream(self.codes, self.settings.bits)
        parts = {"codes": codes, "scales": self.scales, **self.outliers.tensors()}
        return stored_parts((self.codes.shape[1], len(self.codes)), parts)


def from_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], who: str) -> EasyQuantWeight:
    """Read what `EasyQuantWeight.tensors` stored. Raises ModelError when parts are missing or do not fit."""
    settings = EasyQuantSettings(
        **{
            each.name: config[each.name]
            for each in fields(EasyQuantSettings)
            if each.name in config or not each.metadata
        }
    )
    parts = Parts(tensors, who)
    out, columns = parts.shape
    scales = parts.shaped("scales", len(group_bounds(columns, settings.group_size)), out)
    codes = unpack_stream(parts["codes"], settings.bits, (columns, out))
    return EasyQuantWeight(codes, scales, read_outliers(parts.tensors, parts.shape, who), settings)


def easyquant(weight: Tensor, settings: EasyQuantSettings) -> EasyQuantWeight:
    """Quantize ``weight`` (``[out, in]``, any float dtype); outliers keep its dtype (float32: rounded to bf16).

    Raises:
        MethodError: weights that are not finite.
    """
    original = weight.to(torch.float32)
    mask = outlier_mask(original, settings.sigmas)
    columns = original.masked_fill(mask, 0.0).t().contiguous()
    bounds = group_bounds(len(columns), settings.group_size)
    search = descend if settings.search == "adam" else fit
    scales = torch.stack([search(columns[a:b], settings.bits) for a, b in bounds])
    group = group_index(len(columns), settings.group_size).to(columns.device).to(torch.int64)
    codes = _codes(columns, scales[group], settings.bits).add_(2 ** (settings.bits - 1) - 1).to(torch.uint8)
    kept = outliers_of(weight, mask, torch.bfloat16 if weight.dtype == torch.float32 else weight.dtype)
    return EasyQuantWeight(codes, scales.to(torch.float16), kept, settings)


@dataclass(frozen=True)
class EasyQuant:
    """EasyQuant as the driver sees it: no statistics, each layer on its own."""

    settings: EasyQuantSettings
    order: ClassVar[Order] = Order()

    def statistics(self, in_features: int, device: torch.device) -> None:
        """Nothing is collected."""

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """One result a weight; its loss is the relative squared weight error."""
        results = []
        for weight in weights:
            stored, original = easyquant(weight, self.settings), weight.to(torch.float32)
            error = (stored.dequantize(torch.float32) - original).square().sum()
            results.append(LayerResult(stored, float(error / original.square().sum().clamp(min=1e-30))))
        return results

    def checkpoint_config(self) -> dict[str, Any]:
        """The settings."""
        return layout_config("easyquant", self.settings)
