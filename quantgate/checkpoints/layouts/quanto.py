"""optimum-quanto's saved state: ``weight._data`` with scales, and ``quanto_qmap.json``, a map of what modules are.

8-bit codes lie one a byte, ``code * scale``. 4 and 2-bit codes are cut into groups, packed along their first dimension
with the first rows in the lowest bits, and are ``code * scale - shift``. Shapes are those of the architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.layouts.parts import Headers, PartsCheckpoint, PartsLayout, Settings, Tensors, need, total
from quantgate.checkpoints.layouts.protocol import CHANNEL, StoredModule
from quantgate.core.errors import ModelError
from quantgate.models.files import read_json
from quantgate.models.quantized import QMAP
from quantgate.models.tensors import stored

if TYPE_CHECKING:
    from torch import Tensor

_BITS: Final = {"qint8": 8, "qfloat8": 8, "qfloat8_e4m3fn": 8, "qfloat8_e5m2": 8, "qint4": 4, "qint2": 2}
_PARTS: Final = re.compile(
    r"(?P<layer>.+)\.(?P<key>weight\._data|weight\._data\._data|weight\._scale|weight\._shift|input_scale|output_scale)"
)


def _describe(headers: Headers, settings: Settings) -> StoredModule:
    need(headers, settings["module"], "weight._scale")
    kind, (rows, columns) = str(settings["weights"]), settings["shape"]
    scale = headers["weight._scale"]
    if kind not in _BITS:
        raise ModelError(settings["module"], f"weights {kind!r}", expected=f"one of {', '.join(_BITS)}")
    if _BITS[kind] == 8:
        need(headers, settings["module"], "weight._data")
        if headers["weight._data"].shape != (rows, columns):
            raise ModelError(settings["module"], f"shape {headers['weight._data'].shape}", expected=f"{rows, columns}")
        number = "int" if kind == "qint8" else "float"
        return StoredModule(
            number, 8, CHANNEL, True if number == "int" else None, scale.dtype, total(headers), (rows, columns)
        )
    need(headers, settings["module"], "weight._data._data", "weight._shift")
    group = headers["weight._data._data"].shape[1]
    return StoredModule("int", _BITS[kind], group, False, scale.dtype, total(headers), (rows, columns))


def _unpack(tensors: Tensors, settings: Settings) -> Tensor:
    import torch

    shape, scale = settings["shape"], tensors["weight._scale"].float()
    if "weight._data" in tensors:
        return tensors["weight._data"].float() * scale
    words, bits = tensors["weight._data._data"], _BITS[str(settings["weights"])]
    codes = torch.cat([(words >> bits * place) & (2**bits - 1) for place in range(8 // bits)])
    codes = codes[: len(scale)].float()
    shift = tensors["weight._shift"]
    values = codes * scale - shift.float() if shift.is_floating_point() else (codes - shift.float()) * scale
    return values.reshape(shape)


def _of_module(config: Settings, module: str) -> Settings:
    return config["modules"][module]  # type: ignore[no-any-return]


_ROW: Final = PartsLayout("quanto", (), _PARTS, _describe, _unpack, _of_module)


@dataclass(frozen=True)
class Quanto:
    """The row; see `Layout`."""

    name: str = "quanto"

    def recognises(self, place: Path, config: Mapping[str, Any]) -> bool:
        """By its map of modules."""
        return bool(config) and (place / QMAP).is_file()

    def open(self, place: Path, reference: Path | None, who: str) -> PartsCheckpoint:
        """See `Layout.open`; shapes come from the configuration alone."""
        from quantgate.models.loading import empty_model, read_config

        found = read_json(place / QMAP, who)
        config = read_json(place / "config.json", who)
        shapes = {
            name: tuple(each.shape) for name, each in empty_model(read_config(place, who), who).state_dict().items()
        }
        modules = {
            name: {**how, "shape": shapes.get(f"{name}.weight")}
            for name, how in found.items()
            if isinstance(how, Mapping)
        }
        settings = {"quant_method": self.name, "modules": modules}
        return PartsCheckpoint(_ROW, place, config | {"quantization_config": settings}, dict(stored(place, who)), who)


LAYOUT: Final = Quanto()
