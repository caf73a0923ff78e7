"""Algorithms that learn a decoder block as a whole: what they are given, and what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeGuard

from torch import Tensor

from quantgate.quantize.base import Algorithm, LayerResult, Statistics
from quantgate.quantize.transforms.fold import Fold


class BlockTask(Protocol):
    """One decoder block, as an algorithm sees it.

    ``weights``: of the layers to quantize, float32 ``[out, in]``, by name in call order. ``folds``: where inputs can be
    scaled. ``statistics``: of each layer's input, what the algorithm asked for. ``steps``: batches of an epoch.
    """

    weights: Mapping[str, Tensor]
    folds: Sequence[Fold]
    statistics: Mapping[str, Statistics | None]
    steps: int

    def loss(self, step: int, weights: Mapping[str, Tensor], folds: Sequence[tuple[Fold, Tensor]]) -> Tensor:
        """Mean squared difference of the block's output with these weights from what it should be, on one batch.

        ``folds``: scales by which sources of inputs are divided; the ``weights`` hold them already.
        """


class BlockAlgorithm(Algorithm, Protocol):
    """An `Algorithm` that is given whole blocks; its ``quantize`` is asked for layers outside of them.

    ``step_tokens``: of a batch, where it holds more than one sample. ``both``: whether the outputs of the 16-bit block
    on the quantized model's inputs are targets, too, beside those on the 16-bit model's. ``scales``: whether it wants
    folds.
    """

    @property
    def step_tokens(self) -> int:
        """See above."""

    @property
    def both(self) -> bool:
        """See above."""

    @property
    def scales(self) -> bool:
        """See above."""

    def learn(self, task: BlockTask) -> tuple[dict[str, LayerResult], list[tuple[Fold, Tensor]]]:
        """One result a layer, of its weight with the scales folded in, and the scale of every fold that was scaled."""


def learns(algorithm: Algorithm) -> TypeGuard[BlockAlgorithm]:
    """Whether ``algorithm`` is given whole blocks."""
    return hasattr(algorithm, "learn")
