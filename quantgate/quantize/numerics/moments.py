"""How far the values of a channel reach beyond the usual ones: what makes it hard to round."""

from __future__ import annotations

import torch
from torch import Tensor


def kurtosis(values: Tensor, dim: int) -> Tensor:
    """Fourth central moment over the squared second one, float64, along ``dim``: 3 for a normal, 1.8 for an even
    distribution, ``n`` for one value among ``n`` that stands alone; NaN where all are equal.
    """
    centred = values.to(torch.float64) - values.to(torch.float64).mean(dim, keepdim=True)
    return centred.pow(4).mean(dim) / centred.square().mean(dim).square()


def peak_ratio(values: Tensor, dim: int) -> Tensor:
    """Largest magnitude over the median one, float64, along ``dim``; infinite where more than half are zero."""
    magnitude = values.to(torch.float64).abs()
    return magnitude.amax(dim) / magnitude.median(dim).values
