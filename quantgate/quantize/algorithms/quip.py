"""QuIP (Chee et al. 2023): make weights and Hessian incoherent by random rotations, then round with LDL feedback.

``W~ = U (W D) V^T`` and ``H~ = V D^-1 H D^-1 V^T`` with ``D = (diag H / diag W^T W)^(1/4)``: no weight and no direction
of the input stands out any more, so one grid of ``+- half_range`` rms does for the whole matrix (2.4 in
the authors' code; at 3 and 2 bit 2.1 and 1.8 here). LDL rounding of ``W~`` under ``H~`` is the column loop of GPTQ
without refitted groups (the paper's theorem 6).

``U`` and ``V`` are random signs followed by an orthogonal Kronecker product: a Hadamard matrix for the power of two in
the dimension and a cosine transform for its odd rest (576 = 64 x 9). The paper takes two random orthogonal factors;
this keeps its bounds up to constants (QuIP#, 2402.04396), is rebuilt from a seed, and is computed by sums and products
in a fixed order, so that a checkpoint gives the same weights on every machine and with any number of threads.

Rows with ``factors="orthogonal"`` take the paper's two random orthogonal factors, drawn in float64 from the seed; they
are multiplied in float64 and rounded to float32, so that another order of summation hardly ever shows.

A checkpoint holds the codes of the rotated weight, ``D`` and the seeds; loading rotates back to a plain weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from quantgate.core.errors import MethodError, ModelError
from quantgate.quantize.base import LayerResult, Statistics
from quantgate.quantize.numerics.columns import ColumnLoop, Processing
from quantgate.quantize.numerics.hessian import OnHessian, hessian_of, output_energy
from quantgate.quantize.numerics.layout import Parts, layout_config, stored_parts
from quantgate.quantize.numerics.packing import pack_stream, unpack_stream
from quantgate.quantize.numerics.rotations import ROTATIONS
from quantgate.quantize.settings import QuipSettings

_SPREAD: Final = 1e3  # how far an entry of D may be from their median: fp16 holds it


@dataclass(frozen=True)
class QuipWeight:
    """``codes``: uint8 ``[in, out]``, of the rotated weight; ``half_range``: float32 ``[1]``, the grid's end.

    ``balance``: ``D``, fp16 ``[in]``; ``seeds``: int64 ``[2]``, of the rotations of the input and the output side;
    ``factors``: their kind.
    """

    codes: Tensor
    half_range: Tensor
    balance: Tensor
    seeds: Tensor
    bits: int
    factors: Literal["hadamard", "orthogonal"] = "hadamard"

    @property
    def n_weights(self) -> int:
        """Number of weights that are represented."""
        return self.codes.numel()

    def rotated(self) -> Tensor:
        """``W~`` as rounded, float32 ``[in, out]``."""
        return _value(self.codes.to(torch.float32), self.half_range, self.bits)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The plain weight ``[out, in]``: both rotations undone, divided by ``D``, rounded once to ``dtype``."""
        columns, out = self.codes.shape
        seed_in, seed_out = self.seeds.tolist()
        rotation = ROTATIONS[self.factors]
        half = rotation(out, seed_out).invert(self.rotated()).t()
        plain = rotation(columns, seed_in).invert(half) / self.balance.to(torch.float32)
        return plain.to(dtype).contiguous()

    def tensors(self) -> dict[str, Tensor]:
        """Codes as one bit stream, the end of the grid, ``D``, the seeds."""
        codes = pack_stream(self.codes, self.bits)
        parts = {"codes": codes, "half_range": self.half_range, "balance": self.balance, "seeds": self.seeds}
        return stored_parts((self.codes.shape[1], len(self.codes)), parts)


def _value(codes: Tensor, half_range: Tensor | float, bits: int) -> Tensor:
    return (codes * (2 / ((1 << bits) - 1)) - 1.0) * half_range


def from_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], who: str) -> QuipWeight:
    """Read what `QuipWeight.tensors` stored. Raises ModelError when parts are missing or do not fit."""
    parts, bits = Parts(tensors, who), int(config["bits"])
    out, columns = parts.shape
    codes = unpack_stream(parts["codes"], bits, (columns, out))
    balance, seeds = parts.shaped("balance", columns), parts.shaped("seeds", 2)
    factors = config.get("factors", "hadamard")
    if factors not in ROTATIONS:
        raise ModelError(who, f"factors {factors!r}", expected=" or ".join(ROTATIONS))
    return QuipWeight(codes, parts.shaped("half_range", 1), balance, seeds, bits, factors)


