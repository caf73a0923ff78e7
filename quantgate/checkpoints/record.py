"""What a checkpoint of ours says of itself, and what its tensors are called: read without torch, which takes a second.

``quantgate.json`` is the record. The names of a quantized layer's tensors say which layout it has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from quantgate.checkpoints.mixed import is_mixed
from quantgate.core import reading
from quantgate.core.errors import ModelError
from quantgate.models.files import model_files
from quantgate.quantize.base import QuantizationRecord
from quantgate.quantize.settings import QUANT_METHOD

LAYOUT_VERSION: Final = 2
"""Counts up when `checkpoint.write` stores the same weights otherwise. 2: a tied head once."""

RECORD_NAME: Final = "quantgate.json"
LAYOUTS: Final[Mapping[str, re.Pattern[str]]] = {
    "gptq": re.compile(r"(?P<layer>.+)\.(?P<key>qweight|qzeros|scales|g_idx)"),
    QUANT_METHOD: re.compile(r"(?P<layer>.+)\.(?P<key>quantized\.\w+)"),
    "compressed-tensors": re.compile(r"(?P<layer>.+)\.(?P<key>weight_scale|weight_packed|weight_global_scale)"),
    "bitsandbytes": re.compile(r"(?P<layer>.+?)\.(?P<key>SCB|weight_format|weight\..+)"),
}
"""``quant_method`` -> the names of a layer's tensors."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` with sorted keys and a final newline."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_record(record: QuantizationRecord, target: Path) -> None:
    """Write ``quantgate.json``."""
    write_json(target / RECORD_NAME, asdict(record))


def read_record(directory: Path) -> QuantizationRecord:
    """Read ``quantgate.json``.

    Raises:
        ModelError: it is missing, or not a record.
    """
    path = directory / RECORD_NAME
    try:
        content = reading.read_json(path)
        return QuantizationRecord(**content | {"quantized_modules": tuple(content["quantized_modules"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            str(path), f"no readable record ({error})", expected="a checkpoint written by quantgate"
        ) from error


def bytes_on_disk(directory: Path) -> int:
    """Size of all files that make up the model in ``directory``: what else lies there is not counted."""
    return sum(path.stat().st_size for path in model_files(directory))


def layers_of(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The quantized layers among the tensors called ``names``, in the order of their own names: part -> tensor.

    ``config``: the ``quantization_config``, whose layout says what the parts are called.
    """
    patterns = [_pattern(each) for each in (config["configs"] if is_mixed(config) else [config])]
    matches = [match for name in names for pattern in patterns if (match := pattern.fullmatch(name))]
    found: dict[str, dict[str, str]] = {name: {} for name in sorted({match["layer"] for match in matches})}
    for match in matches:
        found[match["layer"]][match["key"]] = match.string
    return found


def check_layout(config: Mapping[str, Any]) -> None:
    """Refuse a ``quantization_config`` of a layout that is not ours. Raises ModelError."""
    method = config.get("quant_method")
    if method not in LAYOUTS:
        raise ModelError("quantization_config", f"quant_method {method!r}", expected=f"one of {', '.join(LAYOUTS)}")


def _pattern(config: Mapping[str, Any]) -> re.Pattern[str]:
    check_layout(config)
    return LAYOUTS[config["quant_method"]]
