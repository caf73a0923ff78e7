"""SliM-LLM (Huang et al. 2024): groups that matter get a bit more, groups that matter least a bit less.

Salience of a weight: ``(w_ij / U_jj)^2``; of a group: its mean. *SBA*: groups sorted by salience, the ``p`` highest
get ``N + 1`` bits, the ``p`` lowest ``N - 1``, so the mean stays ``N``; ``p`` minimizes the divergence of
``softmax(x W_hat^T)`` from ``softmax(x W^T)`` over a sample of the stage's inputs. *SQC*: the range of each group is
shrunk or stretched by the factor that fits best. Then the column loop of GPTQ, in the natural order.

Groups are of equal size or keep ``N`` bits: a shorter last group takes no part in the exchange, else the mean would not
be ``N``. SQC as published tells salient from other weights, and its code raises errors to 2.4: so do rows with
``split`` and ``exponent``. The code then adds the sums over both kinds with equal weight, which makes the split void;
``split`` adds their means. By default there is no split and errors are squared, as in the paper's equation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from quantgate.core.errors import MethodError, ModelError
from quantgate.quantize.base import LayerResult, Order, Statistics
from quantgate.quantize.grids import group_bounds, group_index
from quantgate.quantize.numerics.columns import ColumnLoop, Processing
from quantgate.quantize.numerics.hessian import Hessian, hessian_of, output_energy
from quantgate.quantize.numerics.layout import Parts, layout_config, stored_parts
from quantgate.quantize.numerics.packing import pack_stream, packed_rows, unpack_stream
from quantgate.quantize.settings import SlimSettings

_SMALLEST_SCALE: Final = 2.0**-24  # the smallest positive fp16
_HASHED: Final = 512  # rows hashed at a time


class SampledHessian(Hessian):
    """A Hessian and the ``size`` input vectors with the smallest hashes: which ones does not depend on their order, so
    that shards can be merged. ``sample``: ``[n, features]`` in the inputs' dtype.
    """

    def __init__(self, features: int, device: torch.device, size: int) -> None:
        super().__init__(features, device)
        self.size = size
        generator = torch.Generator().manual_seed(features)
        self._multipliers = torch.randint(-(2**62), 2**62, (features,), generator=generator).mul_(2).add_(1).to(device)
        self.sample = torch.empty(0, features, device=device)
        self._hashes = torch.empty(0, dtype=torch.int64, device=device)

    def add(self, rows: Tensor) -> None:
        """Add input vectors ``[n, features]`` of any float dtype."""
        super().add(rows)
        for chunk in torch.split(rows, _HASHED):
            bits = chunk.to(torch.float32).view(torch.int32).to(torch.int64)
            hashes = (bits * self._multipliers).sum(1)  # wraps around: an odd multiple of each bit pattern
            self._keep(chunk, hashes ^ (hashes >> 29))

    def _keep(self, rows: Tensor, hashes: Tensor) -> None:
        rows, hashes = torch.cat([self.sample.to(rows.dtype), rows]), torch.cat([self._hashes, hashes])
        self._hashes, kept = torch.topk(hashes, min(self.size, len(hashes)), largest=False)
        self.sample = rows[kept]

    def merge(self, other: Hessian) -> None:
        """Add the statistics of another shard of the calibration set."""
        super().merge(other)
        if isinstance(other, SampledHessian):
            self._keep(other.sample, other._hashes)


def salient_weights(members: Tensor, pivots: Tensor) -> Tensor:
    """What each weight's error counts, float32, the shape of ``members``: 1 over the number of its kind in its column,
    so that the means over salient weights and over the others add up. Salient: 2 deviations above the mean salience.
    """
    salience = (members * pivots).square()
    salient = salience > salience.mean() + 2 * salience.std(correction=0)
    count = salient.sum(0, keepdim=True)
    return torch.where(salient, 1.0 / count.clamp(min=1), 1.0 / (len(members) - count).clamp(min=1))


def fit(
    members: Tensor,
    bits: int,
    factors: Sequence[float] = (1.0,),
    exponent: float = 2.0,
    importance: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The grid of one group: scale (fp16 numbers) and zero point of each output feature, float32 ``[out]``.

    Asymmetric over a range that contains 0, times the factor with the smallest error (the first of equals): the sum of
    magnitudes to the power of ``exponent`` times ``importance``. One bit: ``sign(w) mean|w|``, which is the scale
    ``2 mean|w|`` and the zero point 1/2.

    Raises:
        MethodError: weights that need a scale beyond fp16.
    """
    low, high = members.amin(0).clamp(max=0.0), members.amax(0).clamp(min=0.0)
    if bits == 1:
        low, high = -members.abs().mean(0), members.abs().mean(0)
    top = 2**bits - 1
    best = torch.full_like(low, torch.inf)
    scale, zero = torch.empty_like(low), torch.empty_like(low)
    for factor in factors if bits > 1 else (1.0,):
        tried = ((high - low) * (factor / top)).clamp(min=_SMALLEST_SCALE).to(torch.float16).to(torch.float32)
        origin = (-low * factor / tried).round_().clamp_(0, top) if bits > 1 else torch.full_like(low, 0.5)
        change = torch.addcmul(members, _steps(members, tried, origin, top), tried, value=-1)
        powers = change.square_() if exponent == 2 else change.abs_().pow_(exponent)
        error = powers.mul_(importance).sum(0)
        better = error < best
        best = torch.where(better, error, best)
        scale, zero = torch.where(better, tried, scale), torch.where(better, origin, zero)
    if not bool(torch.isfinite(best).all()):
        raise MethodError("slim", "weights too large for an fp16 scale", expected="scales below 65504")
    return scale, zero


