"""OmniQuant (Shao et al. 2023, arXiv 2308.13137): ranges and scales learned block by block, the weights kept.

Learnable weight clipping: the range of a group is ``[sigmoid(b) min w, sigmoid(a) max w]``, asymmetric, ``a`` and ``b``
learned from 4 (0.98). Learnable equivalent transformation (``transform``): a stage's input is divided by ``s`` where it
is produced and the stage's weights are multiplied by it; ``s`` is learned from SmoothQuant's. Both by AdamW without
decay, so that the quantized block, which reads the inputs of the quantized model, gives what the 16-bit block gives on
the 16-bit model's; with ``both`` also what it gives on the same inputs (the authors' augmented loss, below 4 bit).

As for Llama in the authors' code, nothing is shifted and the last layer of a block keeps its input; scales between
queries and keys are left out, since they change no rounding by output channel. Learning rates are 0.005 for
clipping and 0.01 for scales; the defaults of the authors' code have them the other way round.

*SliM-LLM+* (Huang et al. 2024): with ``salience``, groups get one bit more or less by SliM-LLM's allocation, then the
clipping is learned. A group of one bit is ``sign(w) mean|w|``, its mean scaled by what is learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from quantgate.core.errors import MethodError
from quantgate.quantize.algorithms.slim import SampledHessian, SlimWeight, allocate
from quantgate.quantize.base import LayerResult, Order, Statistics, StoredWeight
from quantgate.quantize.grids import UniformGrid, group_bounds, group_index
from quantgate.quantize.numerics.columns import Processing
from quantgate.quantize.numerics.hessian import hessian_of
from quantgate.quantize.numerics.layout import layout_config
from quantgate.quantize.numerics.learned import rounded, steps
from quantgate.quantize.numerics.statistics import InputStatistics
from quantgate.quantize.numerics.uniform import UniformWeight, gptq_layout_config
from quantgate.quantize.settings import OmniQuantSettings, SlimSettings
from quantgate.quantize.transforms.blocks import BlockTask
from quantgate.quantize.transforms.fold import Fold
from quantgate.quantize.transforms.smoothquant import smoothing_scale

_SMALLEST_SCALE: Final = 2.0**-24  # the smallest positive fp16
_SMALLEST_FACTOR: Final = 1e-2  # of a learned transformation, as in the authors' code
_WHO: Final = "omniquant"


class LearnedRange:
    """The range of every group of one weight: ``high`` and ``low``, logits float32 ``[out, groups, 1]``."""

    def __init__(self, weight: Tensor, bits: Sequence[int], group_size: int, start: float) -> None:
        out, self.features = weight.shape
        self.bits, self.size = tuple(bits), self.features if group_size == -1 else group_size
        self.top = torch.tensor([2**each - 1 for each in bits], device=weight.device).to(torch.float32).view(1, -1, 1)
        self.start = torch.tensor(start, device=weight.device).sigmoid()
        self.high, self.low = (
            torch.full((out, len(bits), 1), start, device=weight.device, requires_grad=True) for _ in range(2)
        )

    def grouped(self, weight: Tensor) -> Tensor:
        """``weight`` (``[out, in]``) as ``[out, groups, size]``; a shorter last group is filled up with zeros."""
        missing = len(self.bits) * self.size - self.features
        return torch.nn.functional.pad(weight, (0, missing)).view(len(weight), len(self.bits), self.size)

    def grid(self, grouped: Tensor) -> tuple[Tensor, Tensor]:
        """Scale, a number of fp16, and zero point of every group, float32 ``[out, groups, 1]``."""
        low = grouped.amin(-1, keepdim=True).clamp(max=0.0) * self.low.sigmoid()
        high = grouped.amax(-1, keepdim=True).clamp(min=0.0) * self.high.sigmoid()
        single = self.top == 1
        if bool(single.any()):
            mean = grouped.abs().mean(-1, keepdim=True) * (self.high.sigmoid() / self.start)
            low, high = torch.where(single, -mean, low), torch.where(single, mean, high)
        scale = ((high - low) / self.top).clamp(min=_SMALLEST_SCALE)
        scale = scale + (scale.to(torch.float16).to(torch.float32) - scale).detach()
        zero = torch.minimum((-low / scale).detach().round_().clamp_(min=0), self.top)
        return scale, torch.where(single, 0.5, zero)

    def rounded(self, weight: Tensor) -> Tensor:
        """``weight`` (float32 ``[out, in]``) on its grid, with gradients."""
        grouped = self.grouped(weight)
        scale, zero = self.grid(grouped)
        return rounded(grouped, scale, zero, self.top).flatten(1)[:, : self.features]

    @torch.no_grad()
    def stored(self, weight: Tensor, settings: OmniQuantSettings) -> StoredWeight:
        """``weight`` as a checkpoint holds it. Raises MethodError when it needs a scale beyond fp16."""
        grouped = self.grouped(weight)
        scale, zero = self.grid(grouped)
        if not bool(torch.isfinite(scale).all()):
            raise MethodError(_WHO, "weights too large for an fp16 scale", expected="scales below 65504")
        found = steps(grouped, scale, zero, self.top).add_(zero).flatten(1)[:, : self.features]
        codes = found.t().to(torch.uint8).contiguous()
        scales, zeros = scale.squeeze(2).t().to(torch.float16), zero.squeeze(2).t().to(torch.uint8)
        if settings.salience:
            return SlimWeight(codes, scales.contiguous(), zeros.contiguous(), self.bits, settings.group_size)
        g_idx = group_index(self.features, settings.group_size).to(codes.device)
        return UniformWeight(codes, scales.contiguous(), zeros.contiguous(), g_idx, UniformGrid(self.bits[0], False))


@dataclass(frozen=True)
class OmniQuant:
    """OmniQuant as the driver sees it: it learns a block as a whole."""

    settings: OmniQuantSettings

    @property
    def order(self) -> Order:
        """Blocks see their predecessors quantized; within a block everything is learned at once."""
        return Order(true_sequential=False, block_sequential=True)

    @property
    def step_tokens(self) -> int:
        """Tokens of a step."""
        return self.settings.step_tokens

    @property
    def both(self) -> bool:
        """Whether the block's outputs on the quantized model's inputs are wanted too."""
        return self.settings.both

    @property
    def scales(self) -> bool:
        """Whether inputs are scaled."""
        return self.settings.transform

    def statistics(self, in_features: int, device: torch.device) -> Statistics | None:
        """Ranges for the first scales, second moments and a sample for the allocation of bits, or nothing."""
        if self.settings.salience:
            return SampledHessian(in_features, device, SlimSettings(self.settings.bits).sample)
        return InputStatistics(in_features, device, ("range",)) if self.settings.transform else None

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """Layers outside a block cannot be learned. Raises MethodError."""
        raise MethodError(_WHO, "a layer outside the decoder blocks", expected="layers of decoder blocks")

    def learn(self, task: BlockTask) -> tuple[dict[str, LayerResult], list[tuple[Fold, Tensor]]]:
        """One result a layer, and the scale (float32 ``[size]``) of every fold that was scaled.

        Raises:
            MethodError: a loss that is no number, or see `LearnedRange.stored`.
        """
        ranges = {
            name: LearnedRange(weight, self._bits(name, weight, task), self.settings.group_size, self.settings.start)
            for name, weight in task.weights.items()
        }
        scales = [(fold, self._first_scale(fold, task)) for fold in self._folds(task)]
        self._train(task, ranges, scales)
        found = _scaled(task.weights, [(fold, scale.detach()) for fold, scale in scales])
        results = {}
        for name, weight in found.items():
            stored = ranges[name].stored(weight, self.settings)
            error = (stored.dequantize(torch.float32) - weight).square().sum()
            results[name] = LayerResult(stored, float(error / weight.square().sum().clamp(min=1e-30)))
        return results, [(fold, scale.detach()) for fold, scale in scales]

    @torch.enable_grad()
    def _train(
        self, task: BlockTask, ranges: Mapping[str, LearnedRange], scales: Sequence[tuple[Fold, Tensor]]
    ) -> None:
        settings, factors = self.settings, [scale for _, scale in scales]
        logits = [each for one in ranges.values() for each in (one.high, one.low)]
        groups = [{"params": logits, "lr": settings.clip_rate}, {"params": factors, "lr": settings.scale_rate}]
        optimizer = torch.optim.AdamW([each for each in groups if each["params"]], weight_decay=0.0)
        for step in [step for _ in range(settings.epochs) for step in range(task.steps)]:
            weights = _scaled(task.weights, scales)
            loss = task.loss(step, {name: one.rounded(weights[name]) for name, one in ranges.items()}, scales)
            if not bool(torch.isfinite(loss)):
                raise MethodError(_WHO, f"a loss of {float(loss)} while learning", expected="a finite loss")
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            for each in factors:
                each.data.clamp_(min=_SMALLEST_FACTOR)

    def _folds(self, task: BlockTask) -> list[Fold]:
        last = list(task.weights)[-1]
        return [fold for fold in task.folds if last not in fold.stage.names] if self.settings.transform else []

    def _first_scale(self, fold: Fold, task: BlockTask) -> Tensor:
        """SmoothQuant's."""
        statistics = task.statistics[fold.stage.names[0]]
        assert isinstance(statistics, InputStatistics)
        weights = [task.weights[name] for name in fold.stage.names]
        largest = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
        scale = smoothing_scale(fold.largest(statistics.max_magnitude), fold.largest(largest), self.settings.alpha)
        return scale.clamp(min=_SMALLEST_FACTOR).requires_grad_()

    def _bits(self, name: str, weight: Tensor, task: BlockTask) -> list[int]:
        """Bits of every group, the same for all or SliM-LLM's."""
        settings = self.settings
        if not settings.salience:
            return [settings.bits] * len(group_bounds(weight.shape[1], settings.group_size))
        statistics = task.statistics[name]
        hessian = hessian_of(statistics, _WHO)
        assert isinstance(statistics, SampledHessian)
        allocation = SlimSettings(settings.bits, settings.group_size)
        make = lambda: Processing(hessian, damp_percent=allocation.damp_percent, desc_act=False, who=_WHO)  # noqa: E731
        run = statistics.derived("processing", make)
        pivots = run.factor.diagonal().reciprocal().unsqueeze(1)
        return allocate(weight.t().contiguous(), pivots, statistics.sample.to(torch.float32), allocation)

    def checkpoint_config(self) -> dict[str, Any]:
        """The GPTQ layout's, or SliM-LLM's where groups differ in bits."""
        settings = self.settings
        if settings.salience:
            return layout_config("slim", SlimSettings(settings.bits, settings.group_size))
        return gptq_layout_config(bits=settings.bits, group_size=settings.group_size, sym=False)


def _scaled(weights: Mapping[str, Tensor], scales: Sequence[tuple[Fold, Tensor]]) -> dict[str, Tensor]:
    """Weights with scales folded in: inputs' are multiplied by theirs, sources' divided."""
    found = dict(weights)
    for fold, scale in scales:
        for name in fold.stage.names:
            found[name] = found[name] * scale[fold.channels]
        if fold.source in found:
            found[fold.source] = found[fold.source] / scale.unsqueeze(1)
    return found
