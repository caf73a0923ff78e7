"""Layouts that quantgate writes too: GPTQ's, bitsandbytes', its own; each matrix by the algorithm's own unpacker."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.findings import ERROR, Finding, named
from quantgate.checkpoints.layouts.parts import (
    Headers,
    PartsCheckpoint,
    PartsLayout,
    Settings,
    Tensors,
    need,
    small,
    total,
)
from quantgate.checkpoints.layouts.protocol import CHANNEL, StoredModule
from quantgate.checkpoints.mixed import dynamic_rule, is_mixed, layer_config
from quantgate.core.errors import ModelError
from quantgate.quantize.settings import QUANT_METHOD

if TYPE_CHECKING:
    from torch import Tensor

_FORMATS: Final = ("checkpoint_format", "format")


def version_of(config: Mapping[str, Any]) -> str:
    """``gptq`` or ``gptq_v2``, by whichever field says so."""
    return str(next((config[name] for name in _FORMATS if config.get(name)), "gptq"))


def _gptq_describe(headers: Headers, settings: Settings) -> StoredModule:
    need(headers, settings["module"], "qweight", "qzeros", "scales")
    bits, group = int(settings["bits"]), int(settings["group_size"])
    words, columns = headers["qweight"].shape
    rows = headers["g_idx"].shape[0] if "g_idx" in headers else words * 32 // bits
    return StoredModule(
        "int", bits, group if group > 0 else CHANNEL, bool(settings.get("sym", True)), headers["scales"].dtype,
        total(headers), (columns, rows),
    )  # fmt: skip


def _gptq_unpack(tensors: Tensors, settings: Settings) -> Tensor:
    import torch

    from quantgate.quantize.numerics import uniform

    return uniform.from_tensors(tensors, settings, settings["module"]).dequantize(torch.float32)


def _by_module(config: Settings, module: str) -> Settings:
    kept = not is_mixed(config) and dynamic_rule(config, module) is None
    return config if kept else layer_config(config, module)  # who is kept in 16 bit, `declared` says


def _zero_points(checkpoint: PartsCheckpoint) -> list[Finding]:
    """Symmetric zero points say by themselves which version they are: all 7 in the first, all 8 in the second.

    Where others are stored, kernels for symmetric codes pass over them (vLLM's Marlin), and other kernels do not.
    """
    wrong: list[str] = []
    uneven: list[str] = []
    for name in checkpoint.modules:
        settings = checkpoint.settings(name)
        bits, version = int(settings["bits"]), version_of(settings)
        if not settings.get("sym", True) or bits not in (2, 4, 8):
            continue
        word = checkpoint.part(name, "qzeros")
        first = int(word.flatten()[0]) & 0xFFFFFFFF if word.numel() else 0
        middle = 2 ** (bits - 1) - (version == "gptq")
        other = 2 ** (bits - 1) - (version != "gptq")
        even = not word.numel() or bool((word == word.flatten()[0]).all())
        if even and first == _repeated(other, bits):
            wrong.append(name)
        elif settings.get("sym") and word.numel() and not (even and first == _repeated(middle, bits)):
            uneven.append(name)
    found = []
    if uneven:
        sentence = f"{named(uneven)} have zero points of their own, and the configuration says sym: true"
        found.append(Finding("claimed_symmetric", ERROR, sentence, tuple(uneven)))
    if not wrong:
        return found
    version = version_of(checkpoint.quantization)
    return [
        *found,
        Finding(
            "mislabelled_version", ERROR,
            f"zero points of {len(wrong)} of {len(checkpoint.modules)} modules are those of "
            f"{'gptq_v2' if version == 'gptq' else 'gptq'}, and the configuration says {version}: every weight is off "
            "by one step in a runtime that believes it",
            tuple(wrong),
        ),
    ]  # fmt: skip


def _repeated(value: int, bits: int) -> int:
    return sum(value << shift for shift in range(0, 32, bits))


GPTQ: Final = PartsLayout(
    "gptq", ("gptq",), re.compile(r"(?P<layer>.+)\.(?P<key>qweight|qzeros|scales|g_idx)"), _gptq_describe, _gptq_unpack,
    _by_module, suspect=_zero_points,
)  # fmt: skip


def _bnb_describe(headers: Headers, settings: Settings) -> StoredModule:
    need(headers, settings["module"], "weight")
    if settings.get("load_in_8bit"):
        need(headers, settings["module"], "SCB")
        rows, columns = headers["weight"].shape
        return StoredModule("int", 8, CHANNEL, True, headers["SCB"].dtype, total(headers), (rows, columns))
    state = _state(headers)
    rows, columns = state["shape"]
    nested = "U8" if "nested_blocksize" in state else "F32"
    return StoredModule("levels", 4, int(state["blocksize"]), None, nested, total(headers), (int(rows), int(columns)))


def _state(headers: Headers) -> Mapping[str, Any]:
    """What bitsandbytes notes beside the codes: JSON as bytes."""
    from quantgate.core import reading

    for key, part in headers.items():
        if key.startswith("weight.quant_state."):
            return reading.parse_object(bytes(small(part, "quant_state").tolist()).decode("utf-8"))
    raise ModelError("bitsandbytes", "no quant_state", expected="the state of every 4-bit weight")


def _bnb_unpack(tensors: Tensors, settings: Settings) -> Tensor:
    import torch

    from quantgate.quantize.algorithms import bnb

    return bnb.from_tensors(tensors, settings, settings["module"]).dequantize(torch.float32)


BITSANDBYTES: Final = PartsLayout(
    "bitsandbytes", ("bitsandbytes",), re.compile(r"(?P<layer>.+?)\.(?P<key>SCB|weight_format|weight\..+)"),
    _bnb_describe, _bnb_unpack,
)  # fmt: skip


def _own_describe(headers: Headers, settings: Settings) -> StoredModule:
    other = {"gptq": _gptq_describe, "bitsandbytes": _bnb_describe}.get(str(settings.get("quant_method")))
    if other is not None:
        return other(headers, settings)
    shape = _shape(headers)
    nbytes = total(headers)
    bits = settings.get("bits")
    group = settings.get("group_size")
    stored_bits = 8 * max(part.nbytes for part in headers.values()) / math.prod(shape)
    return StoredModule(
        "other", float(bits) if isinstance(bits, int) else round(stored_bits, 2),
        group if isinstance(group, int) else None, None, "", nbytes, shape,
    )  # fmt: skip


def _shape(headers: Headers) -> tuple[int, int]:
    if "quantized.shape" in headers:
        rows, columns = (int(each) for each in small(headers["quantized.shape"], "quantized.shape"))
        return rows, columns
    if "weight_packed" in headers:
        rows, columns = headers["weight_packed"].shape
        return rows, 2 * columns
    rows, columns = headers["weight"].shape
    return rows, columns


def _own_unpack(tensors: Tensors, settings: Settings) -> Tensor:
    import torch

    from quantgate.checkpoints import formats
    from quantgate.quantize.algorithms import floats

    method = str(settings.get("quant_method"))
    other = {"gptq": _gptq_unpack, "bitsandbytes": _bnb_unpack}.get(method)
    if other is not None:
        return other(tensors, settings)
    if method == "compressed-tensors":
        return floats.from_compressed(tensors, settings, settings["module"]).dequantize(torch.float32)
    return formats.from_tensors(tensors, settings, settings["module"]).dequantize(torch.float32)


_OWN_PARTS: Final = "|".join(
    (r"quantized\.\w+", "qweight", "qzeros", "scales", "g_idx", "SCB", "weight_format", r"weight\..+", "weight_scale",
     "weight_packed", "weight_global_scale")
)  # fmt: skip
OWN: Final = PartsLayout(
    QUANT_METHOD, (QUANT_METHOD,), re.compile(rf"(?P<layer>.+?)\.(?P<key>{_OWN_PARTS})"), _own_describe, _own_unpack,
    _by_module,
)  # fmt: skip