def _steps(weight: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """Nearest code less the zero point, as float32."""
    return torch.div(weight, scale).add_(zero).round_().clamp_(0, top).sub_(zero)


def factors(settings: SlimSettings) -> list[float]:
    """1, and ``steps`` factors on each side of it up to ``stretch`` away."""
    width = [settings.stretch * step / settings.steps for step in range(1, settings.steps + 1)]
    return [1.0, *(1 + each for each in width), *(1 - each for each in width)]


def allocate(columns: Tensor, pivots: Tensor, inputs: Tensor, settings: SlimSettings) -> list[int]:
    """Bits of every group of ``columns`` (float32 ``[in, out]``), by SBA.

    Args:
        columns: the weight, transposed.
        pivots: ``1 / U_jj``, float32 ``[in, 1]``.
        inputs: a sample of the stage's inputs, float32 ``[n, in]``.
        settings: see `SlimSettings`.
    """
    bounds = group_bounds(len(columns), settings.group_size)
    size = bounds[0][1]
    salience = torch.stack([(columns[a:b] * pivots[a:b]).square().mean() for a, b in bounds if b - a == size])
    ranking: list[int] = torch.argsort(salience).tolist()

    def part(group: int, bits: int) -> Tensor:
        """What the group, rounded to ``bits``, adds to the output of the sample."""
        a, b = bounds[group]
        scale, zero = fit(columns[a:b], bits)
        return inputs[:, a:b] @ (_steps(columns[a:b], scale, zero, 2**bits - 1) * scale)

    target = torch.log_softmax(inputs @ columns, 1)
    output = torch.stack([part(group, settings.bits) for group in range(len(bounds))]).sum(0)
    best, chosen = _divergence(target, output), 0
    for p in range(1, len(ranking) // 2 + 1):
        for group, change in ((ranking[p - 1], -1), (ranking[-p], 1)):
            output += part(group, settings.bits + change) - part(group, settings.bits)
        divergence = _divergence(target, output)
        if divergence < best:
            best, chosen = divergence, p
    bits = [settings.bits] * len(bounds)
    for p in range(chosen):
        bits[ranking[p]] -= 1
        bits[ranking[-1 - p]] += 1
    return bits


def _divergence(target: Tensor, output: Tensor) -> float:
    """Mean KL divergence of ``softmax(output)`` from ``target`` (log-probabilities, ``[n, out]``)."""
    return float((target.exp() * (target - torch.log_softmax(output, 1))).sum(1).mean())


@dataclass(frozen=True)
class SlimWeight:
    """``codes``: uint8 ``[in, out]``; ``scales``: fp16 ``[groups, out]``; ``zeros``: uint8 ``[groups, out]``.

    ``bits``: of every group. A group of one bit has the zero point 1/2, whatever ``zeros`` says.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    bits: tuple[int, ...]
    group_size: int

    @property
    def n_weights(self) -> int:
        """Number of weights that are represented."""
        return self.codes.numel()

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight ``[out, in]``: ``scale * (code - zero)`` in float32, then rounded once to ``dtype``."""
        group = group_index(len(self.codes), self.group_size).to(self.codes.device).to(torch.int64)
        single = torch.tensor(self.bits, device=self.codes.device).eq(1).unsqueeze(1)
        zeros = torch.where(single, 0.5, self.zeros.to(torch.float32))
        values = (self.codes.to(torch.float32) - zeros[group]).mul_(self.scales.to(torch.float32)[group])
        return values.to(dtype).t().contiguous()

    def tensors(self) -> dict[str, Tensor]:
        """Codes and zero points group by group in the group's own bits, scales, and the bits."""
        bounds = group_bounds(len(self.codes), self.group_size)
        spans = list(zip(bounds, self.bits, strict=True))
        parts = {
            "codes": torch.cat([pack_stream(self.codes[a:b], bits) for (a, b), bits in spans]),
            "zeros": torch.cat([pack_stream(self.zeros[g], bits) for g, bits in enumerate(self.bits)]),
            "scales": self.scales,
            "bits": torch.tensor(self.bits, dtype=torch.uint8),
        }
        return stored_parts((self.codes.shape[1], len(self.codes)), parts)


def from_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], who: str) -> SlimWeight:
    """Read what `SlimWeight.tensors` stored. Raises ModelError when parts are missing or do not fit."""
    parts = Parts(tensors, who)
    out, columns = parts.shape
    bounds = group_bounds(columns, int(config["group_size"]))
    bits = tuple(parts.shaped("bits", len(bounds)).tolist())
    if not all(1 <= each <= 8 for each in bits):
        raise ModelError(who, f"groups of {max(bits)} bits", expected="1 to 8 bits")

    def groups(name: str, rows: Sequence[int]) -> Tensor:
        words = [packed_rows(count * out, each) for count, each in zip(rows, bits, strict=True)]
        pieces = torch.split(parts.shaped(name, sum(words)), words)
        return torch.cat([unpack_stream(piece, b, (n, out)) for piece, b, n in zip(pieces, bits, rows, strict=True)])

    codes, zeros = groups("codes", [b - a for a, b in bounds]), groups("zeros", [1] * len(bounds))
    return SlimWeight(codes, parts.shaped("scales", len(bounds), out), zeros, bits, int(config["group_size"]))


