"""Codes beside one scale a block: FP8 in blocks (``weight_scale_inv``), ModelOpt's FP8 and NVFP4, torchao's tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.fields import torchao_type
from quantgate.checkpoints.layouts.parts import Headers, PartsLayout, Settings, Tensors, need, total
from quantgate.checkpoints.layouts.protocol import CHANNEL, TENSOR, StoredModule
from quantgate.checkpoints.static_cache import SCALES
from quantgate.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_NVFP4_BLOCK: Final = 16


def spread_out(scales: Tensor, shape: tuple[int, int], who: str) -> Tensor:
    """Scales of blocks ``[rows, columns]`` over a matrix of ``shape``; the last blocks may be cut short.

    Raises:
        ModelError: more rows or columns of scales than the matrix has.
    """
    found = scales.float().reshape(-1, 1) if scales.ndim < 2 else scales.float()
    sizes = [-(-length // count) for length, count in zip(shape, found.shape, strict=True)]
    if any(size < 1 for size in sizes):
        raise ModelError(who, f"scales {tuple(scales.shape)} for a matrix {shape}", expected="one a block")
    return found.repeat_interleave(sizes[0], 0)[: shape[0]].repeat_interleave(sizes[1], 1)[:, : shape[1]]


# --- FP8 in blocks, or with one scale a matrix -----------------------------------------------------------------------


def _fp8_scale(parts: Mapping[str, Any], who: str) -> str:
    """Name of the weight's scale; whichever of the two it has, it multiplies."""
    need(parts, who, "weight")
    found = [name for name in ("weight_scale_inv", "weight_scale") if name in parts]
    if len(found) != 1:
        raise ModelError(
            who, "no weight_scale_inv" if not found else "weight_scale_inv and weight_scale", expected="one of them"
        )
    return found[0]


def _check_codes(headers: Headers, who: str) -> None:
    """Raise ModelError for a weight that is stored in more than 8 bit beside its scale."""
    if not headers["weight"].dtype.startswith("F8_"):
        raise ModelError(who, f"its weight is stored in {headers['weight'].dtype}", expected="codes of FP8")


def _fp8_describe(headers: Headers, settings: Settings) -> StoredModule:
    scale = headers[_fp8_scale(headers, settings["module"])]
    rows, columns = headers["weight"].shape
    _check_codes(headers, settings["module"])
    if block := settings.get("weight_block_size"):
        height, group = int(block[0]), int(block[1])
    else:
        height, group = 1, TENSOR if math.prod(scale.shape) == 1 else CHANNEL
    return StoredModule("float", 8, group, None, scale.dtype, total(headers), (rows, columns), height)


def _fp8_unpack(tensors: Tensors, settings: Settings) -> Tensor:
    weight, scales = tensors["weight"].float(), tensors[_fp8_scale(tensors, settings["module"])].float()
    rows, columns = weight.shape
    if block := settings.get("weight_block_size"):
        wide = scales.reshape(-(-rows // block[0]), -(-columns // block[1]))
        return weight * wide.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
    return weight * scales.reshape(-1, 1)


FP8: Final = PartsLayout(
    "fp8",
    ("fp8",),
    re.compile(r"(?P<layer>.+)\.(?P<key>weight_scale_inv|weight_scale|activation_scale|input_scale)"),
    _fp8_describe,
    _fp8_unpack,
    cache=SCALES,
)


# --- ModelOpt --------------------------------------------------------------------------------------------------------


def _modelopt_describe(headers: Headers, settings: Settings) -> StoredModule:
    need(headers, settings["module"], "weight", "weight_scale")
    rows, columns = headers["weight"].shape
    if "weight_scale_2" in headers:
        return StoredModule("float", 4, _NVFP4_BLOCK, None, "F8_E4M3", total(headers), (rows, 2 * columns))
    _check_codes(headers, settings["module"])
    group = TENSOR if len(headers["weight_scale"].shape) == 0 else CHANNEL
    return StoredModule("float", 8, group, None, headers["weight_scale"].dtype, total(headers), (rows, columns))


def _modelopt_unpack(tensors: Tensors, settings: Settings) -> Tensor:
    import torch

    from quantgate.quantize.numerics.floats import e2m1_values

    packed, scales = tensors["weight"], tensors["weight_scale"]
    if "weight_scale_2" not in tensors:
        return packed.float() * scales.float().reshape(-1, 1)
    values = e2m1_values(torch.stack([packed & 15, packed >> 4], 2).flatten(1))
    # the second scale multiplies, where compressed-tensors' global scale divides
    return values * scales.float().repeat_interleave(_NVFP4_BLOCK, 1) * tensors["weight_scale_2"].float()


MODELOPT: Final = PartsLayout(
    "modelopt", ("modelopt",), re.compile(r"(?P<layer>.+)\.(?P<key>weight_scale|weight_scale_2|input_scale)"),
    _modelopt_describe, _modelopt_unpack, cache=SCALES,
)  # fmt: skip


# --- torchao ---------------------------------------------------------------------------------------------------------


def _torchao_describe(headers: Headers, settings: Settings) -> StoredModule:
    need(headers, settings["module"], "_weight_qdata", "_weight_scale")
    data, scale = headers["_weight_qdata"], headers["_weight_scale"]
    if data.dtype not in ("I8", "F8_E4M3"):
        raise ModelError(
            settings["module"], f"torchao's {torchao_type(settings)} in {data.dtype}",
            expected="codes of 8 bit, one a weight", hint="save Int8WeightOnlyConfig or IntxWeightOnlyConfig: only "
            "torchao unpacks its tiled layouts",
        )  # fmt: skip
    rows, columns = data.shape
    group = CHANNEL if len(scale.shape) < 2 or scale.shape[1] == 1 else columns // scale.shape[1]
    kind = "float" if data.dtype == "F8_E4M3" else "int"
    symmetric = None if kind == "float" else True
    return StoredModule(kind, _torchao_bits(settings), group, symmetric, scale.dtype, total(headers), (rows, columns))


def _torchao_bits(config: Settings) -> int:
    found = re.search(r'"?weight_dtype.{0,40}?\bu?int(\d)\b', str(config.get("quant_type")))
    return int(found[1]) if found else 8


def _torchao_unpack(tensors: Tensors, settings: Settings) -> Tensor:
    codes = tensors["_weight_qdata"].float()
    shape = (codes.shape[0], codes.shape[1])
    if "_weight_zero_point" in tensors:
        codes = codes - spread_out(tensors["_weight_zero_point"], shape, settings["module"])
    return codes * spread_out(tensors["_weight_scale"], shape, settings["module"])


TORCHAO: Final = PartsLayout(
    "torchao", ("torchao",), re.compile(r"(?P<layer>.+)\.(?P<key>_weight_qdata|_weight_scale|_weight_zero_point)"),
    _torchao_describe, _torchao_unpack,
)  # fmt: skip
