"""HQQ (Badri and Shaji 2023) by its own library: zero points that minimize a sparse error norm, no data looked at.

Half-quadratic splitting alternates between shrinking the error towards zero in the norm ``l_0.7`` and fitting the zero
point of each group; the scale stays that of the range. Only the library's CPU-capable core is called, on the matrix;
what it finds is stored here in the ``quantgate`` layout: codes, fp16 scales, fractional fp16 zero points.

The library is an optional dependency (``pip install 'quantgate[hqq]'``). Its source archive tries to build CUDA kernels
that are not needed here: ``DISABLE_CUDA=1`` leaves them out.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from quantgate.core.errors import MethodError, translated
from quantgate.quantize.base import LayerResult, Order, Statistics
from quantgate.quantize.numerics.layout import Parts, layout_config, stored_parts
from quantgate.quantize.numerics.packing import pack_stream, unpack_stream
from quantgate.quantize.settings import HqqSettings


@dataclass(frozen=True)
class HqqWeight:
    """``codes``: uint8 ``[out, in]``; ``scales`` and ``zeros``: fp16 ``[out, groups]``."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int

    @property
    def n_weights(self) -> int:
        """Number of weights that are represented."""
        return self.codes.numel()

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight ``[out, in]``: ``scale * (code - zero)`` in float32, then rounded once to ``dtype``."""
        size = self.codes.shape[1] // self.scales.shape[1]
        scales, zeros = (t.to(torch.float32).repeat_interleave(size, 1) for t in (self.scales, self.zeros))
        return (self.codes.to(torch.float32) - zeros).mul_(scales).to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Codes as one bit stream, scales, zero points."""
        rows, columns = self.codes.shape
        parts = {"codes": pack_stream(self.codes, self.bits), "scales": self.scales, "zeros": self.zeros}
        return stored_parts((rows, columns), parts)


def from_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], who: str) -> HqqWeight:
    """Read what `HqqWeight.tensors` stored. Raises ModelError when parts are missing or do not fit."""
    parts, bits = Parts(tensors, who), int(config["bits"])
    rows, columns = parts.shape
    grid = (rows, columns // int(config["group_size"]))
    codes = unpack_stream(parts["codes"], bits, (rows, columns))
    return HqqWeight(codes, parts.shaped("scales", *grid), parts.shaped("zeros", *grid), bits)


def hqq(weight: Tensor, settings: HqqSettings) -> HqqWeight:
    """Quantize ``weight`` (``[out, in]``, any float dtype).

    Raises:
        MethodError: the library is not installed, weights that are not finite, or input features that are no multiple
            of the group size (the library's groups would run on into the next row).
    """
    rows, columns = weight.shape
    if columns % settings.group_size:
        raise MethodError("hqq", f"{columns} input features", expected=f"a multiple of {settings.group_size}")
    values = weight.to(torch.float32)
    if not bool(torch.isfinite(values.sum())):
        raise MethodError("hqq", "weights that are not finite", expected="finite weights")
    with translated(
        "hqq",
        "the library cannot be used",
        kind=MethodError,
        expected="hqq 0.2.8",
        hint="DISABLE_CUDA=1 pip install hqq==0.2.8.post1 termcolor",
    ):
        codes, meta = importlib.import_module("hqq.core.quantize").Quantizer.quantize(
            values.clone(),
            nbits=settings.bits,
            group_size=settings.group_size,
            axis=1,
            round_zero=settings.bits == 4,
            bitpack=False,
            device=str(weight.device),
        )
    scales, zeros = (meta[name].view(rows, -1).to(torch.float16) for name in ("scale", "zero"))
    return HqqWeight(codes.view(rows, columns).to(torch.uint8), scales, zeros, settings.bits)


@dataclass(frozen=True)
class Hqq:
    """HQQ as the driver sees it: no statistics, each layer on its own."""

    settings: HqqSettings
    order: ClassVar[Order] = Order()

    def statistics(self, in_features: int, device: torch.device) -> None:
        """Nothing is collected."""

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """One result a weight; its loss is the relative squared weight error."""
        results = []
        for weight in weights:
            stored, original = hqq(weight, self.settings), weight.to(torch.float32)
            error = (stored.dequantize(torch.float32) - original).square().sum()
            results.append(LayerResult(stored, float(error / original.square().sum().clamp(min=1e-30))))
        return results

    def checkpoint_config(self) -> dict[str, Any]:
        """The settings."""
        return layout_config("hqq", self.settings)