class _Loop(ColumnLoop):
    """Leaves the codes in ``columns``."""

    def __init__(self, columns: Tensor, factor: Tensor, settings: SlimSettings, bits: Sequence[int]) -> None:
        super().__init__(columns, factor, settings.group_size, settings.blocksize)
        self.bits, self.stretches = bits, factors(settings)
        self.settings, self.widths = settings, factor.diagonal().reciprocal().unsqueeze(1)
        self.grids: list[tuple[Tensor, Tensor]] = []

    def enter(self, group: int, column: int) -> None:
        """SQC on the compensated weights of the group."""
        a, b = self.bounds[group]
        members = self.columns[a:b]
        importance = salient_weights(members, self.widths[a:b]) if self.settings.split else 1.0
        self.grids.append(fit(members, self.bits[group], self.stretches, self.settings.exponent, importance))
        self._top = 2 ** self.bits[group] - 1

    def round(self, column: int, weight: Tensor, error: Tensor) -> None:
        """Nearest code of the group's grid."""
        scale, zero = self.grids[-1]
        steps = _steps(weight, scale, zero, self._top)
        torch.addcmul(weight, steps, scale, value=-1, out=error)
        torch.add(steps, zero, out=weight)


def slim(weight: Tensor, run: Processing, inputs: Tensor, settings: SlimSettings) -> tuple[SlimWeight, Tensor]:
    """Quantize one weight matrix.

    Args:
        weight: ``[out, in]``, any float dtype.
        run: order (natural) and factor of the stage.
        inputs: a sample of the stage's inputs, float32 ``[n, in]``.
        settings: see `SlimSettings`.

    Returns:
        The stored weight, and per output row the loss ``(w - q) H (w - q)^T`` (H damped), float32 ``[out]``.
    """
    columns = run.columns(weight)
    bits = allocate(columns, run.factor.diagonal().reciprocal().unsqueeze(1), inputs, settings)
    loop = _Loop(columns, run.factor, settings, bits)
    loop.run()
    scales, zeros = (torch.stack(level) for level in zip(*loop.grids, strict=True))
    codes = loop.columns.to(torch.uint8)
    stored = SlimWeight(codes, scales.to(torch.float16), zeros.to(torch.uint8), tuple(bits), settings.group_size)
    return stored, loop.errors.square_().sum(0)


@dataclass(frozen=True)
class Slim:
    """SliM-LLM as the driver sees it: one Hessian, one factor and one sample of inputs a stage."""

    settings: SlimSettings

    @property
    def order(self) -> Order:
        """As set."""
        return Order(self.settings.true_sequential, self.settings.block_sequential)

    def statistics(self, in_features: int, device: torch.device) -> SampledHessian:
        """An empty Hessian for inputs of ``in_features``, and no sample yet."""
        return SampledHessian(in_features, device, self.settings.sample)

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """One result a weight; the loss is relative to the output's energy.

        Raises:
            MethodError: no statistics, or see `slim`.
        """
        hessian = hessian_of(statistics, "slim")
        if not isinstance(statistics, SampledHessian):
            raise MethodError("slim", "statistics without a sample of inputs", expected="a SampledHessian")
        run = Processing(hessian, damp_percent=self.settings.damp_percent, desc_act=False, who="slim")
        inputs = statistics.sample.to(torch.float32)
        results = []
        for weight in weights:
            stored, losses = slim(weight, run, inputs, self.settings)
            energy = output_energy(weight.to(torch.float32), hessian).sum().clamp(min=1e-30)
            results.append(LayerResult(stored, float(losses.sum() / energy)))
        return results

    def checkpoint_config(self) -> dict[str, Any]:
        """The settings."""
        return layout_config("slim", self.settings)
