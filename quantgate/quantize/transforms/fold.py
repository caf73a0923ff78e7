"""Equivalent scaling: divide a stage's input by ``s`` where it is produced, multiply the stage's weights by ``s``.

Where an input is produced is not looked up by architecture but observed, and proven, on a small forward of the block:

* a norm whose output tensor is the stage's very input: its weight (and bias) can carry ``1/s``;
* a linear layer the stage's input is homogeneous in: doubling its output doubles the input. Which of its output
  channels reaches which input channel is read off by doubling half of them at a time (up -> down: the identity;
  v -> o with grouped-query attention: one value channel feeds several heads, which then share a scale).

Last, the block is run once with powers of two folded in. They are exact in floating point, so its output must not
change; if it does (the norm also feeds something else, or its weight is used as ``1 + w``), there is no fold point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from quantgate.models.layers import Block, Stage, hooks
from quantgate.quantize.numerics.statistics import InputStatistics
from quantgate.quantize.settings import Need

Run = Callable[[], Tensor]  # one forward of the block on the probe; gives its output
_CHANGED: Final = 0.01  # share of output values that may differ: none should, but fp16 subnormals lose bits


@dataclass(frozen=True)
class Fold:
    """A stage whose input can be scaled. ``source``: name of the module that carries ``1/s``.

    ``channels``: int64 ``[in]``, which of the source's channels reaches each input channel. ``is_norm``: the source is
    a norm, otherwise a linear layer.
    """

    stage: Stage
    source: str
    module: nn.Module
    channels: Tensor
    is_norm: bool

    @property
    def size(self) -> int:
        """Number of channels of the source, and so of free scales."""
        return int(cast(Tensor, self.module.weight).shape[0])

    def pooled(self, values: Tensor) -> Tensor:
        """Mean of ``values`` (``[in]``) over the input channels that one source channel reaches: ``[size]``."""
        total = values.new_zeros(self.size).index_add_(0, self.channels, values)
        return total / torch.bincount(self.channels, minlength=self.size).clamp(min=1)

    def largest(self, values: Tensor) -> Tensor:
        """Maximum of ``values`` (``[in]``) over the input channels that one source channel reaches: ``[size]``."""
        return values.new_zeros(self.size).scatter_reduce_(0, self.channels, values, "amax", include_self=False)


class Transformation(Protocol):
    """Finds the scales; its settings are part of a method's row."""

    @property
    def needs(self) -> frozenset[Need]:
        """Which statistics of a stage's input it looks at."""

    def covers(self, fold: Fold) -> bool:
        """Whether it scales stages with such a source."""

    def scale(self, fold: Fold, weights: Sequence[Tensor], statistics: InputStatistics) -> Tensor:
        """Positive scale of each of the source's channels, float32 ``[size]``."""


def apply(fold: Fold, scale: Tensor, masters: dict[str, Tensor]) -> None:
    """Fold ``scale`` (positive, float32 ``[size]``) into the model.

    ``masters`` keeps the weights of the touched linear layers in float32 (by layer name), so that several folds into
    one layer round its 16-bit weight once, and the quantizer sees no rounding at all.
    """
    scale = scale.to(torch.float32)
    with torch.no_grad():
        for name, linear in fold.stage.linears.items():
            _multiply(name, linear, scale[fold.channels], masters)
        if fold.is_norm:
            _divide(cast(Tensor, fold.module.weight), scale)
        else:
            _multiply(fold.source, cast(nn.Linear, fold.module), scale.reciprocal().unsqueeze(1), masters)
        if getattr(fold.module, "bias", None) is not None:
            _divide(cast(Tensor, fold.module.bias), scale)


def _multiply(name: str, linear: nn.Linear, factor: Tensor, masters: dict[str, Tensor]) -> None:
    masters[name] = masters.get(name, linear.weight.detach().to(torch.float32)) * factor
    linear.weight.copy_(masters[name])


def _divide(parameter: Tensor, scale: Tensor) -> None:
    parameter.copy_(parameter.to(torch.float32) / scale)


def find_folds(block: Block, stages: Sequence[Stage], run: Run) -> list[Fold]:
    """The fold points of a block, at most one a stage; stages without one are left out.

    Args:
        block: the decoder block.
        stages: its stages in call order.
        run: one forward of the block on a few tokens.
    """
    found = (_norm_before(block, stage, run) or _linear_before(block, stages, stage, run) for stage in stages)
    return [fold for fold in found if fold is not None and _is_neutral(fold, run)]


