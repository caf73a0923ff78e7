"""GPTQ (Frantar et al. 2022): the column loop on uniform grids, fitted group by group to the compensated weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantgate.quantize.base import LayerResult, Statistics
from quantgate.quantize.grids import UniformGrid, fit, fit_groups, to_steps
from quantgate.quantize.numerics.columns import ColumnLoop, Processing, processing_of
from quantgate.quantize.numerics.hessian import OnHessian, output_energy
from quantgate.quantize.numerics.uniform import UniformWeight, gptq_layout_config
from quantgate.quantize.settings import GptqSettings


class _Loop(ColumnLoop):
    """Leaves the steps from the zero point in ``columns``; ``scales`` and ``zeros``: float32 ``[groups, out]``."""

    def __init__(self, columns: Tensor, factor: Tensor, settings: GptqSettings) -> None:
        super().__init__(columns, factor, settings.group_size, settings.blocksize)
        self.grid = UniformGrid(settings.bits, settings.sym)
        self.scales = columns.new_empty(len(self.bounds), columns.shape[1])
        self.zeros = torch.empty_like(self.scales)
        self.refit = not settings.static_groups
        self._scale: Tensor = self.scales[0]
        self._low: Tensor | float = 0.0
        self._high: Tensor | float = 0.0

    def fix_groups(self, original: Tensor, order: Tensor, group_size: int) -> None:
        """Static groups: fit to the original weights in their original order."""
        self.scales, self.zeros = fit_groups(original, group_size, self.grid)
        self.group_of = self.group_of[order]

    def enter(self, group: int, column: int) -> None:
        """Scale and end points in steps of a group; fitted here when its first column is reached."""
        if self.refit and self.bounds[group][0] == column:
            scale, zero = fit(self.columns[slice(*self.bounds[group])], 0, self.grid)
            self.scales[group], self.zeros[group] = scale[0], zero[0]
        self._scale = self.scales[group]
        if self.grid.symmetric:  # numbers instead of vectors: the same steps, fewer memory reads
            self._low, self._high = -float(self.grid.middle), float(self.grid.top - self.grid.middle)
        else:
            self._low, self._high = -self.zeros[group], self.grid.top - self.zeros[group]

    def round(self, column: int, weight: Tensor, error: Tensor) -> None:
        """Nearest step of the group's grid."""
        steps = to_steps(weight, self._scale, self._low, self._high)
        torch.addcmul(weight, steps, self._scale, value=-1, out=error)
        weight.copy_(steps)


def gptq(
    weight: Tensor, hessian: Tensor, settings: GptqSettings, who: str = "gptq", run: Processing | None = None
) -> tuple[UniformWeight, Tensor]:
    """Quantize one weight matrix.

    Args:
        weight: ``[out, in]``, any float dtype; layers that share their input may be stacked along ``out``.
        hessian: float32 ``[in, in]``, symmetric, undamped.
        settings: see `GptqSettings`.
        who: named in errors.
        run: order and factor of the Hessian, if they are known already.

    Returns:
        The weight on its grid, and per output row the loss ``(w - q) H (w - q)^T`` (H damped), float32 ``[out]``.

    Raises:
        MethodError: weights or Hessian are not finite, or the damped Hessian is not positive definite.
    """
    run = run or Processing(hessian, damp_percent=settings.damp_percent, desc_act=settings.desc_act, who=who)
    loop = _Loop(run.columns(weight), run.factor, settings)
    if settings.static_groups:
        loop.fix_groups(weight.to(torch.float32).t().contiguous(), run.order, settings.group_size)
    loop.run()
    codes = loop.columns.add_(loop.zeros[loop.group_of]).to(torch.uint8)
    stored = UniformWeight(
        codes[run.back],
        loop.scales.to(torch.float16),
        loop.zeros.to(torch.uint8),
        loop.group_of[run.back].to(torch.int32),
        loop.grid,
    )
    return stored, loop.errors.square_().sum(0)


@dataclass(frozen=True)
class Gptq(OnHessian):
    """GPTQ as the driver sees it: one Hessian a stage, the stage's layers quantized together."""

    settings: GptqSettings

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """One result a weight (all of them read the same input); the loss is relative to the output's energy.

        Raises:
            MethodError: no statistics, or see `gptq`.
        """
        hessian, run = processing_of(
            statistics, damp_percent=self.settings.damp_percent, desc_act=self.settings.desc_act, who="gptq"
        )
        stacked = torch.cat([weight.to(torch.float32) for weight in weights])
        sizes = [len(weight) for weight in weights]
        stored, losses = gptq(stacked, hessian, self.settings, run=run)
        shares = zip(torch.split(losses, sizes), torch.split(output_energy(stacked, hessian), sizes), strict=True)
        relative = [float(loss.sum() / energy.sum().clamp(min=1e-30)) for loss, energy in shares]
        return [LayerResult(part, loss) for part, loss in zip(stored.split(sizes), relative, strict=True)]

    def checkpoint_config(self) -> dict[str, Any]:
        """Settings under AutoGPTQ's names. With static groups the stored groups are in order, whatever the order they
        were processed in: ``desc_act`` is about the former, so that runtimes without act-order serve them.
        """
        s = self.settings
        return gptq_layout_config(
            bits=s.bits,
            group_size=s.group_size,
            sym=s.sym,
            desc_act=s.desc_act and not s.static_groups,
            static_groups=s.static_groups,
            true_sequential=s.true_sequential,
            damp_percent=s.damp_percent,
        )
