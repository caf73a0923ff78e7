"""Keys and values kept between forward passes, and the cache objects that feed them to a transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

LANES: Final = 16  # keys that the CPU's flash kernel takes at a time; what it does with a rest is slow
_WORTH_SHARING: Final = 1024  # keys a step need not read again for want of a copy; fewer do not pay for the merge


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of one sequence's first ``length`` tokens.

    Attributes:
        layers: per layer keys and values, each [1, kv_heads, length, head_dim] in the model's dtype.
        length: number of tokens.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    length: int

    def cut(self, start: int, stop: int) -> Prefix:
        """Tokens ``start`` up to ``stop``, as views."""
        layers = tuple((keys[:, :, start:stop], values[:, :, start:stop]) for keys, values in self.layers)
        return Prefix(layers, stop - start)


@dataclass(frozen=True, slots=True)
class Grown:
    """Keys and values of a prompt that is being continued.

    Attributes:
        trunk: number of the trunk it continues; rows of one trunk can attend to it together.
        common: the trunk's tokens as far as they fill whole vectors, or None where the row holds everything itself.
        own: the tokens after them.
    """

    trunk: int
    common: Prefix | None
    own: Prefix

    @property
    def before(self) -> int:
        """Tokens held in common."""
        return self.common.length if self.common is not None else 0


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

    def prefix_of(self, row: int, slots: Tensor, skip: int = 0) -> Prefix:
        """One row: its prefix from token ``skip`` on, and its own tokens at ``slots`` (int64 [n]), copied."""
        before = self.prefixes[row]
        before = None if before is None else before.cut(skip, before.length)
        layers = []
        for at, layer in enumerate(self.layers):
            own = [states[row : row + 1].index_select(2, slots + self.width) for states in (layer.keys, layer.values)]
            if before is not None:
                own = [torch.cat([old, new], dim=2) for old, new in zip(before.layers[at], own, strict=True)]
            layers.append((own[0], own[1]))
        return Prefix(tuple(layers), len(slots) + (0 if before is None else before.length))

    def grown(self, row: int, slots: Tensor, trunk: int) -> Grown:
        """One row's prefix, which is trunk number ``trunk``, and its own tokens at ``slots``, to be continued."""
        before = self.prefixes[row]
        length = before.length // LANES * LANES if before is not None and not self.width else 0
        common = before.cut(0, length) if before is not None and length else None
        return Grown(trunk, common, self.prefix_of(row, slots, skip=length))


class GrowingCache(Cache):  # type: ignore[misc]
    """Cache of a running generation: rows aligned at their last token, padded on the left, room to grow.

    Attributes:
        spans: neighbouring rows that attend to a prefix together, as (first row, one past the last, prefix).
        outside: per row, the number of its tokens that lie in such a prefix.
    """

    def __init__(self, rows: Sequence[Grown], room: int) -> None:
        super().__init__(layers=[_GrowingLayer(room) for _ in rows[0].own.layers])
        self.compose(rows)

    def compose(self, rows: Sequence[Grown]) -> None:
        """Hold these rows from now on: first those that go on, in the order they had, then new ones."""
        self.spans = _worth_sharing(rows)
        self.outside = [0] * len(rows)
        for start, stop, common in self.spans:
            self.outside[start:stop] = [common.length] * (stop - start)
        pieces = [
            [row.own] if row.common is None or outside else [row.common, row.own]
            for row, outside in zip(rows, self.outside, strict=True)
        ]
        length = max(sum(piece.length for piece in mine) for mine in pieces)
        for at, layer in enumerate(self.layers):
            layer.compose([[piece.layers[at] for piece in mine] for mine in pieces], length)

    def last_of(self, row: int, length: int) -> Prefix:
        """The last ``length`` tokens of one row, as views."""
        layers = []
        for layer in self.layers:
            span = slice(layer.length - length, layer.length)
            layers.append((layer.key_store[row : row + 1, :, span], layer.value_store[row : row + 1, :, span]))
        return Prefix(tuple(layers), length)


def _worth_sharing(rows: Sequence[Grown]) -> list[tuple[int, int, Prefix]]:
    """Neighbours of one trunk that are many enough, or its tokens."""
    spans: list[tuple[int, int, Prefix]] = []
    for _, group in groupby(enumerate(rows), key=lambda numbered: numbered[1].trunk):
        mine = list(group)
        (first, row), count = mine[0], len(mine)
        if row.common is not None and (count - 1) * row.before >= _WORTH_SHARING:
            spans.append((first, first + count, row.common))
    return spans


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer of a :class:`GrowingCache`: appends in place instead of copying everything at each step.

    The stores have more rows and columns than are in use; memory that was never written costs nothing.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.rows, self.length = room, 0, 0
        self.key_store = self.value_store = torch.empty(0, 0, 0, 0)
        self.is_initialized = True

    def compose(self, rows: Sequence[Sequence[tuple[Tensor, Tensor]]], length: int) -> None:
        """Hold each row's pieces, keys and values [1, kv_heads, n, head_dim], the last one ending at ``length``."""
        self.key_store = _placed(self.key_store, [[piece[0] for piece in row] for row in rows], length, self.room)
        self.value_store = _placed(self.value_store, [[piece[1] for piece in row] for row in rows], length, self.room)
        self.rows, self.length = len(rows), length

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, kv_heads, L, head_dim]; returns views [B, kv_heads, length + L, head_dim]."""
        stop = self.length + key_states.shape[2]
        if stop > self.key_store.shape[2]:
            more = (0, 0, 0, stop - self.key_store.shape[2] + self.room)
            self.key_store, self.value_store = (
                torch.nn.functional.pad(store, more) for store in (self.key_store, self.value_store)
            )
        self.key_store[: self.rows, :, self.length : stop] = key_states
        self.value_store[: self.rows, :, self.length : stop] = value_states
        self.length = stop
        self.keys, self.values = (store[: self.rows, :, :stop] for store in (self.key_store, self.value_store))
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Columns in use, padding included."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of keys after the update, and their offset."""
        return self.length + query_length, 0


def _placed(store: Tensor, rows: Sequence[Sequence[Tensor]], length: int, room: int) -> Tensor:
    """``store`` with every row's pieces ending at ``length`` and zeros before them; a new one where they do not fit.

    Pieces may be views of the store, of the same or a later row. Nothing attends to the zeros, but 0 x NaN is NaN.
    """
    _, heads, _, size = rows[0][0].shape
    if len(rows) > store.shape[0] or length >= store.shape[2]:
        store = rows[0][0].new_empty(len(rows), heads, length + room, size)
    for index, row in enumerate(rows):
        stop = length
        for piece in reversed(row):
            start = stop - piece.shape[2]
            target = store[index, :, start:stop]
            if target.data_ptr() != piece.data_ptr():
                target.copy_(piece[0].clone())  # it may overlap its new place
            stop = start
        store[index, :, :stop] = 0
    return store
