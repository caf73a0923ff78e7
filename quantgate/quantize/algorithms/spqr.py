"""SpQR (Dettmers et al. 2023): small groups, statistics that are quantized themselves, sensitive weights in 16 bit.

The column loop of GPTQ with three changes, as in the authors' code and paper A:

* a weight whose error, weighed by the Hessian, exceeds a threshold stays 16 bit. Before a group's grid is fitted, its
  likely outliers are found by leaving out one weight at a time, and replaced by the mean of the others;
* grids are asymmetric with a fractional zero point. Ranges are stretched to contain 0, which the authors' code does not
  do: where all outliers but one are taken out of a group, the rest are equal up to rounding, the zero point of such a
  range is beyond any bound, and quantizing it with its neighbours would ruin theirs;
* scales and zero points of ``statistic_group`` output rows are quantized to ``statistic_bits``: second-level statistics
  in fp16. Columns are rounded to the grid that comes out of this, so stored and computed weights agree.

Bits of a weight without outliers: ``bits + 2 statistic_bits / group_size + 64 / (group_size statistic_group)``, for
2 bit in groups of 16 and 3-bit statistics of 16 rows 2.625. An outlier costs 32 more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from quantgate.core.errors import MethodError, ModelError
from quantgate.quantize.base import LayerResult, Statistics
from quantgate.quantize.grids import group_bounds, group_index
from quantgate.quantize.numerics.columns import ColumnLoop, Processing, processing_of
from quantgate.quantize.numerics.hessian import OnHessian, output_energy
from quantgate.quantize.numerics.layout import Parts, layout_config, stored_parts
from quantgate.quantize.numerics.outliers import Outliers, outliers_of, read_outliers
from quantgate.quantize.numerics.packing import pack_stream, unpack_stream
from quantgate.quantize.settings import SpqrSettings

_TINY = 1e-9  # stands in for a scale of 0 as a divisor: all weights of the group are 0 (the authors' number)


@dataclass(frozen=True)
class Statistic:
    """Scales or zero points, quantized. ``codes``: uint8 ``[groups, out]``; ``steps``, ``lows``: fp16 ``[groups, n]``.

    A value is ``low + step * code`` with the low and step of its ``width`` output rows (the last may be fewer).
    """

    codes: Tensor
    steps: Tensor
    lows: Tensor
    width: int

    def values(self) -> Tensor:
        """The statistics a weight's grid is made of, float32 ``[groups, out]``."""
        out = self.codes.shape[1]
        steps, lows = (t.to(torch.float32).repeat_interleave(self.width, 1)[:, :out] for t in (self.steps, self.lows))
        return lows + steps * self.codes  # two roundings everywhere: a fused product would differ between machines


def compress(values: Tensor, bits: int, width: int) -> Statistic:
    """Quantize ``values`` (float32 ``[groups, out]``) asymmetrically, ``width`` neighbours of a row together.

    Raises:
        MethodError: a value beyond fp16.
    """
    groups, out = values.shape
    missing = -out % width
    padded = pad(values.unsqueeze(0), (0, missing), mode="replicate").view(groups, -1, width)
    low, high = padded.aminmax(dim=2, keepdim=True)
    top = 2**bits - 1
    step, low = ((high - low) / top).to(torch.float16), low.to(torch.float16)
    if not bool(torch.isfinite(step).all() & torch.isfinite(low).all()):
        raise MethodError("spqr", "weights too large for fp16 statistics", expected="scales below 65504")
    codes = ((padded - low) / step.to(torch.float32).clamp(min=_TINY)).round_().clamp_(0, top).to(torch.uint8)
    return Statistic(codes.view(groups, -1)[:, :out].contiguous(), step.squeeze(2), low.squeeze(2), width)


def _joined(groups: Sequence[Statistic]) -> Statistic:
    codes, steps, lows = (torch.cat([getattr(group, part) for group in groups]) for part in ("codes", "steps", "lows"))
    return Statistic(codes, steps, lows, groups[0].width)


