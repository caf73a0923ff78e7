"""Attention over shared prefixes, without copying keys and values for every row and every query head.

Registered with transformers as the attention implementation ``quantgate`` and used in place of ``sdpa`` while an engine
runs. It computes the same sums in another order:

- Query heads that share a key head (grouped-query attention) are laid side by side as queries of that head;
  transformers would copy the keys for each of them as soon as there is a mask.
- Rows that continue the same trunk attend to it together, as one long row and without a mask; the result is merged with
  the row's own part by their log-sum-exps (Hydragen, arXiv 2402.05099). Exact up to rounding.
- Key counts are made multiples of a vector's length, on which the kernel is a fifth to a half faster: the last few keys
  of a trunk go with the rows' own ones, and those are filled up with masked zeros.
- Long rows are cut into blocks of queries, none of which computes scores for the keys after it.

The kernels that give the log-sum-exp are the CPU's flash kernel and, on CUDA, the memory-efficient one, which takes a
bias; each is tried before it is believed. Where there is none, or the shapes do not suit it, transformers' own ``sdpa``
is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from quantgate.engines.torch.cache import LANES, GrowingCache, PrefixCache

NAME: Final = "quantgate"
CUDA_VERSION: Final = 1
"""Counts up whenever answers could change on CUDA alone."""
_FLASH: Final = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_LIMITS: Final = {"cpu": 1e-4, "cuda": 1e-3}  # of the trial in float32; TF32 may be on
_EFFICIENT: Final = getattr(torch.ops.aten, "_scaled_dot_product_efficient_attention", None)
_BLOCK: Final = 128  # queries


def available(model: Any, device: torch.device) -> bool:
    """Whether this model's attention can be replaced on this device."""
    latent = getattr(model.config.get_text_config(), "kv_lora_rank", None)  # keys and values of different size
    return (
        _has_kernel(device, model.dtype)
        and latent is None
        and model.config.get_text_config()._attn_implementation == "sdpa"
        and bool(getattr(model, "_supports_attention_backend", False))
        and bool(model._can_set_attn_implementation())
    )


