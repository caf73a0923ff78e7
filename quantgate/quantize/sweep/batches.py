"""Calibration activations: the hidden states at one block boundary, and how a block is run on them.

They exist once, for all samples, with what one block needs while it runs. Where the model allows it, samples lie side
by side in one row (`ragged`). Otherwise they are batched by length and padded on the right; attention is causal, so
padding cannot reach real tokens and no mask is needed, and statistics see the real tokens only.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from quantgate.core.errors import MethodError
from quantgate.models.layers import Block, hooks
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.numerics.ragged import positions, samples

BATCH_TOKENS: Final = 32_768  # of one batch, padding included: bounds the memory of one block's temporaries
_CACHE_ARGUMENTS: Final = ("past_key_values", "past_key_value", "use_cache", "cache_position")
_REPLAY_COST: Final = 2.2  # forwards of a block that running it stage by stage amounts to (measured on Llama shapes)


class Stop(Exception):  # not an error
    """Raised by a hook, it ends a forward that has shown what was wanted."""


@dataclass
class Batch:
    """Hidden states ``[samples, length, width]`` at the present boundary; ``keep`` marks the real tokens (or None).

    ``lengths``: of the samples that lie side by side in one row, ``[1, tokens, width]`` (None: an ordinary batch).
    """

    hidden: Tensor
    keep: Tensor | None
    arguments: list[dict[str, Any]]  # keyword arguments of every block: masks, position embeddings
    lengths: Sequence[int] | None = None

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


def plan_rows(lengths: Sequence[int], budget: int = BATCH_TOKENS) -> list[list[int]]:
    """Indices of the samples of each row, longest first; a row stays within ``budget`` tokens if its first does."""
    rows: list[list[int]] = []
    used = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if not rows or used + lengths[index] > budget:
            rows.append([])
            used = 0
        rows[-1].append(index)
        used += lengths[index]
    return rows


def _pad(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    longest = max(len(text) for text in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.int64)
    keep = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        keep[row, : len(text)] = True
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
            raise Stop
        return (hidden,) if self.tuples else hidden


def capture(
    model: nn.Module,
    blocks: Sequence[Block],
    ids: Tensor,
    keep: Tensor | None = None,
    lengths: Sequence[int] | None = None,
) -> Batch:
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
        placed = {"position_ids": positions(lengths, ids.device)} if lengths else {}
        with samples(lengths), suppress(Stop):
            decoder(input_ids=ids, use_cache=False, **placed)
    finally:
        for block, original in zip(blocks, before, strict=True):
            if original is None:
                del vars(block.module)["forward"]
            else:
                vars(block.module)["forward"] = original
    if stand_in.hidden is None:
        raise MethodError(type(model).__name__, "a forward that called no decoder block", expected="all blocks in turn")
    return Batch(stand_in.hidden, keep, stand_in.arguments, lengths)


def _returns_tuple(decoder: Any, block: Block, ids: Tensor) -> bool:
    """Whether a block hands back a tuple (older architectures) or the hidden states themselves."""
    seen: list[bool] = []

    def look(_: nn.Module, __: Any, output: Any) -> None:
        seen.append(isinstance(output, tuple))
        raise Stop

    with hooks([block.module.register_forward_hook(look)]), suppress(Stop):
        decoder(input_ids=ids, use_cache=False)
    return seen[0]


def run_block(block: Block, batch: Batch, index: int) -> Tensor:
    """The block's output for a batch of its inputs; ``index`` is the block's place in the model."""
    with samples(batch.lengths):
        output: Any = block.module(batch.hidden, **batch.arguments[index])
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def batches_of(
    model: nn.Module,
    blocks: Sequence[Block],
    calibration: Calibration,
    who: str,
    *,
    ragged: bool,
    budget: int | None = None,
) -> list[Batch]:
    """The calibration set at the first block's boundary; ``ragged``: the model attends sample by sample.

    ``budget``: most tokens of a batch, where it is more than one sample (None: what memory allows).

    Raises:
        MethodError: the set has no tokens.
    """
    device = next(model.parameters()).device
    texts = [sample for sample in calibration.samples if sample]
    if not texts:
        raise MethodError(who, f"calibration set {calibration.name!r} without tokens", expected="text")
    lengths, most = [len(sample) for sample in texts], (budget,) if budget else ()
    if ragged:
        rows = [[texts[index] for index in row] for row in plan_rows(lengths, *most)]
        ids = [torch.tensor([[token for sample in row for token in sample]], device=device) for row in rows]
        return [capture(model, blocks, each, None, [len(x) for x in row]) for each, row in zip(ids, rows, strict=True)]
    padded = [_pad([texts[index] for index in batch], device) for batch in plan_batches(lengths, *most)]
    return [capture(model, blocks, ids, keep) for ids, keep in padded]
