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

    The zeros are never attended to (the mask hides them), but must not be NaN: 0 x NaN is NaN.
    """

    def __init__(self, rows: Sequence[tuple[Tensor, Tensor] | None], width: int) -> None:
        super().__init__()
        self.rows, self.width = rows, width
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, kv_heads, L, head_dim] to the prefixes; returns [B, kv_heads, width + L, head_dim] twice."""
        self.keys = self._joined(key_states, 0)
        self.values = self._joined(value_states, 1)
        return self.keys, self.values

    def _joined(self, states: Tensor, which: int) -> Tensor:
        batch, heads, length, size = states.shape
        joined = states.new_empty(batch, heads, self.width + length, size)
        joined[:, :, self.width :] = states
        start = 0
        while start < batch:  # neighbouring rows mostly share their prefix: one broadcast copy for all of them
            row, stop = self.rows[start], start + 1
            while stop < batch and self.rows[stop] is row:
                stop += 1
            known = 0 if row is None else row[which].shape[2]
            if row is not None:
                joined[start:stop, :, :known] = row[which]
            joined[start:stop, :, known : self.width] = 0
            start = stop
        return joined

    def get_seq_length(self) -> int:
        """Tokens before the ones being read (transformers asks before it updates)."""
        return self.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of keys after the update, and their offset."""
        return self.width + query_length, 0


class PrefixCache(Cache):  # type: ignore[misc]
    """Cache of one forward pass over B rows, row ``i`` continuing ``prefixes[i]`` (None: starts at 0)."""

    def __init__(self, prefixes: Sequence[Prefix | None], n_layers: int) -> None:
        self.width = max((prefix.length for prefix in prefixes if prefix is not None), default=0)
        columns = [
            [None if prefix is None else prefix.layers[layer] for prefix in prefixes] for layer in range(n_layers)
        ]
        super().__init__(layers=[_PrefixLayer(column, self.width) for column in columns])

    def prefix_of(self, row: int, slots: Tensor, before: int) -> Prefix:
        """Keep one row: its prefix of ``before`` tokens and the row's tokens at ``slots`` (int64 [n]), copied."""
        take = torch.cat([torch.arange(before, device=slots.device), slots + self.width])
        layers = tuple(
            (layer.keys[row : row + 1].index_select(2, take), layer.values[row : row + 1].index_select(2, take))
            for layer in self.layers
        )
        return Prefix(layers, len(take))


class GrowingCache(Cache):  # type: ignore[misc]
    """Cache of a running generation: rows aligned at their last token, padded on the left, room to grow."""

    def __init__(self, prefixes: Sequence[Prefix], room: int) -> None:
        length = max(prefix.length for prefix in prefixes)
        layers = [
            _GrowingLayer([prefix.layers[layer] for prefix in prefixes], length, room)
            for layer in range(len(prefixes[0].layers))
        ]
        super().__init__(layers=layers)

    def select(self, rows: Tensor, drop: int) -> None:
        """Keep only ``rows`` (int64), and forget the first ``drop`` columns, which are padding in all of them."""
        for layer in self.layers:
            layer.select(rows, drop)

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

    def select(self, rows: Tensor, drop: int) -> None:
        """Keep ``rows`` and all columns from ``drop`` on."""
        self.key_store = self.key_store[rows, :, drop:]
        self.value_store = self.value_store[rows, :, drop:]
        self.length -= drop

    def get_seq_length(self) -> int:
        """Columns in use, padding included."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of keys after the update, and their offset."""
        return self.length + query_length, 0
