"""Round to nearest: every weight takes the grid point next to it; no data is looked at.

The baseline of every comparison. Per channel (``group_size`` -1) or per group, symmetric or asymmetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from quantgate.quantize.base import LayerResult, Order, Statistics
from quantgate.quantize.grids import UniformGrid, fit, fit_groups, group_index, quantize
from quantgate.quantize.numerics.uniform import UniformWeight, gptq_layout_config
from quantgate.quantize.settings import Need, RtnSettings


def rtn(weight: Tensor, settings: RtnSettings) -> UniformWeight:
    """Quantize ``weight`` (``[out, in]``, any float dtype) to the nearest grid points.

    Raises:
        MethodError: weights that are not finite.
    """
    grid = UniformGrid(settings.bits, settings.sym)
    columns = weight.to(torch.float32).t().contiguous()
    if settings.whole:  # the layout has a scale for every output feature: the same one
        scales, zeros = (each.expand(1, columns.shape[1]) for each in fit(columns, (0, 1), grid))
    else:
        scales, zeros = fit_groups(columns, settings.group_size, grid)
    g_idx = group_index(columns.shape[0], settings.group_size).to(weight.device)
    codes = quantize(columns, scales[g_idx], zeros[g_idx], grid)
    return UniformWeight(codes, scales.to(torch.float16), zeros.to(torch.uint8), g_idx, grid)


@dataclass(frozen=True)
class Rtn:
    """RTN as the driver sees it: no statistics, each layer on its own."""

    settings: RtnSettings
    order: ClassVar[Order] = Order()
    needs: ClassVar[frozenset[Need]] = frozenset()

    def statistics(self, in_features: int, device: torch.device) -> None:
        """Nothing is collected."""

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """One result a weight; its loss is the relative squared weight error."""
        return [self._one(weight) for weight in weights]

    def _one(self, weight: Tensor) -> LayerResult:
        stored = rtn(weight, self.settings)
        original = weight.to(torch.float32)
        error = (stored.dequantize(torch.float32) - original).square().sum()
        return LayerResult(stored, float(error / original.square().sum().clamp(min=1e-30)))

    def checkpoint_config(self) -> dict[str, Any]:
        """Settings in the words of the GPTQ layout, from which RTN differs only in how codes are chosen."""
        settings = self.settings
        return gptq_layout_config(bits=settings.bits, group_size=settings.group_size, sym=settings.sym)
