"""compressed-tensors in all of its forms, each matrix by the library's own decompressor."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.layouts.parts import Headers, PartsLayout, Settings, Tensors, small, total
from quantgate.checkpoints.layouts.protocol import CHANNEL, TENSOR, StoredModule
from quantgate.checkpoints.static_cache import SCALES
from quantgate.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_PARTS: Final = (
    "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx", "weight_global_scale",
    "input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point",
)  # fmt: skip
_CLASS: Final = "Linear"
_NO_CODES: Final = ("BF16", "F16", "F32", "F64")
_TYPES: Final = {  # what a format stores, whatever else the configuration says
    "pack-quantized": "int", "int-quantized": "int", "float-quantized": "float", "nvfp4-pack-quantized": "float",
    "mxfp4-pack-quantized": "float",
}  # fmt: skip

_BITS: Final = {"float-quantized": 8, "nvfp4-pack-quantized": 4, "mxfp4-pack-quantized": 4}  # and no others


def matches(name: str, patterns: list[str]) -> bool:
    """Whether compressed-tensors would match a linear layer of this name."""
    return any(
        re.match(each.removeprefix("re:"), name) is not None if each.startswith("re:") else each in (name, _CLASS)
        for each in patterns
    )


def scheme_of(config: Settings, module: str) -> Settings:
    """The group of ``config_groups`` that the module belongs to, names and patterns before classes.

    Raises:
        ModelError: none targets it.
    """
    groups = [group for group in (config.get("config_groups") or {}).values() if isinstance(group, Mapping)]
    named = [g for g in groups if matches(module, [each for each in g.get("targets") or [] if each != _CLASS])]
    found = [*named, *(group for group in groups if _CLASS in (group.get("targets") or []))]
    if not found:
        raise ModelError(module, "stored quantized, and no group targets it", expected="a group in config_groups")
    return {"format": config.get("format"), **{key: value for key, value in found[0].items() if value is not None}}


def _describe(headers: Headers, settings: Settings) -> StoredModule:
    weights: Mapping[str, Any] = settings["weights"]
    if (wanted := _TYPES.get(str(settings.get("format")))) not in (None, weights.get("type", "int")):
        raise ModelError(
            settings["module"], f"type {weights.get('type')!r} in the format {settings['format']}", expected=f"{wanted}"
        )
    bits, strategy = int(weights["num_bits"]), str(weights.get("strategy"))
    _check_bits(bits, headers, settings)
    rows = 1
    group = {"tensor": TENSOR, "channel": CHANNEL}.get(strategy, weights.get("group_size"))
    if strategy == "block":
        rows, group = (int(each) for each in weights["block_structure"])
    scale = headers.get("weight_scale")
    if "weight_packed" in headers:
        height, words = headers["weight_packed"].shape
        width = words * (8 * headers["weight_packed"].nbytes // (height * words)) // bits if height * words else 0
        if "weight_shape" in headers:
            height, width = (int(each) for each in small(headers["weight_shape"], settings["module"]))
    else:
        height, width = headers["weight"].shape
        if headers["weight"].dtype in _NO_CODES:
            raise ModelError(
                settings["module"], f"its weight is stored in {headers['weight'].dtype}, with scales beside it",
                expected="codes: this one was saved before it was compressed", hint="save it with save_compressed=True",
            )  # fmt: skip
    symmetric = bool(weights.get("symmetric", True)) if weights.get("type") == "int" else None
    if symmetric is False and "weight_zero_point" not in headers:
        raise ModelError(
            settings["module"], "symmetric is false, and no zero point is stored", expected="weight_zero_point, or true"
        )
    return StoredModule(
        str(weights.get("type", "int")), bits, None if group is None else int(group), symmetric,
        scale.dtype if scale else "", total(headers), (height, width), rows,
    )  # fmt: skip


def _check_bits(bits: int, headers: Headers, settings: Settings) -> None:
    """Raise ModelError where codes of so many bits cannot be what is stored: runtimes would go by either."""
    form = str(settings.get("format"))
    wanted = _BITS.get(form)
    stored = headers.get("weight")
    room = 8 * stored.nbytes // max(1, math.prod(stored.shape)) if stored and stored.dtype not in _NO_CODES else bits
    if bits > room or wanted not in (None, bits):
        raise ModelError(
            settings["module"], f"num_bits {bits} in the format {form}", expected=f"{wanted or room}, as it is stored"
        )


def _unpack(tensors: Tensors, settings: Settings) -> Tensor:
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    known = ("targets", "weights", "input_activations", "output_activations", "format")
    scheme = QuantizationScheme.model_validate({key: settings[key] for key in known if key in settings})
    form = str(settings["format"])
    if form == "mixed-precision":
        raise ModelError(settings["module"], "no format of its own", expected="one in its group of config_groups")
    # scales in float32, so that the library multiplies without rounding to 16 bit
    own = {key: _wide(key, part) for key, part in tensors.items()}
    found: Tensor = BaseCompressor.get_value_from_registry(form).decompress(own, scheme)["weight"]
    return found.detach().to(torch.float32)


def _wide(key: str, tensor: Tensor) -> Tensor:
    import torch

    wide = key == "weight_scale" and tensor.is_floating_point() and tensor.itemsize == 2
    return tensor.to(torch.float32) if wide else tensor


LAYOUT: Final = PartsLayout(
    "compressed-tensors", ("compressed-tensors",), re.compile(rf"(?P<layer>.+)\.(?P<key>{'|'.join(_PARTS)})"),
    _describe, _unpack, scheme_of, cache=SCALES,
)  # fmt: skip