def _norm_before(block: Block, stage: Stage, run: Run) -> Fold | None:
    """The module with a vector as weight whose output is the stage's input."""
    made: dict[int, tuple[str, nn.Module, Tensor]] = {}  # by identity of the output, which is kept alive
    inputs: list[Tensor] = []

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                made[id(output)] = name, module, output

        return hook

    handles = [
        module.register_forward_hook(keep(f"{block.name}.{path}"))
        for path, module in block.module.named_modules()
        if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.ndim == 1
    ]
    handles.append(stage.first.register_forward_pre_hook(lambda _, args: inputs.append(args[0])))
    with hooks(handles):
        run()
    name, module, _ = made.get(id(inputs[0]), ("", None, None))
    if module is None or cast(Tensor, module.weight).shape[0] != stage.first.in_features:
        return None
    return Fold(stage, name, module, torch.arange(stage.first.in_features, device=inputs[0].device), True)


def _linear_before(block: Block, stages: Sequence[Stage], stage: Stage, run: Run) -> Fold | None:
    """The last linear layer before the stage that its input is homogeneous in."""
    before: list[tuple[str, nn.Linear]] = []
    for earlier in stages[: stages.index(stage)]:
        before += earlier.linears.items()
    plain = _stage_input(stage, run)
    for name, linear in reversed(before):
        if linear.out_features > stage.first.in_features:
            continue  # a fused projection: its channels reach other places too
        twice = _stage_input(stage, run, linear, torch.full((linear.out_features,), 2.0))
        if torch.equal(twice, 2 * plain) and (channels := _channels(stage, linear, plain, run)) is not None:
            return Fold(stage, name, linear, channels, False)
    return None


def _channels(stage: Stage, linear: nn.Linear, plain: Tensor, run: Run) -> Tensor | None:
    """Which output channel of ``linear`` each input channel of the stage follows, or None if that is not clear."""
    index = torch.arange(linear.out_features)
    channels = torch.zeros(stage.first.in_features, dtype=torch.int64)
    for bit in range(max(linear.out_features - 1, 1).bit_length()):
        doubled = _stage_input(stage, run, linear, 1.0 + ((index >> bit) & 1))
        follows = ((doubled != plain) & (doubled == 2 * plain)).flatten(0, -2).any(0)
        channels |= follows.cpu().to(torch.int64) << bit
    if linear.out_features == stage.first.in_features and bool(
        (plain == 0).all(dim=tuple(range(plain.ndim - 1))).any()
    ):
        channels = index  # an input that is 0 on the probe shows nothing; equal widths suggest the identity
    if int(channels.max()) >= linear.out_features:
        return None
    factors = torch.tensor([0.5, 1.0, 2.0])[index % 3]
    mixed = _stage_input(stage, run, linear, factors)
    follows_all = torch.equal(mixed, plain * factors[channels].to(plain))
    return channels.to(plain.device) if follows_all else None


def _stage_input(stage: Stage, run: Run, linear: nn.Linear | None = None, factors: Tensor | None = None) -> Tensor:
    """The stage's input on the probe, with the output of ``linear`` multiplied by ``factors``."""
    seen: list[Tensor] = []

    class Reached(Exception):  # ends a forward that has shown what was wanted
        pass

    def stop(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].clone())
        raise Reached

    handles = [stage.first.register_forward_pre_hook(stop)]
    if linear is not None and factors is not None:
        handles.append(linear.register_forward_hook(lambda _, __, output: output * factors.to(output)))
    with hooks(handles), suppress(Reached):
        run()
    return seen[0]


@contextmanager
def restored(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Undo, when the block is left, whatever happened to the modules' own parameters.

    They are copies inside. So what is written to them never touches the file that weights are mapped from, whose pages
    the system can drop, and a copy's memory is free again behind the block.
    """
    kept = [(p, p.data) for module in modules for p in module.parameters(recurse=False)]
    _put((p, value.clone()) for p, value in kept)
    try:
        yield
    finally:
        _put(kept)


def _put(values: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    for parameter, value in values:
        parameter.data = value
        increment_version(parameter)  # which the assignment does not: who keeps something made of it has to see it


def _is_neutral(fold: Fold, run: Run) -> bool:
    """Whether powers of two, folded in, leave the block's output as it is."""
    before = run()
    scale = torch.tensor([0.5, 1.0, 2.0, 4.0])[torch.arange(fold.size) % 4].to(before.device)
    with restored([fold.module, *fold.stage.linears.values()]):
        apply(fold, scale, {})
        after = run()
    return bool((after != before).to(torch.float32).mean() <= _CHANGED)
