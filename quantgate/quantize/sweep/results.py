"""What an algorithm made of a stage's layers, before the model is given it: one result a layer, of the layer's shape.

An algorithm may be another package's. Too few results, another shape or a loss that is no number would surface far
from it, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantgate.core.errors import MethodError
from quantgate.core.memory import give_back
from quantgate.core.requests import is_number
from quantgate.models.products import as_they_are
from quantgate.models.spill import Spill
from quantgate.quantize.base import Algorithm, LayerResult, Statistics
from quantgate.quantize.transforms.blocks import BlockAlgorithm, BlockTask
from quantgate.quantize.transforms.fold import Fold


@dataclass(frozen=True)
class Packed:
    """A quantized layer of which nothing is kept but what is stored of it (`StoredWeight`)."""

    n_weights: int
    kept: Mapping[str, Tensor]

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Nobody asks for it: the block that computes with it is done."""
        raise MethodError("a packed layer", f"asked for its weights in {dtype}", expected="that it is stored only")

    def tensors(self) -> dict[str, Tensor]:
        """See `StoredWeight.tensors`."""
        return dict(self.kept)


def packed(result: LayerResult, spill: Spill) -> LayerResult:
    """``result``, or where memory gets short what is stored of it, in a file. Raises MethodError without disk."""
    weight = result.weight
    if spill.room(2 * weight.n_weights):  # no form of a quantized weight takes more than the weight did
        return result
    result = replace(result, weight=Packed(weight.n_weights, {k: spill.put(t) for k, t in weight.tensors().items()}))
    give_back()
    return result


def quantized(
    algorithm: Algorithm, weights: Sequence[Tensor], statistics: Statistics | None, names: Sequence[str], who: str
) -> list[LayerResult]:
    """``algorithm.quantize`` of the layers called ``names``.

    Raises:
        MethodError: names the layers; the method cannot be applied, or gives other things than their results.
    """
    layers = f"{who}: {', '.join(names)}"
    try:
        with as_they_are():
            found = algorithm.quantize(list(weights), statistics)
    except MethodError as error:
        raise MethodError(layers, error.found, expected=error.expected, hint=error.hint) from error
    if not isinstance(found, (list, tuple)) or len(found) != len(weights):
        count = len(found) if isinstance(found, (list, tuple)) else f"a {type(found).__name__}"
        raise MethodError(
            layers, f"the algorithm gave {count} for {len(weights)} layers", expected="one result a layer"
        )
    for name, weight, result in zip(names, weights, found, strict=True):
        if wrong := _wrong(result, weight):
            raise MethodError(f"{who}: {name}", f"the algorithm gave {wrong}")
    return list(found)


def learned(
    algorithm: BlockAlgorithm, task: BlockTask, who: str
) -> tuple[dict[str, LayerResult], list[tuple[Fold, Tensor]]]:
    """``algorithm.learn`` of a block's layers; raises as `quantized`."""
    try:
        results, scales = algorithm.learn(task)
    except MethodError as error:
        layers = f"{who}: {next(iter(task.weights))} and its block"
        raise MethodError(layers, error.found, expected=error.expected, hint=error.hint) from error
    for name, weight in task.weights.items():
        if wrong := _wrong(results.get(name), weight):
            raise MethodError(f"{who}: {name}", f"the algorithm gave {wrong}")
    return results, scales


def _wrong(result: object, weight: Tensor) -> str:
    if not isinstance(result, LayerResult):
        return f"a {type(result).__name__}, expected a LayerResult"
    if not is_number(result.loss):
        return f"a {type(result.loss).__name__} for a loss, expected a float"
    if result.weight.n_weights != weight.numel():
        return f"{result.weight.n_weights} weights, expected {weight.numel()}"
    return ""


def dequantized(result: LayerResult, dtype: torch.dtype, shape: torch.Size, who: str) -> Tensor:
    """The weight that a loaded checkpoint computes with. Raises MethodError where it is none of the layer's."""
    weight = result.weight.dequantize(dtype)
    if not isinstance(weight, Tensor) or weight.shape != shape or weight.dtype != dtype:
        found = f"{list(weight.shape)} {weight.dtype}" if isinstance(weight, Tensor) else type(weight).__name__
        raise MethodError(who, f"its quantized weight is {found}", expected=f"{list(shape)} {dtype}")
    if not bool(torch.isfinite(weight).all()):
        raise MethodError(
            who,
            "its quantized weight is not finite",
            expected="weights and statistics that the method's number formats can hold",
            hint="look at the layer's largest weights and inputs; fp16 scales end at 65504",
        )
    return weight
