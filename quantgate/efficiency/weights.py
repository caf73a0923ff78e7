"""Bytes of a checkpoint's weights: read from its files, and predicted from the layout before anything is quantized."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from quantgate.efficiency.architecture import Architecture, Linear
from quantgate.errors import MethodError, ModelError
from quantgate.quantize.checkpoint import weight_files
from quantgate.quantize.packing import packed_rows

_INT32, _HALF, _FLOAT = 4, 2, 4
_FLOAT4_STATE: Final = 16 * _FLOAT + 100  # the table of levels and a JSON line, once a layer
_FLOAT4_BLOCK: Final = 64


def stored_bytes(directory: Path) -> int:
    """Bytes of all tensors in the safetensors files of ``directory``, from their headers.

    Raises:
        ModelError: a file is missing or has no readable header.
    """
    return sum(_tensor_bytes(path) for path in weight_files(directory))


def _tensor_bytes(path: Path) -> int:
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return sum(
            entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in header.items() if name[0] != "_"
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(str(path), f"no readable header ({error})", expected="a safetensors file") from error


def predicted_bytes(model: Architecture, quantization: Mapping[str, Any]) -> float:
    """Bytes of all tensors of a checkpoint of ``model`` with the ``quantization_config`` ``quantization``.

    Embedding, output head (stored a second time where it is tied), norms and biases take 16 bits.

    Raises:
        MethodError: a layout without a formula here.
    """
    layer = layer_bytes(quantization)
    blocks = model.layers * sum(layer(linear) for linear in model.linears)
    return blocks + _HALF * (2 * model.embedding + model.rest)


def layer_bytes(quantization: Mapping[str, Any]) -> Callable[[Linear], int]:
    """How many bytes the layout ``quantization`` gives a linear layer."""
    layout = quantization.get("quant_method")
    if layout == "gptq":
        return lambda linear: _grid(linear, int(quantization["bits"]), int(quantization["group_size"]))
    if layout == "bitsandbytes":
        return _int8 if quantization.get("load_in_8bit") else _float4
    raise MethodError("size prediction", f"layout {layout!r}", expected="gptq or bitsandbytes")


def _grid(linear: Linear, bits: int, group_size: int) -> int:
    """Codes, zero points and scales of each group, and the group of each input."""
    groups = 1 if group_size == -1 else -(-linear.inputs // group_size)
    codes = packed_rows(linear.inputs, bits) * linear.outputs * _INT32
    zeros = groups * packed_rows(linear.outputs, bits) * _INT32
    return codes + zeros + groups * linear.outputs * _HALF + linear.inputs * _INT32


def _int8(linear: Linear) -> int:
    """A byte a weight and a float32 for each row (LLM.int8)."""
    return linear.weights + linear.outputs * _FLOAT + 1


def _float4(linear: Linear) -> int:
    """Two weights a byte and a float32 for each block (NF4, FP4)."""
    return -(-linear.weights // 2) + -(-linear.weights // _FLOAT4_BLOCK) * _FLOAT + _FLOAT4_STATE