@cache
def _has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a kernel with a bias and the log-sum-exp for this device, and it computes what it should."""
    if device.type not in _KERNELS or (_FLASH is None and device.type == "cpu"):
        return False
    states = torch.linspace(-1, 1, 2 * 2 * 5 * 16).view(2, 2, 5, 16).to(device, dtype)
    keys = torch.cat([states.flip(2), states], dim=2).contiguous()[:, :, :LANES]
    keys = torch.nn.functional.pad(keys, (0, 0, 0, LANES - keys.shape[2]))
    bias = torch.zeros(2, 1, 5, LANES, dtype=dtype, device=device)
    bias[..., 3:5] = bias[..., 10:] = -torch.inf
    try:
        found, sums = _KERNELS[device.type](states, keys, keys, bias, None)
    except (RuntimeError, NotImplementedError, TypeError, AssertionError):
        return False
    scores = states.float() @ keys.float().transpose(2, 3) / 4 + bias
    wanted = scores.softmax(-1) @ keys.float()
    limit = _LIMITS[device.type] if dtype == torch.float32 else 0.05
    near = (found.float() - wanted).abs().max() <= limit, (sums - scores.logsumexp(-1)).abs().max() <= limit
    return all(map(bool, near))


@contextmanager
def replaced(model: Any) -> Iterator[None]:
    """Use this attention within a block, and the model's own again after it."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class _Pass:
    """One forward pass: the prefixes its rows continue, and its masks as biases, made once for all layers.

    Attributes:
        cache: the cache whose prefixes the rows attend to, or None.
        tails: per span of the cache, how many last keys of its prefix go with the rows' own keys.
        before: columns that the rows' own keys start after (the longest tail).
    """

    def __init__(self, cache: PrefixCache | GrowingCache | None) -> None:
        self.cache = cache
        self.tails = [prefix.length % LANES for _, _, prefix in cache.spans] if cache is not None else []
        self.before = max(self.tails, default=0)
        self._biases: dict[tuple[int, int], tuple[Tensor, list[Tensor]]] = {}

    def width(self, keys: int) -> int:
        """Columns for a row's ``keys`` own keys, with the tail before and the zeros after them."""
        return -(-(self.before + keys) // LANES) * LANES

    def own(self, states: Tensor, layer: int, which: int) -> Tensor:
        """Keys (``which`` 0) or values (1), [B, K, S, D] -> [B, K, width, D]."""
        batch, heads, length, size = states.shape
        if self.width(length) == length:
            return states
        joined = states.new_zeros(batch, heads, self.width(length), size)
        joined[:, :, self.before : self.before + length] = states
        if self.cache is not None:
            for (start, stop, prefix), tail in zip(self.cache.spans, self.tails, strict=True):
                joined[start:stop, :, :tail] = prefix.layers[layer][which][:, :, prefix.length - tail :]
        return joined

    def biases(self, mask: Tensor | None, dtype: torch.dtype, group: int) -> Sequence[Tensor | None]:
        """``mask`` [B, 1, L, S] as a bias per block of queries, for ``group`` query heads side by side."""
        if mask is None:  # a step in which no row is padded
            return [None]
        key = (id(mask), group)
        if key not in self._biases:
            bias = mask
            if mask.dtype == torch.bool:
                bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)
            blocks = [bias] if self.is_step(mask.shape[2]) else _blocks(self._filled(bias))
            # The mask is held as well: another one must not get its id.
            self._biases[key] = (mask, [block.repeat(1, 1, group, 1) for block in blocks])
        return self._biases[key][1]

    def is_step(self, length: int) -> bool:
        """Whether this is a step of a generation: memory-bound, so that copying its keys would cost most."""
        return length == 1 and not self.before

    def _filled(self, bias: Tensor) -> Tensor:
        rows, _, queries, keys = bias.shape
        filled = bias.new_full((rows, 1, queries, self.width(keys)), -torch.inf)
        filled[..., self.before : self.before + keys] = bias
        if self.cache is not None:
            for (start, stop, _), tail in zip(self.cache.spans, self.tails, strict=True):
                filled[start:stop, ..., :tail] = 0
        return filled


def _on_cpu(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float | None
) -> tuple[Tensor, Tensor]:
    assert _FLASH is not None
    output, logsumexp = _FLASH(query, key, value, attn_mask=bias, scale=scaling)
    return output, logsumexp


def _on_cuda(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float | None
) -> tuple[Tensor, Tensor]:
    assert _EFFICIENT is not None
    if bias is not None:
        missing = -bias.shape[-1] % LANES  # it reads whole vectors, of which the last may be no keys
        bias = torch.nn.functional.pad(bias, (0, missing))[..., : key.shape[2]] if missing else bias
        bias = bias.expand(*query.shape[:3], key.shape[2])
    output, logsumexp, *_ = _EFFICIENT(query, key, value, bias, True, scale=scaling)
    return output, logsumexp[..., : query.shape[2]]  # it is filled up to whole blocks of queries


_KERNELS: Final = {"cpu": _on_cpu, "cuda": _on_cuda}
"""By device: queries [B, H, L, D] over keys and values [B, H, S, D] with a bias [B, 1, L, S] or None: output, and
log-sum-exp [B, H, L] in float32."""


_pass: _Pass | None = None  # the running forward pass


