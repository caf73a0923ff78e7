"""Does ``quantgate.json`` say what the checkpoint beside it holds? Everything that follows from the files is computed.

The report shows the record's bits and settings, and the roofline computes with them. What only the run that quantized
knew (its seconds and losses) is in no file, and is not judged by anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from quantgate.checkpoints.record import bytes_on_disk, layers_of
from quantgate.models.digest import HEAD
from quantgate.models.files import read_json
from quantgate.models.tensors import StoredTensor, stored
from quantgate.quantize.base import Method, QuantizationRecord
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.catalogue.recipe import ALGORITHM as RECIPE

_FLOAT_BITS: Final = 16
INT8: Final = "llm_int8"


def contradiction(
    record: QuantizationRecord, method: Method, calibration: Calibration | None, reference: Path, path: Path, who: str
) -> tuple[str, str] | None:
    """What the ``record`` of the checkpoint in ``path`` says, and what it should say; None where it is true.

    Args:
        record: as it was read.
        method: what made the checkpoint.
        calibration: what it was made with, if the method looks at data.
        reference: directory of the 16-bit original.
        path: the checkpoint.
        who: for messages.

    Raises:
        ModelError: one of the two holds no whole model.
    """
    config = read_json(path / "config.json", who).get("quantization_config")
    tensors, named = stored(path, who), set(record.quantized_modules)
    layers = layers_of(tensors, config) if isinstance(config, Mapping) and config else {}
    if more := sorted(set(layers) - named):  # one that is named and not there still holds 16 bit: `subjects.audit`
        return f"nothing of {more[0]}", "every layer that is stored quantized"
    facts: dict[str, Any] = {
        "calibration": calibration.as_record() if calibration else None,
        "bits_effective": stored_bits(stored(reference, who), tensors, layers, named),
        "bytes_on_disk": bytes_on_disk(path),
        **of_method(method),
    }
    if method.algorithm == RECIPE:  # its rows say what they do to activations
        del facts["activation_bits"], facts["execution"]
    for name, found in facts.items():
        recorded = getattr(record, name)
        if name == "calibration":
            recorded, found = _text(recorded), _text(found)
        if not _same(recorded, found):
            return f"{name} {_shown(recorded)}", f"{_shown(found)}, as its files and the method say"
    return None


def _text(calibration: Mapping[str, Any] | None) -> object:
    """Which tokens a set holds: one text may have several names, and is one set."""
    names = ("digest", "n_samples", "n_tokens")
    return {name: calibration.get(name) for name in names} if isinstance(calibration, Mapping) else calibration


def of_method(method: Method, inputs: Sequence[int] = ()) -> dict[str, Any]:
    """Fields of the record that follow from the row alone. ``inputs``: bits of the rows' activations, for a recipe."""
    bits = [*inputs, *([method.activations.bits] if method.activations else [])]
    return {
        "bits_nominal": method.bits,
        "storage": method.storage,
        "activation_bits": min(bits, default=method.activation_bits),
        "cache_bits": method.kv_cache.bits if method.kv_cache else _FLOAT_BITS,
        "execution": "simulated" if bits or method.kv_cache else "int8" if method.algorithm == INT8 else "dequantized",
    }


def stored_bits(
    reference: Mapping[str, StoredTensor],
    tensors: Mapping[str, StoredTensor],
    layers: Mapping[str, Any],
    named: Iterable[str],
) -> float:
    """Bits a weight: all tensors, save biases, of the ``layers`` that are stored quantized, over the original's weights
    in those that the record names.
    """
    weights = sum(_count(reference, layer) for layer in named)
    mine = (t.nbytes for name, t in tensors.items() if not name.endswith(".bias") and _is_part(name, layers))
    return 8 * sum(mine) / weights if weights else float(_FLOAT_BITS)


def _is_part(name: str, layers: Mapping[str, Any]) -> bool:
    """Whether the tensor belongs to one of the layers, at whatever depth."""
    parts = name.split(".")
    return any(".".join(parts[:end]) in layers for end in range(1, len(parts)))


def _count(reference: Mapping[str, StoredTensor], layer: str) -> int:
    """Number of weights of a layer in the original; a tied head is its embedding."""
    name = f"{layer}.weight"
    if name not in reference and name == HEAD:
        name = next((each for each in reference if each.endswith("embed_tokens.weight")), name)
    return math.prod(reference[name].shape) if name in reference else 0


def _same(recorded: Any, found: Any) -> bool:
    if isinstance(found, float):
        return isinstance(recorded, int | float) and math.isclose(recorded, found, rel_tol=1e-9)
    return json.dumps(recorded, sort_keys=True) == json.dumps(found, sort_keys=True)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
