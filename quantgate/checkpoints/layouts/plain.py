"""Checkpoints in 16 bit and more: the reference itself, a fine-tune, a merged adapter, weights that only simulate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from quantgate.checkpoints.layouts.parts import PartsCheckpoint, PartsLayout
from quantgate.core.errors import ModelError
from quantgate.models.files import read_json
from quantgate.models.tensors import stored

NAME: Final = "plain"


def _never(*parts: Any) -> NoReturn:
    raise ModelError("plain weights", "a quantized matrix", expected="none in this layout")


@dataclass(frozen=True)
class Plain:
    """Whatever has a config.json without a quantization."""

    name: str = NAME

    def recognises(self, place: Path, config: Mapping[str, Any]) -> bool:
        """No quantization is declared in config.json, and there are weights."""
        return bool(config) and not config.get("quantization_config")

    def open(self, place: Path, reference: Path | None, who: str) -> PartsCheckpoint:
        """See `Layout.open`."""
        nothing = PartsLayout(NAME, (), re.compile(r"(?P<layer>(?!))(?P<key>)"), _never, _never)
        return PartsCheckpoint(nothing, place, read_json(place / "config.json", who), dict(stored(place, who)), who)


LAYOUT: Final = Plain()
