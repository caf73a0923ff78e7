"""Weights in 8 and 4-bit floating point: nearest value, no data looked at, 16-bit activations.

* E4M3 (largest value 448) and E5M2 (57344) of the OCP FP8 specification, one bf16 scale an output feature;
* NVFP4: E2M1 values in blocks of 16 input features with an E4M3 scale, and one float32 scale a matrix that brings the
  largest block scale to 224 .. 448: a power of two, so that matrices can be brought to a common one without loss;
* MXFP4 (OCP microscaling): E2M1 values in blocks of 32 with a power of two as the scale (E8M0),
  ``2^(floor(log2 max) - 2)``; values between 6 and 8 of those units saturate, as the specification has it.

All but E5M2, which has no reader there, are stored as compressed-tensors stores them; transformers loads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from quantgate.core.errors import MethodError, ModelError
from quantgate.quantize.base import LayerResult, Order, Statistics
from quantgate.quantize.numerics.floats import (
    BLOCK,
    E2M1,
    E4M3_TOP,
    E8M0_BIAS,
    FLOAT8,
    TINY,
    e2m1_values,
    round_e2m1,
    round_float8,
)
from quantgate.quantize.numerics.layout import Parts, layout_config, stored_parts
from quantgate.quantize.settings import FloatFormat, FloatSettings


@dataclass(frozen=True)
class Float8Weight:
    """``values``: float8 ``[out, in]``; ``scales``: bf16 ``[out, 1]``, as loaders round them."""

    values: Tensor
    scales: Tensor

    @property
    def n_weights(self) -> int:
        """Number of weights that are represented."""
        return self.values.numel()

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """``value * scale`` in float32, rounded once to ``dtype``."""
        return (self.values.to(torch.float32) * self.scales.to(torch.float32)).to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """``weight`` and ``weight_scale`` as compressed-tensors names them; E5M2 in our own layout."""
        if self.values.dtype == torch.float8_e4m3fn:
            return {"weight": self.values, "weight_scale": self.scales}
        rows, columns = self.values.shape
        return stored_parts((rows, columns), {"values": self.values, "scales": self.scales})


@dataclass(frozen=True)
class Float4BlockWeight:
    """``codes``: uint8 ``[out, in]``, 4 bits; ``scales``: E4M3 (NVFP4) or E8M0 as uint8 (MXFP4), ``[out, blocks]``.

    ``divisor``: float32 ``[1]`` by which NVFP4's block scales are divided, None for MXFP4.
    """

    codes: Tensor
    scales: Tensor
    divisor: Tensor | None

    @property
    def n_weights(self) -> int:
        """Number of weights that are represented."""
        return self.codes.numel()

    def block_scales(self) -> Tensor:
        """What the values of each block are multiplied by, float32 ``[out, blocks]``."""
        if self.divisor is None:
            return torch.exp2(self.scales.to(torch.float32) - E8M0_BIAS)
        return self.scales.to(torch.float32) / self.divisor

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """``value * block scale`` in float32, rounded once to ``dtype``."""
        scales = self.block_scales().repeat_interleave(self.codes.shape[1] // self.scales.shape[1], 1)
        return (e2m1_values(self.codes) * scales).to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """``weight_packed`` (two codes a byte, the first in the low half), ``weight_scale``, NVFP4's global scale."""
        packed = {"weight_packed": self.codes[:, 0::2] | (self.codes[:, 1::2] << 4), "weight_scale": self.scales}
        return packed if self.divisor is None else {**packed, "weight_global_scale": self.divisor}


def quantize_float8(weight: Tensor, kind: FloatFormat) -> Float8Weight:
    """``weight`` (``[out, in]``, any float dtype) with the largest value of every row at the format's largest."""
    values = _finite(weight)
    largest = values.abs().amax(1, keepdim=True)
    scales = torch.where(largest > 0, largest / torch.finfo(FLOAT8[kind]).max, 1.0).to(torch.bfloat16)
    return Float8Weight(round_float8(values / scales.to(torch.float32), kind), scales)


def quantize_float4(weight: Tensor, kind: FloatFormat) -> Float4BlockWeight:
    """``weight`` (``[out, in]``, any float dtype) in blocks of E2M1 values.

    Raises:
        MethodError: weights that are not finite, or input features that do not fill whole blocks.
    """
    values = _finite(weight)
    rows, columns = values.shape
    if columns % BLOCK[kind]:
        raise MethodError(
            kind, f"{columns} input features", expected=f"a multiple of {BLOCK[kind]}: the format has no rest"
        )
    blocks = values.view(rows, -1, BLOCK[kind])
    largest = blocks.abs().amax(2)
    if kind == "mxfp4":
        exponent = torch.frexp(largest).exponent - 1  # floor(log2), exactly; 0 has its own
        scales = (exponent - 2 + E8M0_BIAS).clamp(0, 2 * E8M0_BIAS).to(torch.uint8)
        stored = Float4BlockWeight(torch.empty(0), scales, None)
    else:
        divisor = torch.exp2(torch.log2(E4M3_TOP * E2M1[-1] / largest.amax().clamp(min=TINY)).floor()).view(1)
        scales = round_float8((largest / E2M1[-1] * divisor).clamp(min=2.0**-9), "e4m3")
        stored = Float4BlockWeight(torch.empty(0), scales, divisor)
    codes = round_e2m1(blocks / stored.block_scales().unsqueeze(2)).view(rows, columns)
    return Float4BlockWeight(codes, scales, stored.divisor)


