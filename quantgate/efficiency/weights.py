"""Bytes of a checkpoint's weights, predicted from the layout before anything is quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from quantgate.checkpoints.mixed import is_mixed, layer_config
from quantgate.core.errors import MethodError
from quantgate.efficiency.architecture import Architecture, Linear
from quantgate.quantize.numerics.packing import packed_rows

_INT32, _HALF, _FLOAT = 4, 2, 4
_FLOAT4_STATE: Final = 16 * _FLOAT + 100  # the table of levels and a JSON line, once a layer
_FLOAT4_BLOCK: Final = 64
_SHAPE: Final = 8  # two int32
_OUTLIER: Final = 4  # a 16-bit value and a 16-bit column


def predicted_bytes(model: Architecture, quantization: Mapping[str, Any] | None, outliers: float = 0.0) -> float:
    """Bytes of all tensors of a checkpoint of ``model`` with the ``quantization_config`` ``quantization``.

    Embedding, output head (not stored again where it is tied), norms and biases take 16 bits. ``outliers``: share
    of the weights that are kept apart; only the data say how many, so it is asked for (SpQR; 0 elsewhere).

    Raises:
        MethodError: a layout without a formula here.
    """
    configs = _configs(model, quantization or {})
    blocks = sum(layer_bytes(config, linear, outliers) for config, linear in configs)
    return blocks + _HALF * ((1 if model.tied else 2) * model.embedding + model.rest)


def _configs(model: Architecture, quantization: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Linear]]:
    """Configuration and shape of every linear layer of every block."""
    for block in range(model.layers):
        for linear in model.linears:
            if not is_mixed(quantization):
                yield quantization, linear
                continue
            ends = f".{block}.{linear.name}"
            names = [name for name in quantization["layers"] if name.endswith(ends)]
            yield layer_config(quantization, names[0]) if names else {}, linear


def layer_bytes(config: Mapping[str, Any], linear: Linear, outliers: float = 0.0) -> float:
    """Bytes of a linear layer's weight in a layout; an empty ``config`` is the 16-bit weight itself."""
    if not config:
        return linear.weights * _HALF
    name = str(config.get("format") or config.get("quant_method"))
    if name == "bitsandbytes":
        return _int8(linear) if config.get("load_in_8bit") else _float4(linear)
    if name not in _FORMULAS:
        raise MethodError("size prediction", f"layout {name!r}", expected=f"one of {', '.join(_FORMULAS)}")
    # one layer in so many has an outlier at all: without any, no row pointers are stored
    pointers = (linear.outputs + 1) * _INT32 * min(1.0, linear.weights * outliers)
    return _FORMULAS[name](linear, config) + linear.weights * outliers * _OUTLIER + pointers


def _grid(linear: Linear, config: Mapping[str, Any]) -> float:
    """GPTQ's layout: codes, zero points and scales of each group, and the group of each input."""
    bits, groups = int(config["bits"]), _groups(linear, int(config["group_size"]))
    codes = packed_rows(linear.inputs, bits) * linear.outputs * _INT32
    zeros = groups * packed_rows(linear.outputs, bits) * _INT32
    return codes + zeros + groups * linear.outputs * _HALF + linear.inputs * _INT32


def _spqr(linear: Linear, config: Mapping[str, Any]) -> float:
    """Codes, the order of the inputs, and scales and zero points that are quantized themselves."""
    groups = _groups(linear, int(config["group_size"]))
    statistics = groups * linear.outputs * int(config["statistic_bits"]) / 8
    second = groups * -(-linear.outputs // int(config["statistic_group"])) * 2 * _HALF  # a step and a low each
    order = linear.inputs * (_HALF if linear.inputs < 2**15 else _INT32) if config["desc_act"] else 0
    return linear.weights * int(config["bits"]) / 8 + 2 * (statistics + second) + order + _SHAPE


def _slim(linear: Linear, config: Mapping[str, Any]) -> float:
    """Codes and zero points in each group's own bits, whose mean is ``bits``; scales; the bits."""
    bits, groups = int(config["bits"]), _groups(linear, int(config["group_size"]))
    return (linear.weights + groups * linear.outputs) * bits / 8 + groups * linear.outputs * _HALF + groups + _SHAPE


def _grouped(linear: Linear, config: Mapping[str, Any], halves: int) -> float:
    """Codes, and ``halves`` 16-bit numbers for each group."""
    groups = _groups(linear, int(config["group_size"]))
    return linear.weights * int(config["bits"]) / 8 + halves * groups * linear.outputs * _HALF + _SHAPE


def _quip(linear: Linear, config: Mapping[str, Any]) -> float:
    """Codes, the balance of the inputs, the grid's end, two seeds of 64 bits."""
    return linear.weights * int(config["bits"]) / 8 + linear.inputs * _HALF + _FLOAT + 16 + _SHAPE


def _groups(linear: Linear, group_size: int) -> int:
    return 1 if group_size == -1 else -(-linear.inputs // group_size)


def _int8(linear: Linear) -> int:
    """A byte a weight and a float32 for each row (LLM.int8)."""
    return linear.weights + linear.outputs * _FLOAT + 1


def _float4(linear: Linear) -> int:
    """Two weights a byte and a float32 for each block (NF4, FP4)."""
    return -(-linear.weights // 2) + -(-linear.weights // _FLOAT4_BLOCK) * _FLOAT + _FLOAT4_STATE


_FORMULAS: Final[dict[str, Callable[[Linear, Mapping[str, Any]], float]]] = {
    "gptq": _grid,
    "spqr": _spqr,
    "slim": _slim,
    "quip": _quip,
    "easyquant": lambda linear, config: _grouped(linear, config, 1),
    "hqq": lambda linear, config: _grouped(linear, config, 2),
    "float8": lambda linear, config: linear.weights + linear.outputs * _HALF + _SHAPE,
    "float-quantized": lambda linear, config: linear.weights + linear.outputs * _HALF,
    "nvfp4-pack-quantized": lambda linear, config: linear.weights * (1 / 2 + 1 / 16) + _FLOAT,
    "mxfp4-pack-quantized": lambda linear, config: linear.weights * (1 / 2 + 1 / 32),
}
