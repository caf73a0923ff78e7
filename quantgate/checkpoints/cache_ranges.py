"""Whether stored scales of keys and values in FP8 can be theirs, by the weights alone.

Behind a norm every input has the same length, so that a row of ``k_proj`` times the norm's weights says how large that
key usually is (its length) and can be at most (times the root of the width, and of two for the rotation). Scales are
calibrated to the largest value seen: on the bundled model over 4,096 tokens that is 3.6 to 9.6 times the usual size of
keys and 2.3 to 6.6 times that of values, in all 30 layers. Nothing here is a proof, so that all of it is a warning.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantgate.checkpoints.findings import WARNING, Finding, named

if TYPE_CHECKING:
    from torch import Tensor

    from quantgate.checkpoints.layouts.protocol import Checkpoint

CODE: Final = "cache_range"
_TOP: Final = 448.0  # of E4M3
_LEAST: Final = 0.5  # of the usual size: honest ones have five times that
_APART: Final = math.log(5)  # of a layer's ratio of keys to values from the usual one: at most log 2 in honest ones
_NEAR: Final = math.log(3)
_FEW: Final = 4  # layers that say nothing about what is usual
_UNEVEN: Final = 0.7  # mean distance of those ratios from the usual one; 0.25 in honest ones
_ONE_MORE: Final = ("gemma", "recurrent_gemma", "qwen3_next")  # whose norms multiply by 1 + weight


@dataclass(frozen=True)
class _Size:
    """Of keys or values of one layer: how large the largest of them usually is, and can be at most."""

    usual: float
    most: float


def findings(checkpoint: Checkpoint, scales: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    """What speaks against ``scales`` (layer -> side -> scale); of layers whose sizes no weights say, nothing."""
    sizes = {layer: found for layer, sides in scales.items() if sides and (found := _sizes(checkpoint, layer))}
    beyond: dict[str, float] = {}
    short: dict[str, float] = {}
    for layer, found in sizes.items():
        for side, size in _judged(scales[layer], found).items():
            reach = scales[layer][side] * _TOP
            if reach > size.most and scales[layer][side] != 1:  # 1 is what ModelOpt writes for not calibrated
                beyond[f"{layer}.{side}"] = reach / size.most
            elif reach < _LEAST * size.usual:
                short[f"{layer}.{side}"] = reach / size.usual
    if short:
        sentence = f"scales of keys or values too small for them, which cuts them off ({named(short)})"
        yield Finding(CODE, WARNING, sentence, tuple(short), short)
    if beyond:
        sentence = f"scales of keys or values far beyond what the weights can give ({named(beyond)})"
        yield Finding(CODE, WARNING, sentence, tuple(beyond), beyond)
    if exchanged := tuple(_exchanged({layer: (scales[layer], found) for layer, found in sizes.items()})):
        sentence = f"scales of keys and values that would fit better exchanged ({named(exchanged)})"
        yield Finding(CODE, WARNING, sentence, exchanged)


def _judged(scales: Mapping[str, float], sizes: Mapping[str, _Size]) -> dict[str, _Size]:
    """Both sides, or the larger one alone where one scale serves both."""
    if scales["k"] != scales["v"]:
        return dict(sizes)
    side = max(sizes, key=lambda each: sizes[each].usual)
    return {side: sizes[side]}


def _exchanged(layers: Mapping[str, tuple[Mapping[str, float], Mapping[str, _Size]]]) -> Iterator[str]:
    """Layers whose ratio of keys to values is as all others' once both scales are exchanged, and is not as they are."""
    stored, turned = {}, {}
    for layer, (scales, sizes) in layers.items():
        if scales["k"] != scales["v"]:
            by_scales, by_sizes = math.log(scales["k"] / scales["v"]), math.log(sizes["k"].usual / sizes["v"].usual)
            stored[layer], turned[layer] = by_scales - by_sizes, -by_scales - by_sizes
    if len(stored) < _FEW:
        return
    if _uneven(stored) > max(_UNEVEN, 2 * _uneven(turned)):  # the weights leave a constant open, not its changes
        yield from stored
        return
    usual = statistics.median(stored.values())
    for layer, ratio in stored.items():
        if abs(ratio - usual) > _APART and abs(turned[layer] - usual) < _NEAR:
            yield layer


def _uneven(ratios: Mapping[str, float]) -> float:
    usual = statistics.median(ratios.values())
    return statistics.fmean(abs(each - usual) for each in ratios.values())


def _sizes(checkpoint: Checkpoint, layer: str) -> dict[str, _Size]:
    """By side; empty where the layer is not ``k_proj`` and ``v_proj`` behind a norm that multiplies by its weights."""
    block = layer.rpartition(".")[0]
    if str(checkpoint.config.get("model_type", "")).startswith(_ONE_MORE):
        return {}
    norm = _tensor(checkpoint, f"{block}.input_layernorm.weight")
    weights = {side: _matrix(checkpoint, f"{layer}.{side}_proj") for side in ("k", "v")}
    if norm is None or any(each is None or each.shape[1] != len(norm) for each in weights.values()):
        return {}
    shift = _tensor(checkpoint, f"{block}.input_layernorm.bias")
    found = {}
    for side, weight in weights.items():
        assert weight is not None  # seen above
        bias = _tensor(checkpoint, f"{layer}.{side}_proj.bias")
        found[side] = _size(weight, norm, shift, bias)
    if (own := _tensor(checkpoint, f"{layer}.k_norm.weight")) is not None:  # keys are normed once more, by heads
        largest = float(own.abs().max())
        found["k"] = _Size(largest, largest * math.sqrt(2 * len(own)))
    return found if all(each.usual > 0 for each in found.values()) else {}


def _size(weight: Tensor, norm: Tensor, shift: Tensor | None, bias: Tensor | None) -> _Size:
    fixed = weight.new_zeros(len(weight))
    for each in (None if shift is None else weight @ shift, bias):
        fixed = fixed if each is None else fixed + each
    lengths = (weight * norm).norm(dim=1)
    most = float((lengths * math.sqrt(len(norm)) + fixed.abs()).max()) * math.sqrt(2)
    return _Size(float((lengths.square() + fixed.square()).sqrt().max()), most)


def _matrix(checkpoint: Checkpoint, module: str) -> Tensor | None:
    return checkpoint.weight(module) if module in checkpoint.modules else _tensor(checkpoint, f"{module}.weight")


def _tensor(checkpoint: Checkpoint, name: str) -> Tensor | None:
    return checkpoint.tensor(name).float() if name in checkpoint.plain else None