def _finite(weight: Tensor) -> Tensor:
    values = weight.to(torch.float32)
    if not bool(torch.isfinite(values.sum())):
        raise MethodError("float formats", "weights that are not finite", expected="finite weights")
    return values


@dataclass(frozen=True)
class FloatFormats:
    """The float formats as the driver sees them: no statistics, each layer on its own."""

    settings: FloatSettings
    order: ClassVar[Order] = Order()

    def statistics(self, in_features: int, device: torch.device) -> None:
        """Nothing is collected."""

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """One result a weight; its loss is the relative squared weight error."""
        kind = self.settings.kind
        results = []
        for weight in weights:
            stored = quantize_float8(weight, kind) if kind in FLOAT8 else quantize_float4(weight, kind)
            original = weight.to(torch.float32)
            error = (stored.dequantize(torch.float32) - original).square().sum()
            results.append(LayerResult(stored, float(error / original.square().sum().clamp(min=1e-30))))
        return results

    def checkpoint_config(self) -> dict[str, Any]:
        """A compressed-tensors configuration; E5M2: the settings."""
        kind = self.settings.kind
        return layout_config("float8", self.settings) if kind == "e5m2" else compressed_config(kind)


_WEIGHTS: Final[dict[str, dict[str, Any]]] = {
    "e4m3": {"num_bits": 8, "strategy": "channel", "group_size": None},
    "nvfp4": {"num_bits": 4, "strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"},
    "mxfp4": {"num_bits": 4, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
}
_FORMATS: Final = {"e4m3": "float-quantized", "nvfp4": "nvfp4-pack-quantized", "mxfp4": "mxfp4-pack-quantized"}


def compressed_config(kind: FloatFormat) -> dict[str, Any]:
    """``quantization_config`` under compressed-tensors' names: all linear layers but the head, weights only."""
    weights = {"type": "float", "symmetric": True, "dynamic": False, **_WEIGHTS[kind]}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": _FORMATS[kind],
        "config_groups": {"group_0": {**group, "format": _FORMATS[kind]}},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }


_SILENT: Final = ("observer", "observer_kwargs", "actorder", "block_structure", "zp_dtype", "scale_dtype")


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether a compressed-tensors configuration says what `compressed_config` does, so that we read it ourselves."""
    kinds = [kind for kind, form in _FORMATS.items() if form == config.get("format")]
    groups = list((config.get("config_groups") or {}).values())
    if len(kinds) != 1 or len(groups) != 1:
        return False
    (kind,), (group,) = kinds, groups
    wanted = {"type": "float", "symmetric": True, "dynamic": False, "group_size": None, **_WEIGHTS[kind]}
    found = {"dynamic": False, "group_size": None, "symmetric": True, **(group.get("weights") or {})}
    same = all(found.get(name) == value for name, value in wanted.items() if name not in _SILENT)
    extra = [name for name in found if name not in wanted and found[name] and name not in _SILENT[:2]]
    return same and not extra and group.get("format") in (None, config["format"])


def from_compressed(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], who: str
) -> Float8Weight | Float4BlockWeight:
    """Read one layer of a compressed-tensors checkpoint that `FloatFormats` wrote.

    Raises:
        ModelError: another format of that library, or parts that are missing or do not fit.
    """
    form = config.get("format")
    if form not in _FORMATS.values():
        raise ModelError(who, f"compressed-tensors format {form!r}", expected=f"one of {', '.join(_FORMATS.values())}")
    try:
        if form == "float-quantized":
            values, scales = tensors["weight"], tensors["weight_scale"]
            if values.dtype != torch.float8_e4m3fn or scales.shape != (len(values), 1):
                raise ModelError(who, f"{values.dtype} with scales {tuple(scales.shape)}", expected="E4M3, one a row")
            return Float8Weight(values, scales)
        packed, scales = tensors["weight_packed"], tensors["weight_scale"]
        divisor = tensors["weight_global_scale"] if form == "nvfp4-pack-quantized" else None
    except KeyError as error:
        raise ModelError(who, f"no {error.args[0]}", expected="a complete compressed-tensors layer") from error
    codes = torch.stack([packed & 15, packed >> 4], 2).view(len(packed), -1)
    if scales.shape[1] * BLOCK["mxfp4" if divisor is None else "nvfp4"] != codes.shape[1]:
        raise ModelError(who, f"{scales.shape[1]} block scales for {codes.shape[1]} input features")
    return Float4BlockWeight(codes, scales, divisor)


def from_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], who: str) -> Float8Weight:
    """Read an E5M2 layer of our own layout. Raises ModelError when parts are missing or do not fit."""
    parts = Parts(tensors, who)
    return Float8Weight(parts.shaped("values", *parts.shape), parts.shaped("scales", parts.shape[0], 1))
