"""A decoder block as something that can be learned: its output as a function of its weights and of folded scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quantgate.models.layers import Block, hooks
from quantgate.models.products import has_products
from quantgate.quantize.base import Statistics
from quantgate.quantize.numerics.learned import check_inputs, rounded_tokens
from quantgate.quantize.numerics.ragged import samples
from quantgate.quantize.settings import ActivationSettings
from quantgate.quantize.sweep.batches import Batch
from quantgate.quantize.transforms.fold import Fold


class LearnedBlock:
    """One block with its inputs and targets; see `blocks.BlockTask`.

    It is computed in the model's dtype where this processor multiplies matrices of it, otherwise in float32.

    Args:
        block: the decoder block.
        index: its place in the model.
        batches: its inputs, one batch a step.
        targets: of every batch, each ``[samples, length, width]``: what its output should be; the loss is their mean.
        weights: see `blocks.BlockTask`.
        folds: likewise.
        statistics: likewise.
    """

    def __init__(
        self,
        block: Block,
        index: int,
        batches: Sequence[Batch],
        targets: Sequence[Sequence[Tensor]],
        weights: Mapping[str, Tensor],
        folds: Sequence[Fold],
        statistics: Mapping[str, Statistics | None],
    ) -> None:
        self.block, self.index, self.batches, self.targets = block, index, batches, targets
        self.weights, self.folds, self.statistics, self.steps = weights, folds, statistics, len(batches)
        stored = next(block.module.parameters()).dtype
        self.dtype = stored if has_products(stored) else torch.float32
        self.others = {
            name: tensor.detach().to(self.dtype)
            for name, tensor in [*block.module.named_parameters(), *block.module.named_buffers()]
            if tensor.is_floating_point()
        }

    def loss(self, step: int, weights: Mapping[str, Tensor], folds: Sequence[tuple[Fold, Tensor]]) -> Tensor:
        """See `blocks.BlockTask`; float32."""
        batch, found = self.batches[step], dict(self.others)
        for fold, scale in folds:
            self._divide(fold, scale, found)
        for name, weight in weights.items():
            found[self._own(f"{name}.weight")] = weight.to(self.dtype)
        arguments = {name: self._cast(value) for name, value in batch.arguments[self.index].items()}
        with samples(batch.lengths):
            output: Any = functional_call(self.block.module, found, (self._cast(batch.hidden),), arguments)
        hidden = batch.rows(output[0] if isinstance(output, tuple) else output).to(torch.float32)
        losses = [(hidden - batch.rows(target).to(torch.float32)).square().mean() for target in self.targets[step]]
        return torch.stack(losses).mean()

    def _own(self, name: str) -> str:
        """The name within the block."""
        return name.removeprefix(f"{self.block.name}.")

    def _divide(self, fold: Fold, scale: Tensor, found: dict[str, Tensor]) -> None:
        """The source's own parameters, save a linear weight: that is among the learned ones."""
        for kind, parameter in fold.module.named_parameters(recurse=False):
            if kind == "bias" or fold.is_norm:
                found[self._own(f"{fold.source}.{kind}")] = (parameter.to(torch.float32) / scale).to(self.dtype)

    def _cast(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._cast(each) for each in value)
        return value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def rounded_inputs(
    linears: Mapping[str, nn.Linear], activations: Callable[[str], ActivationSettings | None], who: str
) -> Iterator[None]:
    """Within the block, inputs of ``linears`` are rounded as a loaded checkpoint rounds them.

    Raises:
        MethodError: settings that nothing can be learned with.
    """
    handles = []
    for name, linear in linears.items():
        if (settings := activations(name)) is None:
            continue
        check_inputs(settings, f"{who}: {name}")
        handles.append(linear.register_forward_pre_hook(_rounding(settings)))
    with hooks(handles):
        yield


def _rounding(settings: ActivationSettings) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    return lambda _, args: (rounded_tokens(cast(Tensor, args[0]), settings), *args[1:])
