"""Keys and values kept between forward passes, and the cache objects that feed them to a transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of one sequence's first ``length`` tokens.

    Attributes:
        layers: per layer keys and values, each [1, kv_heads, length, head_dim] in the model's dtype.
        length: number of tokens.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    length: int


class _PrefixLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """One layer: every row's prefix, left-aligned and zero-filled up to ``width``, then the row's own tokens.

    The zeros are never attended to (the mask hides them), but must not be NaN: 0 x NaN is NaN. With ``width`` 0 only
    the own tokens are held: then the attention function looks the prefixes up itself.
    """

    def __init__(self, spans: Sequence[tuple[int, int, tuple[Tensor, Tensor]]], width: int) -> None:
        super().__init__()
        self.spans, self.width = spans, width
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, kv_heads, L, head_dim] to the prefixes; returns [B, kv_heads, width + L, head_dim] twice."""
        self.keys = self._joined(key_states, 0)
        self.values = self._joined(value_states, 1)
        return self.keys, self.values

    def _joined(self, states: Tensor, which: int) -> Tensor:
        if not self.width:
            return states
        batch, heads, length, size = states.shape
        joined = states.new_zeros(batch, heads, self.width + length, size)
        joined[:, :, self.width :] = states
        for start, stop, prefix in self.spans:  # one broadcast copy for all rows of a trunk
            joined[start:stop, :, : prefix[which].shape[2]] = prefix[which]
        return joined

    def get_seq_length(self) -> int:
        """Tokens before the ones being read (transformers asks before it updates)."""
        return self.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of keys after the update, and their offset."""
        return self.width + query_length, 0


class PrefixCache(Cache):  # type: ignore[misc]
    """Cache of one forward pass over B rows, row ``i`` continuing ``prefixes[i]`` (None: starts at 0).

    Attributes:
        spans: neighbouring rows with the same prefix, as (first row, one past the last, prefix).
        width: columns of prefix in every row; 0 where the attention function reads the prefixes from ``spans``.
    """

    def __init__(self, prefixes: Sequence[Prefix | None], n_layers: int, *, shared: bool) -> None:
        self.prefixes = prefixes
        self.spans: list[tuple[int, int, Prefix]] = []
        for row, prefix in enumerate(prefixes):
            if prefix is None:
                continue
            if self.spans and self.spans[-1][1] == row and self.spans[-1][2] is prefix:
                self.spans[-1] = (self.spans[-1][0], row + 1, prefix)
            else:
                self.spans.append((row, row + 1, prefix))
        self.width = 0 if shared else max((prefix.length for _, _, prefix in self.spans), default=0)
        super().__init__(
            layers=[
                _PrefixLayer([(start, stop, prefix.layers[at]) for start, stop, prefix in self.spans], self.width)
                for at in range(n_layers)
            ]
        )

    def prefix_of(self, row: int, slots: Tensor) -> Prefix:
        """Keep one row: its prefix and the row's own tokens at ``slots`` (int64 [n]), copied."""
        before = self.prefixes[row]
        layers = []
        for at, layer in enumerate(self.layers):
            own = [states[row : row + 1].index_select(2, slots + self.width) for states in (layer.keys, layer.values)]
            if before is not None:
                own = [torch.cat([old, new], dim=2) for old, new in zip(before.layers[at], own, strict=True)]
            layers.append((own[0], own[1]))
        return Prefix(tuple(layers), len(slots) + (0 if before is None else before.length))


class GrowingCache(Cache):  # type: ignore[misc]
    """Cache of a running generation: rows aligned at their last token, padded on the left, room to grow."""

    def __init__(self, prefixes: Sequence[Prefix], room: int) -> None:
        length = max(prefix.length for prefix in prefixes)
        layers = [
            _GrowingLayer([prefix.layers[layer] for prefix in prefixes], length, room)
            for layer in range(len(prefixes[0].layers))
        ]
        super().__init__(layers=layers)

    def prefix_of(self, row: int, length: int) -> Prefix:
        """The last ``length`` tokens of one row, as views."""
        layers = []
        for layer in self.layers:
            span = slice(layer.length - length, layer.length)
            layers.append((layer.key_store[row : row + 1, :, span], layer.value_store[row : row + 1, :, span]))
        return Prefix(tuple(layers), length)


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer of a :class:`GrowingCache`: appends in place instead of copying everything at each step."""

    def __init__(self, rows: Sequence[tuple[Tensor, Tensor]], length: int, room: int) -> None:
        super().__init__()
        self.length = length
        self.key_store = self._stacked([row[0] for row in rows], room)
        self.value_store = self._stacked([row[1] for row in rows], room)
        self.is_initialized = True

    def _stacked(self, rows: Sequence[Tensor], room: int) -> Tensor:
        _, heads, _, size = rows[0].shape
        store = rows[0].new_zeros(len(rows), heads, self.length + room, size)
        for index, row in enumerate(rows):
            store[index, :, self.length - row.shape[2] : self.length] = row[0]
        return store

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, kv_heads, L, head_dim]; returns views [B, kv_heads, length + L, head_dim]."""
        stop = self.length + key_states.shape[2]
        if stop > self.key_store.shape[2]:
            self._grow(stop)
        self.key_store[:, :, self.length : stop] = key_states
        self.value_store[:, :, self.length : stop] = value_states
        self.length = stop
        self.keys, self.values = self.key_store[:, :, :stop], self.value_store[:, :, :stop]
        return self.keys, self.values

    def _grow(self, needed: int) -> None:
        batch, heads, _, size = self.key_store.shape
        extra = max(needed - self.key_store.shape[2], self.length // 4 + 32)
        self.key_store = torch.cat([self.key_store, self.key_store.new_zeros(batch, heads, extra, size)], dim=2)
        size = self.value_store.shape[3]
        self.value_store = torch.cat([self.value_store, self.value_store.new_zeros(batch, heads, extra, size)], dim=2)

    def get_seq_length(self) -> int:
        """Columns in use, padding included."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of keys after the update, and their offset."""
        return self.length + query_length, 0