def _grid(low: Tensor, high: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Scale and fractional zero point (``0 .. top``) of the range ``low .. high``, float32 of any shape."""
    low = low.clamp(max=0.0)
    scale = (high.clamp(min=0.0) - low) / top
    return scale, -low / scale.clamp(min=_TINY)


def _codes(weight: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """Nearest codes, as float32."""
    return torch.div(weight, scale.clamp(min=_TINY)).add_(zero).round_().clamp_(0, top)


def leave_one_out_gain(members: Tensor, pivots: Tensor, top: int) -> Tensor:
    """By how much the group's weighed squared error falls when one weight is left out of it, for every weight.

    Leaving a weight out changes the grid only if it is the group's smallest or largest, so two more fits are enough
    (the authors refit for every weight, with the same result).

    Args:
        members: the weights of a group, float32 ``[g, out]``.
        pivots: ``1 / U_jj``, float32 ``[g, 1]``.
        top: the largest code.
    """

    def errors(low: Tensor, high: Tensor) -> Tensor:
        scale, zero = _grid(low, high, top)
        rounded = (_codes(members, scale, zero, top) - zero) * scale
        return (rounded - members).mul_(pivots).square_()

    if len(members) == 1:
        return errors(members[0], members[0])
    lows, smallest = torch.topk(members, 2, dim=0, largest=False)
    highs, largest = torch.topk(members, 2, dim=0)
    gain = errors(lows[0], highs[0])
    total = gain.sum(0)
    for low, high, place in ((lows[1], highs[0], smallest[:1]), (lows[0], highs[1], largest[:1])):
        refitted = errors(low, high)
        rest = refitted.sum(0) - refitted.gather(0, place).squeeze(0)
        gain.scatter_(0, place, (total - rest).unsqueeze(0))
    return gain


@dataclass(frozen=True)
class SpqrWeight:
    """``codes``: uint8 ``[in, out]`` in processing order; ``order``: int16 or int32 ``[in]``, each one's input feature.

    ``group_size`` consecutive rows of ``codes`` are a group. ``scales``, ``zeros``: see `Statistic`. ``outliers``: in
    the coordinates of the weight, replacing what the grid gives.
    """

    codes: Tensor
    order: Tensor
    scales: Statistic
    zeros: Statistic
    outliers: Outliers
    settings: SpqrSettings

    @property
    def n_weights(self) -> int:
        """Number of weights that are represented."""
        return self.codes.numel()

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight ``[out, in]``: ``scale * (code - zero)`` in float32, then the outliers, rounded once."""
        group = group_index(len(self.codes), self.settings.group_size).to(self.codes.device).to(torch.int64)
        values = (self.codes.to(torch.float32) - self.zeros.values()[group]).mul_(self.scales.values()[group])
        back = torch.argsort(self.order.to(torch.int64))
        return self.outliers.put_into(values[back].t().contiguous()).to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Codes as one bit stream, the order unless it is the natural one, both statistics, the outliers."""
        columns, out = self.codes.shape
        parts = {"codes": pack_stream(self.codes, self.settings.bits), **self.outliers.tensors()}
        if self.settings.desc_act:
            parts["order"] = self.order.clone()
        for name, statistic in (("scale", self.scales), ("zero", self.zeros)):
            parts[f"{name}_codes"] = pack_stream(statistic.codes, self.settings.statistic_bits)
            parts[f"{name}_steps"], parts[f"{name}_lows"] = statistic.steps, statistic.lows
        return stored_parts((out, columns), parts)


def from_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], who: str) -> SpqrWeight:
    """Read what `SpqrWeight.tensors` stored. Raises ModelError when parts are missing or do not fit."""
    settings = SpqrSettings(**{name: config[name] for name in SpqrSettings.__dataclass_fields__})
    parts = Parts(tensors, who)
    out, columns = parts.shape
    order = parts.shaped("order", columns) if settings.desc_act else torch.arange(columns)
    if not torch.equal(order.sort().values.to(torch.int64), torch.arange(columns)):
        raise ModelError(who, "an order that is no permutation", expected=f"each of {columns} input features once")
    groups, width = len(group_bounds(columns, settings.group_size)), settings.statistic_group

    def statistic(name: str) -> Statistic:
        codes = unpack_stream(parts[f"{name}_codes"], settings.statistic_bits, (groups, out))
        steps, lows = (parts.shaped(f"{name}_{part}", groups, -(-out // width)) for part in ("steps", "lows"))
        return Statistic(codes, steps, lows, width)

    codes = unpack_stream(parts["codes"], settings.bits, (columns, out))
    outliers = read_outliers(parts.tensors, parts.shape, who)
    return SpqrWeight(codes, order, statistic("scale"), statistic("zero"), outliers, settings)


class _Loop(ColumnLoop):
    """Leaves the compensated weights in ``columns``; ``codes`` and ``outlier``: ``[in, out]``; statistics by group."""

    def __init__(self, columns: Tensor, factor: Tensor, settings: SpqrSettings) -> None:
        super().__init__(columns, factor, settings.group_size, settings.blocksize)
        self.settings, self.top = settings, 2**settings.bits - 1
        self.codes = torch.empty(columns.shape, dtype=torch.uint8, device=columns.device)
        self.outlier = torch.zeros(columns.shape, dtype=torch.bool, device=columns.device)
        self.statistics: list[tuple[Statistic, Statistic]] = []
        self.pivot = factor.diagonal().reciprocal().unsqueeze(1)
        self.threshold = float("inf")
        if settings.relative_threshold is not None:
            variance = columns.var(1, correction=min(1, columns.shape[1] - 1))
            self.threshold = settings.relative_threshold * float((variance * self.pivot.squeeze(1).square()).mean())
        self._scale = self._zero = columns[0]

    def enter(self, group: int, column: int) -> None:
        """Fit a group's grid without its likely outliers, and quantize its statistics."""
        span = slice(*self.bounds[group])
        members = self.columns[span]
        if self.threshold < float("inf"):
            kept = leave_one_out_gain(members, self.pivot[span], self.top) <= self.threshold
            mean = (members * kept).sum(0) / kept.sum(0).clamp(min=1)
            members = torch.where(kept, members, mean)
        low, high = members.aminmax(dim=0)
        scale, zero = _grid(low, high, self.top)
        found = [
            compress(statistic.unsqueeze(0), self.settings.statistic_bits, self.settings.statistic_group)
            for statistic in (scale, zero)
        ]
        self.statistics.append((found[0], found[1]))
        self._scale, self._zero = (statistic.values()[0] for statistic in found)

    def round(self, column: int, weight: Tensor, error: Tensor) -> None:
        """Nearest code, or 16 bit when the weighed error is above the threshold."""
        codes = _codes(weight, self._scale, self._zero, self.top)
        self.codes[column] = codes
        torch.sub(weight, codes.sub_(self._zero).mul_(self._scale), out=error)
        if self.threshold < float("inf"):
            outlier = (error * self.pivots[column]).square_() > self.threshold
            self.outlier[column] = outlier
            error.copy_(torch.where(outlier, weight - weight.to(torch.float16), error))


def spqr(weight: Tensor, run: Processing, settings: SpqrSettings) -> tuple[SpqrWeight, Tensor]:
    """Quantize one weight matrix.

    Args:
        weight: ``[out, in]``, any float dtype.
        run: order and factor of the stage.
        settings: see `SpqrSettings`.

    Returns:
        The stored weight, and per output row the loss ``(w - q) H (w - q)^T`` (H damped), float32 ``[out]``.

    Raises:
        MethodError: weights that are not finite, or beyond fp16.
    """
    loop = _Loop(run.columns(weight), run.factor, settings)
    loop.run()
    scales, zeros = (_joined(level) for level in zip(*loop.statistics, strict=True))
    kept = outliers_of(loop.columns[run.back].t(), loop.outlier[run.back].t(), torch.float16)
    if not bool(torch.isfinite(kept.values).all()):
        raise MethodError(run.who, "outliers too large for fp16", expected="weights below 65504")
    order = run.order.to(torch.int16 if len(run.order) < 2**15 else torch.int32)
    return SpqrWeight(loop.codes, order, scales, zeros, kept, settings), loop.errors.square_().sum(0)


@dataclass(frozen=True)
class Spqr(OnHessian):
    """SpQR as the driver sees it: one Hessian and one factor a stage, each layer with its own threshold."""

    settings: SpqrSettings

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """One result a weight; the loss is relative to the output's energy.

        Raises:
            MethodError: no statistics, or see `spqr`.
        """
        s = self.settings
        hessian, run = processing_of(statistics, damp_percent=s.damp_percent, desc_act=s.desc_act, who="spqr")
        results = []
        for weight in weights:
            stored, losses = spqr(weight, run, s)
            energy = output_energy(weight.to(torch.float32), hessian).sum().clamp(min=1e-30)
            results.append(LayerResult(stored, float(losses.sum() / energy)))
        return results

    def checkpoint_config(self) -> dict[str, Any]:
        """The settings."""
        return layout_config("spqr", self.settings)
