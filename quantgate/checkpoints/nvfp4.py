"""NVFP4 for runtimes that run q/k/v or gate/up as one matrix: such a matrix has one global scale.

Layers of one module (attention, feed-forward) get the smallest of their divisors. Divisors are powers of two, so only
the exponents of the E4M3 block scales change: the weights stay what they are, bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from quantgate.checkpoints import checkpoint
from quantgate.core.errors import ModelError

_DIVISOR = "weight_global_scale"


def share_scales(source: Path, target: Path) -> None:
    """Rewrite the weights of ``source``, an NVFP4 checkpoint of ours, in ``target`` (a copy of it).

    Raises:
        ModelError: block scales so far apart that E4M3 cannot hold them over a common divisor.
    """
    state = dict(checkpoint.stored_tensors(source))
    modules: dict[str, list[str]] = defaultdict(list)
    for name in state:
        if name.endswith(f".{_DIVISOR}"):
            layer = name.removesuffix(f".{_DIVISOR}")
            modules[layer.rpartition(".")[0]].append(layer)
    for layers in modules.values():
        smallest = torch.stack([state[f"{layer}.{_DIVISOR}"] for layer in layers]).amin(0)
        for layer in layers:
            factor = smallest / state[f"{layer}.{_DIVISOR}"]
            state[f"{layer}.weight_scale"] = _scaled(state[f"{layer}.weight_scale"], factor, layer)
            state[f"{layer}.{_DIVISOR}"] = smallest.clone()
    checkpoint.replace_weights(state, target)


def _scaled(scales: Tensor, factor: Tensor, layer: str) -> Tensor:
    wanted = scales.to(torch.float32) * factor
    found = wanted.to(scales.dtype)
    if not torch.equal(found.to(torch.float32), wanted):
        raise ModelError(layer, "block scales far below those of its neighbours", expected="scales that E4M3 can share")
    return found