class _Loop(ColumnLoop):
    """Leaves the codes in ``columns``; one grid for the whole matrix."""

    def __init__(self, columns: Tensor, factor: Tensor, settings: QuipSettings, half_range: Tensor) -> None:
        super().__init__(columns, factor, -1, settings.blocksize)
        self.bits, self.half_range = settings.bits, half_range
        self.top = 2**settings.bits - 1

    def enter(self, group: int, column: int) -> None:
        """Nothing to fit."""

    def round(self, column: int, weight: Tensor, error: Tensor) -> None:
        """Nearest code."""
        codes = ((weight / self.half_range + 1.0) * (self.top / 2)).round_().clamp_(0, self.top)
        torch.sub(weight, _value(codes, self.half_range, self.bits), out=error)
        weight.copy_(codes)


def balance_of(weight: Tensor, hessian: Tensor) -> Tensor:
    """``D = (diag H / diag W^T W)^(1/4)`` relative to its median, fp16 ``[in]``; 1 where either is zero."""
    energy, activity = weight.square().sum(0), hessian.diagonal()
    alive = (energy > 0) & (activity > 0)
    ratio = torch.where(alive, activity / torch.where(alive, energy, 1.0), 1.0).sqrt().sqrt()
    middle = ratio[alive].median() if bool(alive.any()) else ratio.new_ones(())
    return torch.where(alive, ratio / middle, 1.0).clamp(1 / _SPREAD, _SPREAD).to(torch.float16)


def quip(weight: Tensor, hessian: Tensor, settings: QuipSettings) -> tuple[QuipWeight, Tensor]:
    """Quantize one weight matrix.

    Args:
        weight: ``[out, in]``, any float dtype.
        hessian: float32 ``[in, in]``, symmetric, undamped.
        settings: see `QuipSettings`.

    Returns:
        The stored weight, and per column of ``W~`` the loss it left, float32 ``[out]`` (their sum is the weight's).

    Raises:
        MethodError: weights or Hessian that are not finite.
    """
    plain = weight.to(torch.float32).masked_fill(hessian.diagonal() == 0, 0.0)
    if not bool(torch.isfinite(plain.sum())):
        raise MethodError("quip", "weights that are not finite", expected="finite weights")
    out, columns = plain.shape
    seeds = torch.tensor([settings.seed, settings.seed + 1])
    rotation = ROTATIONS[settings.factors]
    inner, outer = rotation(columns, settings.seed), rotation(out, settings.seed + 1)
    balance = balance_of(plain, hessian)
    scale = balance.to(torch.float32)
    rotated = outer.apply(inner.apply(plain * scale).t()).t()
    spread = inner.apply(inner.apply(hessian / scale / scale.unsqueeze(1)).t())
    run = Processing(0.5 * (spread + spread.t()), damp_percent=settings.damp_percent, desc_act=False, who="quip")
    half_range = (settings.half_range * rotated.square().mean().sqrt()).clamp(min=1e-20).view(1)
    loop = _Loop(run.columns(rotated), run.factor, settings, half_range)
    loop.run()
    stored = QuipWeight(loop.columns.to(torch.uint8), half_range, balance, seeds, settings.bits, settings.factors)
    return stored, loop.errors.square_().sum(0)


@dataclass(frozen=True)
class Quip(OnHessian):
    """QuIP as the driver sees it: one Hessian a stage, rotated and factored for each layer."""

    settings: QuipSettings

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """One result a weight; the loss is relative to the output's energy.

        Raises:
            MethodError: no statistics, or see `quip`.
        """
        hessian = hessian_of(statistics, "quip")
        results = []
        for weight in weights:
            stored, losses = quip(weight, hessian, self.settings)
            energy = output_energy(weight.to(torch.float32), hessian).sum().clamp(min=1e-30)
            results.append(LayerResult(stored, float(losses.sum() / energy)))
        return results

    def checkpoint_config(self) -> dict[str, Any]:
        """The settings."""
        return layout_config("quip", self.settings)