@contextmanager
def sharing(cache: PrefixCache | GrowingCache | None) -> Iterator[None]:
    """Within a block (one forward pass), rows also attend to their prefixes in ``cache``."""
    global _pass
    _pass = _Pass(cache)
    try:
        yield
    finally:
        _pass = None


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
    now = _pass or _Pass(None)
    on_cpu = query.device.type == "cpu"
    suited = on_cpu and query.shape[-1] == value.shape[-1] and kwargs.get("position_bias") is None
    if now.cache is None and attention_mask is None and suited and _is_causal(module, query, key, kwargs):
        return _causal(query, key, value, scaling), None
    if now.cache is None and (attention_mask is None or not suited):
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, length, size)
    biases = now.biases(attention_mask, query.dtype, heads // kv_heads)
    layer = int(module.layer_idx) if now.cache is not None else 0  # type: ignore[arg-type]
    if not now.is_step(length):
        assert attention_mask is not None
        key, value = now.own(key, layer, 0), now.own(value, layer, 1)
    output, logsumexp = _by_block(grouped, key, value, biases, scaling)
    if now.cache is not None:
        _add_prefixes(now.cache, layer, grouped, output, logsumexp, scaling)
    return output.reshape(batch, heads, length, size).transpose(1, 2).contiguous(), None


def _is_causal(module: torch.nn.Module, query: Tensor, key: Tensor, given: dict[str, Any]) -> bool:
    """Whether a call without a mask is a causal one over whole sequences, as transformers decides it."""
    asked = given.get("is_causal")
    return query.shape[2] == key.shape[2] > 1 and bool(getattr(module, "is_causal", True) if asked is None else asked)


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Query [B, H, L, D], key and value [B, K, L, D] -> [B, L, H, D]; zeros after the last key are not looked at."""
    assert _FLASH is not None
    missing = -key.shape[2] % LANES
    if missing:
        key, value = (torch.nn.functional.pad(states, (0, 0, 0, missing)) for states in (key, value))
    output: Tensor = _FLASH(query, key, value, is_causal=True, scale=scaling)[0]
    return output.transpose(1, 2).contiguous()


def _flash(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float | None
) -> tuple[Tensor, Tensor]:
    """Queries [B, K, G, L, D] over keys [B, K, S, D]: output [B, K, G, L, D], log-sum-exp [B, K, G, L] (float32)."""
    output, logsumexp = _KERNELS[query.device.type](query.flatten(2, 3), key, value, bias, scaling)
    return output.view(query.shape), logsumexp.reshape(query.shape[:-1])


def _by_block(
    query: Tensor, key: Tensor, value: Tensor, biases: Sequence[Tensor | None], scaling: float | None
) -> tuple[Tensor, Tensor]:
    """Attention of each block of queries to the keys that its bias covers, put together again."""
    if len(biases) == 1:
        return _flash(query, key, value, biases[0], scaling)
    outputs, sums = [], []
    for queries, bias in zip(torch.split(query, _BLOCK, dim=3), biases, strict=True):
        assert bias is not None
        seen = bias.shape[-1]
        output, logsumexp = _flash(queries, key[:, :, :seen], value[:, :, :seen], bias, scaling)
        outputs.append(output)
        sums.append(logsumexp)
    return torch.cat(outputs, dim=3), torch.cat(sums, dim=3)


def _blocks(bias: Tensor) -> list[Tensor]:
    """``bias`` [B, 1, L, W] by block of queries, without the last columns, which no query of the block sees."""
    blocks = torch.split(bias, _BLOCK, dim=2)
    if len(blocks) <= 2:  # they would save less than their copies cost
        return [bias]
    found = []
    for block in blocks:
        seen = (block > -torch.inf).flatten(0, 2).any(dim=0).nonzero()
        last = int(seen.max()) if len(seen) else 0
        found.append(block[..., : (last // LANES + 1) * LANES])
    return found


def _add_prefixes(
    cache: PrefixCache | GrowingCache,
    layer: int,
    query: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    scaling: float | None,
) -> None:
    """Merge attention to the prefixes into ``output`` [B, K, G, L, D] with its ``logsumexp`` [B, K, G, L] in place."""
    _, kv_heads, *shape, size = query.shape
    for start, stop, prefix in cache.spans:
        whole = prefix.length - prefix.length % LANES
        if not whole:
            continue
        keys, values = (states[:, :, :whole] for states in prefix.layers[layer])
        flat = query[start:stop].transpose(0, 1).reshape(1, kv_heads, stop - start, -1, size)
        seen, seen_logsumexp = _flash(flat, keys, values, None, scaling)
        seen = seen.view(kv_heads, stop - start, *shape, size).transpose(0, 1)
        weight = seen_logsumexp.view(kv_heads, stop - start, *shape).transpose(0, 1) - logsumexp[start:stop]
        # In bf16 the rounded weight costs no more than the rounding of the result itself.
        output[start:stop].lerp_(seen, weight.sigmoid_()[..., None].to(output.dtype))


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
