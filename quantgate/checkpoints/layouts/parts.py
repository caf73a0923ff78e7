"""Checkpoints in safetensors whose quantized matrices are a few tensors under the module's name (``q_proj.qweight``).

A layout of this kind is a `PartsLayout`: how the tensors are called, and functions that describe and unpack one matrix.
Headers are read when it is opened, tensors one module at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.fields import Declared, check_patterns
from quantgate.checkpoints.findings import Finding
from quantgate.checkpoints.layouts.protocol import StoredModule
from quantgate.checkpoints.lone import declaring_config
from quantgate.core.errors import ModelError, translated
from quantgate.models.tensors import StoredTensor, read_tensor, stored

if TYPE_CHECKING:
    from torch import Tensor

Headers = Mapping[str, StoredTensor]
Tensors = Mapping[str, "Tensor"]
Settings = Mapping[str, Any]
_SCALES: Final = re.compile(r"scales?|scale_inv|.*_scale|.*_scale_inv|.*_scale_2|SCB|.*absmax|scale|.*\._scale")
_MOST_SAID: Final = 1 << 20
MALFORMED: Final = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, re.error, RuntimeError,
)  # fmt: skip
"""What tensors and settings that others wrote may raise where they are read."""


def always(config: Settings, module: str) -> Settings:
    """The same settings for every module."""
    return config


def nothing(checkpoint: PartsCheckpoint) -> list[Finding]:
    """A reader that suspects nothing by itself."""
    return []


@dataclass(frozen=True)
class PartsLayout:
    """``parts``: matches names of tensors, groups ``layer`` and ``key``; ``layer.weight`` joins them by itself.

    ``methods``: values of ``quant_method`` that mean this layout; ``applies`` looks at the configuration further.
    ``describe``: headers and settings of one module -> how it is stored; ``unpack``: its tensors -> ``[out, in]``.
    ``declares``: of a row of another package, accounts for every field of the configuration (`fields.account`) and says
    what will be computed, so that a candidate in this layout can be judged; without it, it can only be audited.
    ``cache``: names of scales of keys and values, which belong to no matrix.
    ``used``: columns of the scales that are of any group, in a layout that fills them up with zeros.
    ``version``: of such a row, counts up when the same file unpacks into other weights: what was kept is stale then.
    """

    name: str
    methods: tuple[str, ...]
    parts: re.Pattern[str]
    describe: Callable[[Headers, Settings], StoredModule]
    unpack: Callable[[Tensors, Settings], Tensor]
    settings: Callable[[Settings, str], Settings] = always
    applies: Callable[[Settings], bool] = lambda config: True
    suspect: Callable[[PartsCheckpoint], list[Finding]] = nothing
    declares: Callable[[Settings, str], Declared] | None = None
    version: int = 0
    cache: re.Pattern[str] | None = None
    used: Callable[[Headers, Settings], int] | None = None

    def recognises(self, place: Path, config: Mapping[str, Any]) -> bool:
        """By ``quant_method`` in config.json."""
        found = config.get("quantization_config")
        return isinstance(found, Mapping) and found.get("quant_method") in self.methods and self.applies(found)

    def open(self, place: Path, reference: Path | None, who: str) -> PartsCheckpoint:
        """See `Layout.open`; nothing is asked of the reference."""
        config = declaring_config(place, who)
        check_patterns(config.get("quantization_config") or {}, who)
        return PartsCheckpoint(self, place, config, dict(stored(place, who)), who)


@dataclass
class PartsCheckpoint:
    """An opened directory; see `Checkpoint`."""

    row: PartsLayout
    place: Path
    config: Mapping[str, Any]
    files: dict[str, StoredTensor]
    who: str
    found: dict[str, dict[str, StoredTensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        matches = [match for name in self.files if (match := self.row.parts.fullmatch(name))]
        for match in matches:
            self.found.setdefault(match["layer"], {})[match["key"]] = self.files[match.string]
        for layer, parts in self.found.items():
            if f"{layer}.weight" in self.files:
                parts["weight"] = self.files[f"{layer}.weight"]

    @property
    def layout(self) -> str:
        """The row's name."""
        return self.row.name

    @property
    def quantization(self) -> Settings:
        """``quantization_config``; empty where there is none."""
        return self.config.get("quantization_config") or {}

    @cached_property
    def modules(self) -> Mapping[str, StoredModule]:
        """By name, in the order of the names; described from headers."""
        return {name: self._described(name) for name in sorted(self.found)}

    @cached_property
    def plain(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Every tensor that is part of no quantized matrix."""
        taken = {part.name for parts in self.found.values() for part in parts.values()} | self._cache
        return {name: (each.dtype, each.shape) for name, each in self.files.items() if name not in taken}

    @cached_property
    def _cache(self) -> set[str]:
        pattern = self.row.cache
        return {name for name in self.files if pattern and pattern.fullmatch(name)}

    def cache_scales(self) -> Mapping[str, Tensor]:
        """Every stored scale of keys or values by its name; a number each, as the layouts have it."""
        return {name: small(self.files[name], self.who) for name in sorted(self._cache)}

    def weight(self, module: str) -> Tensor:
        """See `Checkpoint.weight`."""
        parts = {key: read_tensor(part) for key, part in self.found[module].items()}
        with self._reading(module):
            return self.row.unpack(parts, self.settings(module))

    def tensor(self, name: str) -> Tensor:
        """See `Checkpoint.tensor`."""
        found: Tensor = read_tensor(self.files[name])
        return found

    def scales(self, module: str) -> Mapping[str, Tensor]:
        """See `Checkpoint.scales`."""
        parts = self.found[module]
        found = {key: read_tensor(part) for key, part in parts.items() if _SCALES.fullmatch(key)}
        if self.row.used is None:
            return found
        columns = self.row.used(parts, self.settings(module))
        return {key: scale[..., :columns] for key, scale in found.items()}

    def suspicions(self) -> list[Finding]:
        """See `Checkpoint.suspicions`."""
        return self.row.suspect(self)

    def settings(self, module: str) -> Settings:
        """What the configuration says about one module, with its name as ``module``."""
        return {**self.row.settings(self.quantization, module), "module": module}

    def part(self, module: str, key: str) -> Tensor:
        """One stored tensor of a module."""
        found: Tensor = read_tensor(self.found[module][key])
        return found

    def _described(self, module: str) -> StoredModule:
        with self._reading(module):
            return self.row.describe(self.found[module], self.settings(module))

    def _reading(self, module: str) -> Any:
        return translated(
            f"{self.who}: {module}",
            "incomplete layer or wrong settings",
            expected=f"the tensors and settings of the layout {self.row.name}",
            hint="compare quantization_config with the tensors, or write the checkpoint again",
            also=MALFORMED,
        )


def total(headers: Headers) -> int:
    """Bytes of all parts of a module."""
    return sum(part.nbytes for part in headers.values())


def small(part: StoredTensor, who: str) -> Tensor:
    """A stored tensor that says something about others: their shape, their state.

    Raises:
        ModelError: it is far larger than that takes.
    """
    if part.nbytes > _MOST_SAID:
        raise ModelError(who, f"{part.name} holds {part.nbytes} bytes", expected=f"at most {_MOST_SAID}")
    found: Tensor = read_tensor(part)
    return found


def need(headers: Mapping[str, Any], who: str, *names: str) -> None:
    """Raise ModelError unless all parts are there."""
    missing = [name for name in names if name not in headers]
    if missing:
        raise ModelError(who, f"no {', '.join(missing)}", expected="every tensor of a quantized layer")
