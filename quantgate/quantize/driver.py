"""Layer by layer through the model: collect what an algorithm needs of a stage's input, quantize the stage, go on.

Calibration activations exist once: the hidden states at one block boundary, for all samples, plus what one block needs
while it runs. Samples are batched by length and padded on the right; attention is causal, so padding cannot reach real
tokens and no mask is needed, and statistics see the real tokens only.

When all samples form one batch, a block is run once: as its forward reaches a stage, the stage is quantized in flight
and the forward goes on with the quantized weights. With several batches each stage is reached by running every batch up
to it, and no further; then the block is run once more for its outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quantgate.errors import MethodError
from quantgate.progress import Progress
from quantgate.quantize.base import Algorithm, LayerResult, Statistics
from quantgate.quantize.calibration import Calibration
from quantgate.quantize.layers import Block, Stage, decoder_blocks, hooks, observe_stages, replace_weight

BATCH_TOKENS: Final = 32_768  # of one batch, padding included: bounds the memory of one block's temporaries
_CACHE_ARGUMENTS: Final = ("past_key_values", "past_key_value", "use_cache", "cache_position")
_REPLAY_COST: Final = 2.2  # forwards of a block that running it stage by stage amounts to (measured on Llama shapes)

Results = dict[str, LayerResult]


class _Stop(Exception):
    """Not an error: raised by a hook, it ends a forward that has shown what was wanted."""


@dataclass
class Batch:
    """Hidden states ``[samples, length, width]`` at the present boundary; ``keep`` marks the real tokens (or None)."""

    hidden: Tensor
    keep: Tensor | None
    arguments: list[dict[str, Any]]  # keyword arguments of every block: masks, position embeddings

    def rows(self, x: Tensor) -> Tensor:
        """The input vectors of the real tokens, ``[n, features]``."""
        flat = x.reshape(-1, x.shape[-1])  # some blocks flatten the samples themselves
        return flat if self.keep is None else flat[self.keep.view(-1)]


def plan_batches(lengths: Sequence[int], budget: int = BATCH_TOKENS) -> list[list[int]]:
    """Indices of the samples of each batch, longest first.

    One batch if it stays within ``budget`` padded tokens and its padding costs less than running stage by stage would;
    otherwise batches of similar length.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    padded = lengths[order[0]] * len(lengths)
    if padded <= budget and padded <= _REPLAY_COST * sum(lengths):
        return [order]
    batches: list[list[int]] = []
    for index in order:
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= budget and lengths[index] * 4 >= longest * 3:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _pad(samples: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    longest = max(len(sample) for sample in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.int64)
    keep = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, sample in enumerate(samples):
        ids[row, : len(sample)] = torch.tensor(sample)
        keep[row, : len(sample)] = True
    return ids.to(device), None if bool(keep.all()) else keep.to(device)


class _StandIn:
    """Takes the place of every block's forward: keeps the arguments, hands the hidden states on, stops at the last."""

    def __init__(self, blocks: Sequence[Block], tuples: bool) -> None:
        self.parameters = list(inspect.signature(blocks[0].module.forward).parameters)
        self.count, self.tuples = len(blocks), tuples
        self.hidden: Tensor | None = None
        self.arguments: list[dict[str, Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        named = dict(zip(self.parameters, args, strict=False)) | kwargs
        hidden = named.pop(self.parameters[0])
        self.hidden = hidden if self.hidden is None else self.hidden
        self.arguments.append({name: value for name, value in named.items() if name not in _CACHE_ARGUMENTS})
        if len(self.arguments) == self.count:
            raise _Stop
        return (hidden,) if self.tuples else hidden


def capture(model: nn.Module, blocks: Sequence[Block], ids: Tensor, keep: Tensor | None) -> Batch:
    """Run everything before the first block once; keep its hidden states and the arguments of every block.

    The blocks are stood in for by functions that hand their input on, so that arguments that differ between blocks
    (sliding windows, local rotary embeddings) are seen without computing any block.
    """
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    stand_in = _StandIn(blocks, _returns_tuple(decoder, blocks[0], ids[:1, :1]))
    before = [vars(block.module).get("forward") for block in blocks]  # set on the instance by other libraries' hooks
    try:
        for block in blocks:
            vars(block.module)["forward"] = stand_in
        with suppress(_Stop):
            decoder(input_ids=ids, use_cache=False)
    finally:
        for block, original in zip(blocks, before, strict=True):
            if original is None:
                del vars(block.module)["forward"]
            else:
                vars(block.module)["forward"] = original
    if stand_in.hidden is None:
        raise MethodError(type(model).__name__, "a forward that called no decoder block", expected="all blocks in turn")
    return Batch(stand_in.hidden, keep, stand_in.arguments)


def _returns_tuple(decoder: Any, block: Block, ids: Tensor) -> bool:
    """Whether a block hands back a tuple (older architectures) or the hidden states themselves."""
    seen: list[bool] = []

    def look(_: nn.Module, __: Any, output: Any) -> None:
        seen.append(isinstance(output, tuple))
        raise _Stop

    with hooks([block.module.register_forward_hook(look)]), suppress(_Stop):
        decoder(input_ids=ids, use_cache=False)
    return seen[0]


def run_block(block: Block, batch: Batch, index: int) -> Tensor:
    """The block's output for a batch of its inputs; ``index`` is the block's place in the model."""
    output: Any = block.module(batch.hidden, **batch.arguments[index])
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


class Sweep:
    """One pass over the blocks of ``model`` with one algorithm; the model's linear weights are replaced on the way."""

    def __init__(self, model: nn.Module, algorithm: Algorithm, who: str, progress: Progress) -> None:
        self.model, self.algorithm, self.who, self.progress = model, algorithm, who, progress
        self.blocks = decoder_blocks(model, who)
        self.device = next(model.parameters()).device

    @torch.no_grad()
    def run(self, calibration: Calibration | None) -> Results:
        """Quantize every block; results by layer name, in the model's order.

        Raises:
            MethodError: the algorithm cannot be applied; names the layers.
        """
        batches = self._batches(calibration) if calibration is not None else []
        probe = capture(self.model, self.blocks, torch.zeros(1, 2, dtype=torch.int64, device=self.device), None)
        results: Results = {}
        for index, block in enumerate(self.blocks):
            self.progress.step(f"{self.who}: quantizing blocks", index, len(self.blocks))
            if batches:
                stages = observe_stages(block, partial(run_block, block, probe, index), self.who)
                results |= self._calibrated(block, index, stages, batches)
            else:
                for name, linear in block.linears.items():
                    results |= self._quantize(Stage({name: linear}), None)
        self.progress.step(f"{self.who}: quantizing blocks", len(self.blocks), len(self.blocks))
        return {name: results[name] for block in self.blocks for name in block.linears}

    def _batches(self, calibration: Calibration) -> list[Batch]:
        samples = [sample for sample in calibration.samples if sample]
        if not samples:
            raise MethodError(self.who, f"calibration set {calibration.name!r} without tokens", expected="text")
        plan = plan_batches([len(sample) for sample in samples])
        padded = [_pad([samples[index] for index in batch], self.device) for batch in plan]
        return [capture(self.model, self.blocks, ids, keep) for ids, keep in padded]

    def _quantize(self, stage: Stage, statistics: Statistics | None) -> Results:
        weights = [linear.weight for linear in stage.linears.values()]
        try:
            found = self.algorithm.quantize(weights, statistics)
        except MethodError as error:
            who = f"{self.who}: {', '.join(stage.names)}"
            raise MethodError(who, error.found, expected=error.expected, hint=error.hint) from error
        for linear, result in zip(stage.linears.values(), found, strict=True):
            replace_weight(linear, result.weight.dequantize(linear.weight.dtype))
        return dict(zip(stage.names, found, strict=True))

    def _calibrated(self, block: Block, index: int, stages: Sequence[Stage], batches: Sequence[Batch]) -> Results:
        """Quantize one block and move the batches to its output boundary."""
        order, last = self.algorithm.order, index + 1 == len(self.blocks)
        untouched = [] if order.block_sequential or last else [run_block(block, batch, index) for batch in batches]
        if order.true_sequential and len(batches) == 1:
            results, outputs = self._in_flight(block, index, stages, batches[0])
        else:
            results, outputs = self._staged(block, index, stages, batches), []
        if not last:
            for batch, hidden in zip(
                batches, untouched or outputs or [run_block(block, batch, index) for batch in batches], strict=True
            ):
                batch.hidden = hidden
        return results

    def _in_flight(
        self, block: Block, index: int, stages: Sequence[Stage], batch: Batch
    ) -> tuple[Results, list[Tensor]]:
        """One forward; each stage is quantized when the forward reaches it. The last block's outputs are not needed."""
        results: Results = {}
        end = stages[-1] if index + 1 == len(self.blocks) else None

        def reach(stage: Stage, x: Tensor) -> None:
            statistics = self._statistics(stage)
            statistics.add(batch.rows(x))
            results.update(self._quantize(stage, statistics))
            if stage is end:
                raise _Stop

        with hooks([_on_input(stage, reach) for stage in stages]):
            try:
                return results, [run_block(block, batch, index)]
            except _Stop:
                return results, []

    def _staged(self, block: Block, index: int, stages: Sequence[Stage], batches: Sequence[Batch]) -> Results:
        """Stage by stage (or all stages at once without true_sequential), every batch run up to the stage."""
        rounds = [[stage] for stage in stages] if self.algorithm.order.true_sequential else [list(stages)]
        results: Results = {}
        for together in rounds:
            for stage, statistics in zip(together, self._collect(block, index, together, batches), strict=True):
                results |= self._quantize(stage, statistics)
        return results

    def _collect(self, block: Block, index: int, stages: Sequence[Stage], batches: Sequence[Batch]) -> list[Statistics]:
        collected = {stage.names: self._statistics(stage) for stage in stages}
        for batch in batches:

            def reach(stage: Stage, x: Tensor, batch: Batch = batch) -> None:
                collected[stage.names].add(batch.rows(x))
                if stage is stages[-1]:
                    raise _Stop

            with hooks([_on_input(stage, reach) for stage in stages]), suppress(_Stop):
                run_block(block, batch, index)
        return list(collected.values())

    def _statistics(self, stage: Stage) -> Statistics:
        statistics = self.algorithm.statistics(stage.first.in_features, self.device)
        if statistics is None:
            raise MethodError(self.who, "calibration for an algorithm that takes none", expected="no calibration set")
        return statistics


def _on_input(stage: Stage, reach: Callable[[Stage, Tensor], None]) -> RemovableHandle:
    """Call ``reach`` when the stage's first layer is about to run."""
    return stage.first.register_forward_pre_hook(lambda _, args: reach(stage, args[0]))
