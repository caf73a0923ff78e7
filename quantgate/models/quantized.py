"""Signs that a model directory holds a quantized model: what configurations declare, and what the weights are.

A quantization can be declared in several places. transformers looks at one of them, ``quantization_config`` in
config.json; a declaration that only lies elsewhere would be skipped, and packed codes taken for weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from quantgate.core.errors import ModelError
from quantgate.models.files import SIDE_FILES, read_json
from quantgate.models.tensors import stored

MAIN: Final = "quantization_config"
INPUTS: Final = "quantgate_inputs"
"""In the config.json of files that were unpacked here: how inputs are quantized. Nobody else reads it."""
CACHE: Final = "quantgate_cache"
"""The same of keys and values."""
# transformers, old llm-compressor, MLX, our own
DECLARED: Final = (MAIN, "compression_config", "quantization")
_KEYS: Final = (*DECLARED, INPUTS, CACHE)
_INNER: Final = ("text_config", "llm_config")
QMAP: Final = "quanto_qmap.json"
"""Where quanto says how each module is kept; it declares nothing in config.json."""
_RECORD: Final = "quantgate.json"
_CODES: Final = ("weight", "qweight", "weight_packed", "qzeros", "scales", "weight_scale", "weight_scale_inv", "SCB")
_PARTS: Final = (
    "qweight", "qzeros", "weight_packed", "weight_scale", "weight_scale_inv", "SCB", "W_q", "_data", "_weight_qdata",
)  # fmt: skip
WEIGHTS: Final = frozenset({"F64", "F32", "F16", "BF16"})
_FLAGS: Final = frozenset({"BOOL", "U8", "I32", "I64", "U64"})  # masks and positions


def declarations(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Every declaration of a quantization in the directory ``path`` by its place; ``config``: its config.json.

    Raises:
        ModelError: a side file that is no JSON object.
    """
    found = {f"{key} in config.json": config[key] for key in _KEYS if config.get(key)}
    for inner in _INNER:
        part = config.get(inner)
        if isinstance(part, Mapping):
            found |= {f"{inner}.{key} in config.json": part[key] for key in _KEYS if part.get(key)}
    for name in SIDE_FILES:
        if (path / name).is_file():
            found[name] = read_json(path / name, str(path))
    return found


def refuse_quantized(path: Path, config: Mapping[str, Any], who: str) -> None:
    """Refuse a model that is to be the 16-bit original and is quantized already, by any sign of it.

    Raises:
        ModelError: a declaration, quantgate's own record, or weights in another form than floats of 16 bit and more.
    """
    signs = list(declarations(path, config))
    if (path / _RECORD).is_file():
        signs.append(f"{_RECORD}, the record of a quantized checkpoint")
    signs = signs or [f"{name} in {dtype}" for name, dtype in quantized_tensors(path)][:1]
    if signs:
        raise ModelError(
            who,
            f"is quantized already ({signs[0]})",
            expected="the 16-bit original, with which quantized models are compared",
            hint="give the original with --model; judge this checkpoint with --candidate NAME=DIR",
        )


def quantized_tensors(path: Path) -> Iterator[tuple[str, str]]:
    """Name and dtype (as safetensors spells it) of stored tensors that are codes or scales, from the files' headers."""
    for name, tensor in stored(path).items():
        last = name.rpartition(".")[2]
        packed = tensor.dtype not in WEIGHTS and (last in _CODES or tensor.dtype not in _FLAGS)
        if packed or last in _PARTS:
            yield name, tensor.dtype
