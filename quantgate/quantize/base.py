"""Words shared by all quantization methods: a method is a named row, its settings are frozen data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol


class Settings(Protocol):
    """Frozen dataclass with every setting that changes the result of an algorithm (JSON-able field values)."""

    __dataclass_fields__: Any


@dataclass(frozen=True)
class Method:
    """One named way to quantize.

    ``id``: what ``-k`` and ``--methods`` select; no id is a substring of another. Plain rows are called
    ``<family><bits>`` (``gptq4``, ``awq3``). Everything else must not contain such a name, so variants put the bits
    last behind ``w``: ``gptq-g32-w4``, and combinations join families with ``-``: ``awq-gptq-w4``.
    ``algorithm``: key of the function that does it. ``code_version``: counts up when the same settings yield other
    weights. ``storage``: ``packed`` (integers on disk) or ``fake`` (16-bit weights that only simulate).
    ``bits``: nominal bits of a weight; ``activation_bits``: 16 unless activations are quantized too.
    """

    id: str
    algorithm: str
    settings: Settings
    bits: int
    needs_calibration: bool
    storage: Literal["packed", "fake"]
    code_version: int
    summary: str
    source: str
    activation_bits: int = 16

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", self.id):
            raise ValueError(f"method id {self.id!r}: only lower-case letters, digits, '-' and '_' are allowed")

    def as_record(self) -> dict[str, Any]:
        """Name and arguments that recreate the method; goes into cache keys and reports."""
        return {
            "method": self.id,
            "algorithm": self.algorithm,
            "settings": asdict(self.settings),
            "code_version": self.code_version,
        }


@dataclass(frozen=True)
class QuantizationRecord:
    """What quantizing one model by one method gave; written beside the weights as ``quantgate.json``.

    ``bits_effective``: bits per quantized weight with scales, zero points, outliers and permutations counted from the
    stored tensors. ``bytes_on_disk``: size of all files of the checkpoint. ``quantized_modules``: names of the linear
    layers that were replaced. ``losses``: per module, the relative squared output or weight error the algorithm saw.
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
