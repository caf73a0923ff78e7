"""SmoothQuant (Xiao et al. 2022): move the difficulty of activations into the weights that follow.

``s_j = max|x_j|^alpha / max|w_j|^(1-alpha)`` for every channel ``j`` a norm feeds into linear layers; the norm carries
``1/s``. With ``alpha`` 0.5 the largest input and the largest weight of a channel become equal. The maximum of ``|w_j|``
is taken over all layers that read the input. As in the paper only norms are smoothed: attention output and the second
feed-forward layer keep their inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from quantgate.quantize.numerics.statistics import InputStatistics
from quantgate.quantize.settings import Need, SmoothQuantSettings
from quantgate.quantize.transforms.fold import Fold

_SMALLEST: Final = 1e-5


def smoothing_scale(activation: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """The scale by which inputs are divided, float32 ``[channels]``.

    Args:
        activation: largest magnitude of each channel of the input.
        weight: largest magnitude of the weights it meets.
        alpha: see `SmoothQuantSettings`.
    """
    scale = activation.pow(alpha) / weight.clamp(min=_SMALLEST).pow(1 - alpha)
    # a channel that is always 0 on one side needs no smoothing, and must not be blown up on other text
    return torch.where((activation > 0) & (weight > 0), scale.clamp(min=_SMALLEST), torch.ones_like(scale))


@dataclass(frozen=True)
class SmoothQuant:
    """Smoothing as the driver sees it."""

    settings: SmoothQuantSettings
    needs: ClassVar[frozenset[Need]] = frozenset({"range"})

    def covers(self, fold: Fold) -> bool:
        """Norms only."""
        return fold.is_norm

    def scale(self, fold: Fold, weights: Sequence[Tensor], statistics: InputStatistics) -> Tensor:
        """The scale of each channel of the norm, float32 ``[size]``."""
        largest = torch.stack([weight.to(torch.float32).abs().amax(0) for weight in weights]).amax(0)
        return smoothing_scale(fold.largest(statistics.max_magnitude), fold.largest(largest), self.settings.alpha)
