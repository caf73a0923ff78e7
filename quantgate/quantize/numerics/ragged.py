"""Samples of uneven length side by side in one row, without padding: attention sees one sample at a time.

Everything but attention treats tokens alone, so a row of all tokens costs what its tokens cost; a padded batch costs
its longest sample for each. Registered with transformers as the attention implementation ``quantgate-ragged``; samples
of equal length attend together. Each token's numbers are those of its sample alone, up to the order of sums.

Whether a model really mixes tokens in its attention only (no convolutions, no states) is tried, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

NAME: Final = "quantgate-ragged"
_TRIED: Final = (3, 2, 2)  # lengths of the samples the model is tried on
_DIFFERENCE: Final = 0.03  # relative: a few bf16 roundings a block; mixed-up samples differ by more than half

_lengths: Sequence[int] | None = None  # of the samples in the row that a running forward pass reads


@contextmanager
def samples(lengths: Sequence[int] | None) -> Iterator[None]:
    """Within a block, a forward pass reads one row of samples of these lengths (None: an ordinary batch)."""
    global _lengths
    before = _lengths
    _lengths = lengths
    try:
        yield
    finally:
        _lengths = before


def positions(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Position of every token in its sample, int64 ``[1, tokens]``."""
    return torch.cat([torch.arange(length, device=device) for length in lengths]).unsqueeze(0)


@contextmanager
def attention_of(model: Any) -> Iterator[bool]:
    """Within a block the model attends sample by sample, if it can: gives whether it does."""
    config = model.config
    before = config._attn_implementation
    text = config.get_text_config(decoder=True)
    latent = getattr(text, "kv_lora_rank", None) is not None or getattr(text, "attention_chunk_size", None) is not None
    able = bool(getattr(model, "_supports_attention_backend", False)) and model._can_set_attn_implementation()
    if before != "sdpa" or latent or not able:
        yield False
        return
    model.set_attn_implementation(NAME)
    try:
        works = _works(model)
        if not works:
            model.set_attn_implementation(before)
        yield works
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def _works(model: Any) -> bool:
    """Whether a row of samples gives what each sample gives alone."""
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else model
    device = next(model.parameters()).device
    ids = (torch.arange(sum(_TRIED), device=device) * 7 % 31).unsqueeze(0)
    with samples(_TRIED):
        together = decoder(input_ids=ids, position_ids=positions(_TRIED, device), use_cache=False)[0]
    alone = [decoder(input_ids=part, use_cache=False)[0] for part in torch.split(ids, list(_TRIED), 1)]
    expected = torch.cat(alone, 1).to(torch.float32)
    return bool((together.to(torch.float32) - expected).norm() <= _DIFFERENCE * expected.norm())


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The call that transformers makes: query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D]."""
    lengths = _lengths or [query.shape[2]] * query.shape[0]
    if _lengths is None:
        return _alike(module, query, key, value, **kwargs), None
    parts, start = [], 0
    for length, group in groupby(lengths):
        stop = start + length * len(list(group))
        cut = (states[0, :, start:stop] for states in (query, key, value))
        q, k, v = (part.reshape(len(part), -1, length, part.shape[-1]).transpose(0, 1) for part in cut)
        parts.append(_alike(module, q, k, v, **kwargs).flatten(0, 1))
        start = stop
    return torch.cat(parts).unsqueeze(0), None


def _alike(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
    """Causal attention of samples of one length, [B, H, L, D] -> [B, L, H, D]; a window is kept."""
    length, window, mask = query.shape[2], kwargs.get("sliding_window"), None
    if window is not None and length > window:
        distance = torch.arange(length, device=query.device).unsqueeze(1) - torch.arange(length, device=query.device)
        mask = (distance >= 0) & (distance < window)
    found: Tensor = sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]
    return found


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The mask that transformers asks for before the first block: samples are kept apart by the attention itself."""


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _no_mask)
