"""Words shared by all quantization methods: a method is a named row, its settings are frozen data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from quantgate.quantize.settings import as_settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from quantgate.quantize.settings import ActivationSettings, CacheSettings, RotationSettings


class Settings(Protocol):
    """Frozen dataclass with every setting that changes the result of an algorithm (JSON-able field values)."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True)
class NoSettings:
    """Of rows that leave the weights as they are."""


@dataclass(frozen=True)
class Method:
    """One named way to quantize.

    ``id``: what ``-k`` and ``--methods`` select; no id is a substring of another. Plain rows are called
    ``<family><bits>`` (``gptq4``, ``awq3``). Everything else must not contain such a name, so variants put the bits
    last behind ``w``: ``gptq-g32-w4``, and combinations join families with ``-``: ``awq-gptq-w4``.
    ``algorithm``: key of the function that does it. ``code_version``: counts up when the same settings yield other
    weights. ``storage``: ``packed`` (integers on disk), ``fake`` (16-bit weights that only simulate) or ``served``.
    ``bits``: nominal bits of a weight; ``activation_bits``: 16 unless activations are quantized too.
    ``transformation``: settings of what is folded into the 16-bit model before it is rounded (AWQ, SmoothQuant).
    ``rotation``: of the whole model, before anything else. ``activations`` and ``kv_cache``: how inputs of the
    quantized layers, and keys and values, are quantized.
    ``standard``: part of a run that names no methods.
    """

    id: str
    algorithm: str
    settings: Settings
    bits: int
    needs_calibration: bool
    storage: Literal["packed", "fake", "served"]
    code_version: int
    summary: str
    source: str
    activation_bits: int = 16
    transformation: Settings | None = None
    rotation: RotationSettings | None = None
    activations: ActivationSettings | None = None
    kv_cache: CacheSettings | None = None
    standard: bool = True

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", self.id):
            raise ValueError(f"method id {self.id!r}: only lower-case letters, digits, '-' and '_' are allowed")

    def as_record(self) -> dict[str, Any]:
        """Name and arguments that recreate the method; goes into cache keys and reports."""
        record = {
            "method": self.id,
            "algorithm": self.algorithm,
            "settings": as_settings(self.settings),
            "code_version": self.code_version,
        }
        if self.transformation is not None:
            name = type(self.transformation).__name__.removesuffix("Settings").lower()
            record["transformation"] = {"name": name, **as_settings(self.transformation)}
        for part in ("rotation", "activations", "kv_cache"):
            if (settings := getattr(self, part)) is not None:
                record[part] = as_settings(settings)
        return record


@dataclass(frozen=True)
class QuantizationRecord:
    """What quantizing one model by one method gave; written beside the weights as ``quantgate.json``.

    ``bits_effective``: bits per quantized weight with scales, zero points, outliers and permutations counted from the
    stored tensors. ``bytes_on_disk``: size of all files of the checkpoint. ``quantized_modules``: names of the linear
    layers that were replaced. ``losses``: per module, the relative squared output or weight error the algorithm saw.
    ``execution``: what computes once the checkpoint is loaded: ``dequantized`` (weights unpacked to the compute dtype,
    16-bit matmuls) or ``int8`` (integer matmuls, activations quantized too). ``folds``: first layer of every stage
    whose input was scaled before rounding, and the module that carries the inverse scale.
    ``activation_bits`` and ``cache_bits``: of the layers' inputs and of keys and values; below 16 they are quantized in
    the forward of the loaded checkpoint, and ``execution`` says ``simulated``.
    """

    method: Mapping[str, Any]
    calibration: Mapping[str, Any] | None
    bits_nominal: int
    bits_effective: float
    bytes_on_disk: int
    storage: str
    seconds: float
    quantized_modules: tuple[str, ...]
    losses: Mapping[str, float] = field(default_factory=dict)
    execution: str = "dequantized"
    folds: Mapping[str, str] = field(default_factory=dict)
    activation_bits: int = 16
    cache_bits: int = 16


class Statistics(Protocol):
    """What an algorithm keeps of a stage's input. Additive: shards of the calibration set can be merged."""

    def add(self, rows: Tensor) -> None:
        """Take in input vectors, ``[n, in_features]``."""


class StoredWeight(Protocol):
    """A quantized linear weight as it is kept on disk."""

    @property
    def n_weights(self) -> int:
        """Number of weights that are represented."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight ``[out, in]`` that a loaded checkpoint computes with, rounded once to ``dtype``."""

    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors; their names follow the layer's name in the checkpoint."""


@dataclass(frozen=True)
class LayerResult:
    """One quantized layer. ``loss``: relative squared error, of the output if the algorithm has statistics."""

    weight: StoredWeight
    loss: float


@dataclass(frozen=True)
class Order:
    """What a stage's statistics are taken from. ``true_sequential``: a block whose earlier stages are quantized
    already; ``block_sequential``: blocks whose predecessors are quantized already.
    """

    true_sequential: bool = True
    block_sequential: bool = True


class Algorithm(Protocol):
    """A quantizer with its settings, as the driver sees it.

    The layers of one stage read the same input; they share their statistics and are quantized in one call.
    """

    # Algorithms may have an attribute ``needs`` (a frozenset of `statistics.Need`) instead of statistics of their own:
    # then they are given an `InputStatistics` that they share with the other methods of a sweep.

    @property
    def order(self) -> Order:
        """In which order layers see each other quantized; without statistics it means nothing."""

    def statistics(self, in_features: int, device: torch.device) -> Statistics | None:
        """Empty statistics for a stage, or None when the algorithm looks at no data."""

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """One result for each of the stage's weights (``[out, in]``)."""

    def checkpoint_config(self) -> dict[str, Any]:
        """``quantization_config`` of the checkpoint."""
