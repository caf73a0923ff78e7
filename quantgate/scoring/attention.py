"""Attention over shared prefixes, without copying keys and values for every row and every query head.

Registered with transformers as the attention implementation ``quantgate`` and used in place of ``sdpa`` while an engine
runs. It computes the same sums in another order:

- Query heads that share a key head (grouped-query attention) are laid side by side as queries of that head;
  transformers would copy the keys for each of them as soon as there is a mask.
- Rows that continue the same trunk attend to it together, as one long row and without a mask; the result is merged with
  the row's own part by their log-sum-exps (Hydragen, arXiv 2402.05099). Exact up to rounding.

Where the CPU's flash kernel is missing or the shapes do not suit it, transformers' own ``sdpa`` is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from quantgate.scoring.cache import PrefixCache

NAME: Final = "quantgate"
_FLASH: Final = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_last_bias: tuple[Tensor, int, Tensor] | None = None
_shared: PrefixCache | None = None  # the cache whose prefixes the running forward pass attends to


def available(model: Any, device: torch.device) -> bool:
    """Whether this model's attention can be replaced on this device."""
    latent = getattr(model.config.get_text_config(), "kv_lora_rank", None)  # keys and values of different size
    return (
        _FLASH is not None
        and latent is None
        and device.type == "cpu"
        and model.config.get_text_config()._attn_implementation == "sdpa"
        and bool(getattr(model, "_supports_attention_backend", False))
        and bool(model._can_set_attn_implementation())
    )


@contextmanager
def replaced(model: Any) -> Iterator[None]:
    """Use this attention within a block, and the model's own again after it."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def sharing(cache: PrefixCache | None) -> Iterator[None]:
    """Within a block (one forward pass), rows also attend to their prefixes in ``cache``."""
    global _shared, _last_bias
    _shared = cache
    try:
        yield
    finally:
        _shared = _last_bias = None


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The call that transformers makes: query [B, H, L, D], key and value [B, K, S, D] -> [B, L, H, D]."""
    if _shared is None and (attention_mask is None or query.shape[-1] != value.shape[-1] or "position_bias" in kwargs):
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    assert _FLASH is not None
    assert attention_mask is not None
    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    grouped = query.reshape(batch, kv_heads, group * length, size)
    bias = _additive(attention_mask, query.dtype, group)
    output, logsumexp = _FLASH(grouped, key, value, attn_mask=bias, scale=scaling)
    if _shared is not None:
        _add_prefixes(_shared, int(module.layer_idx), grouped, output, logsumexp, scaling)  # type: ignore[arg-type]
    output = output.reshape(batch, heads, length, size)
    return output.transpose(1, 2).contiguous(), None


def _additive(mask: Tensor, dtype: torch.dtype, group: int) -> Tensor:
    """The mask as a bias for ``group`` query heads side by side; made once for all layers of a forward pass."""
    global _last_bias
    if _last_bias is None or _last_bias[0] is not mask or _last_bias[1] != group:
        bias = mask
        if mask.dtype == torch.bool:
            bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)
        _last_bias = (mask, group, bias.repeat(1, 1, group, 1))
    return _last_bias[2]


def _add_prefixes(
    cache: PrefixCache, layer: int, query: Tensor, output: Tensor, logsumexp: Tensor, scaling: float | None
) -> None:
    """Merge attention to the prefixes into ``output`` [B, K, Q, D] with its ``logsumexp`` [B, K, Q] in place."""
    assert _FLASH is not None
    _, heads, queries, size = query.shape
    for start, stop, prefix in cache.spans:
        keys, values = prefix.layers[layer]
        rows = stop - start
        flat = query[start:stop].transpose(0, 1).reshape(1, heads, rows * queries, size)
        seen, seen_logsumexp = _FLASH(flat, keys, values, scale=scaling)
        seen = seen.view(heads, rows, queries, size).transpose(0, 1)
        weight = seen_logsumexp.view(heads, rows, queries).transpose(0, 1) - logsumexp[start:stop]
        # In bf16 the rounded weight costs no more than the rounding of the result itself.
        output[start:stop].lerp_(seen, weight.sigmoid_()[..., None].to(output.dtype))


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
