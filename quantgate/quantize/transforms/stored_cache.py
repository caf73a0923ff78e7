"""Keys and values kept as integer codes (KIVI, Liu et al. 2024, arXiv 2402.02750): smaller, not simulated.

Keys have their outliers in channels, so a channel shares a range over ``group_size`` tokens; values are quantized token
by token, in runs of ``group_size`` channels. Asymmetric: ``code = round((x - min) / scale)``; ``min`` and ``scale`` are
kept in the model's dtype. The newest tokens stay as they are: up to ``residual - 1`` keys, which become codes
``residual`` at a time, and the last ``residual`` values. Codes lie in bytes, 8, 4, or 2 bits each.

As in the authors' code a prompt is attended to with its own keys and values, and what it leaves in the cache is codes.
Before attention, codes of one layer are widened to the model's dtype; there is no kernel here that reads them directly.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from quantgate.core.errors import MethodError
from quantgate.quantize.settings import StoredCacheSettings

_BYTE: Final = 8


class Codes:
    """A tensor as codes, with a range for every run of ``size`` entries of its last dimension."""

    def __init__(self, values: Tensor, bits: int, size: int) -> None:
        runs = values.reshape(*values.shape[:-1], -1, size)
        self.low = runs.amin(-1, keepdim=True)
        self.scale = (runs.amax(-1, keepdim=True) - self.low) / (2**bits - 1)
        steps = torch.where(self.scale == 0, torch.zeros_like(runs), (runs - self.low) / self.scale)
        self.bits, self.packed = bits, _packed(steps.round_().clamp_(0, 2**bits - 1).to(torch.uint8).flatten(-2), bits)

    def values(self) -> Tensor:
        """The numbers that the codes stand for."""
        codes = _unpacked(self.packed, self.bits).to(self.low.dtype)
        runs = codes.view(*codes.shape[:-1], self.low.shape[-2], -1)
        return torch.addcmul(self.low, runs, self.scale).flatten(-2)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and ranges."""
        return int(self.packed.nbytes + self.low.nbytes + self.scale.nbytes)


def _packed(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes ``[..., n]`` as bytes ``[..., n * bits / 8]``, low bits first."""
    parts = codes.reshape(*codes.shape[:-1], -1, _BYTE // bits)
    found = parts[..., 0].clone()
    for at in range(1, _BYTE // bits):
        found |= parts[..., at] << (bits * at)
    return found


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    parts = [(packed >> (bits * at)) & (2**bits - 1) for at in range(_BYTE // bits)]
    return torch.stack(parts, -1).flatten(-2)


class StoredLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """One layer's keys and values, ``[batch, heads, tokens, channels]`` where they are numbers.

    ``keys`` and ``values`` are the newest tokens; `coded_keys`, with tokens last, and `coded_values` the others.
    """

    is_croppable = False

    def __init__(self, settings: StoredCacheSettings) -> None:
        super().__init__()
        self.settings, self.length = settings, 0
        self.keys: Tensor
        self.values: Tensor
        self.coded_keys: Codes | None = None
        self.coded_values: Codes | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take in new tokens; gives all keys and values, the older ones as their codes say."""
        if not self.is_initialized:
            self._check(key_states.shape[-1])
            self.lazy_initialization(key_states, value_states)
        self.length += key_states.shape[-2]
        self.keys = torch.cat([self.keys, key_states], -2) if self.keys.numel() else key_states
        self.values = torch.cat([self.values, value_states], -2) if self.values.numel() else value_states
        found = self._all()
        self._store()
        return found

    def _all(self) -> tuple[Tensor, Tensor]:
        keys, values = self.keys, self.values
        if self.coded_keys is not None:
            keys = torch.cat([self.coded_keys.values().transpose(-1, -2), keys], -2)
        if self.coded_values is not None:
            values = torch.cat([self.coded_values.values(), values], -2)
        return keys, values

    def _store(self) -> None:
        """What is no longer among the newest becomes codes."""
        settings = self.settings
        if whole := self.keys.shape[-2] // settings.residual * settings.residual:
            codes = Codes(self.keys[..., :whole, :].transpose(-1, -2), settings.bits, settings.group_size)
            self.coded_keys = _joined(self.coded_keys, codes, -1, -2)
            self.keys = self.keys[..., whole:, :].clone()
        if (old := self.values.shape[-2] - settings.residual) > 0:
            codes = Codes(self.values[..., :old, :], settings.bits, settings.group_size)
            self.coded_values = _joined(self.coded_values, codes, -2, -3)
            self.values = self.values[..., old:, :].clone()

    def _check(self, channels: int) -> None:
        if channels % self.settings.group_size:
            raise MethodError(
                "stored cache", f"heads of {channels} channels", expected=f"whole groups of {self.settings.group_size}"
            )

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return self.length

    @property
    def nbytes(self) -> int:
        """Bytes that are held between two steps."""
        coded = (self.coded_keys, self.coded_values)
        return self.keys.nbytes + self.values.nbytes + sum(each.nbytes for each in coded if each is not None)


def _joined(before: Codes | None, codes: Codes, packed_dim: int, range_dim: int) -> Codes:
    if before is None:
        return codes
    before.packed = torch.cat([before.packed, codes.packed], packed_dim)
    before.low = torch.cat([before.low, codes.low], range_dim)
    before.scale = torch.cat([before.scale, codes.scale], range_dim)
    return before


class StoredCache(Cache):  # type: ignore[misc]
    """A cache for a transformers model of full attention in ``layers`` layers.

    Raises:
        MethodError: when used, heads that are no whole groups.
    """

    def __init__(self, layers: int, settings: StoredCacheSettings) -> None:
        super().__init__(layers=[StoredLayer(settings) for _ in range(layers)])

    @property
    def nbytes(self) -> int:
        """Bytes of all layers between two steps."""
        return sum(layer.nbytes for layer in self.layers)
