"""W8A8 for other runtimes: 8-bit weights by output channel and inputs by token as compressed-tensors stores them.

Our own checkpoints keep the weights of such a method in the GPTQ layout and say how inputs are quantized in a
configuration that nobody else reads. The numbers are the same: ``scale * (code - 128)`` is ``scale * int8``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantgate.checkpoints import checkpoint
from quantgate.checkpoints.record import write_json
from quantgate.core.errors import ModelError
from quantgate.models.files import read_json
from quantgate.quantize.base import Method
from quantgate.quantize.numerics.uniform import UniformWeight
from quantgate.quantize.settings import GptqSettings, RtnSettings


def is_w8a8(method: Method) -> bool:
    """Whether the method is one that `convert` can write: symmetric int8 by channel, inputs int8 by token, dynamic."""
    weights, inputs = method.settings, method.activations
    return (
        isinstance(weights, RtnSettings | GptqSettings)
        and inputs is not None
        and method.kv_cache is None
        and (weights.bits, weights.group_size, weights.sym) == (8, -1, True)
        and (inputs.bits, inputs.granularity, inputs.dynamic, inputs.sym) == (8, "token", True, True)
    )


def w8a8_config() -> dict[str, Any]:
    """``quantization_config`` under compressed-tensors' names."""
    shared = {"num_bits": 8, "type": "int", "symmetric": True, "group_size": None}
    group = {
        "targets": ["Linear"],
        "weights": {**shared, "strategy": "channel", "dynamic": False},
        "input_activations": {**shared, "strategy": "token", "dynamic": True},
        "output_activations": None,
        "format": "int-quantized",
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }


def convert(source: Path, target: Path) -> None:
    """Rewrite weights and configuration of ``source``, a checkpoint of ours, in ``target`` (a copy of it).

    Raises:
        ModelError: a layer whose weights are not symmetric int8 by channel.
    """
    config = read_json(source / "config.json", str(source))
    state, layers = checkpoint.read_layers(source, config["quantization_config"])
    for name, layer in layers.items():
        state |= {f"{name}.{part}": tensor for part, tensor in _int8(layer, name).items()}
    checkpoint.replace_weights(state, target)
    write_json(target / "config.json", config | {"quantization_config": w8a8_config()})


def _int8(layer: object, name: str) -> dict[str, Tensor]:
    if not (isinstance(layer, UniformWeight) and layer.grid.bits == 8 and layer.grid.symmetric):
        raise ModelError(name, type(layer).__name__, expected="symmetric 8-bit weights")
    codes = layer.codes.t().to(torch.int16) - layer.grid.middle
    return {
        "weight": codes.to(torch.int8).contiguous(),
        "weight_scale": layer.scales.t().to(torch.float32).contiguous(),
    }
