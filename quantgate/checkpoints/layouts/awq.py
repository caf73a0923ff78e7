"""AWQ as AutoAWQ and GPTQModel pack it (``gemm``, ``gemv``), and AutoRound's checkpoints, packed as GPTQ's or AWQ's.

In ``gemm`` a word holds eight output features of one input feature, the even ones in its low half. In ``gemv`` it holds
eight input features of one output feature in their order, and so are zero points packed, group by group; these and the
scales are filled up to whole words, and to more for groups below 128. Zero points are stored as they are, without
version 1's minus one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.findings import ERROR, Finding, named
from quantgate.checkpoints.layouts import native
from quantgate.checkpoints.layouts.parts import (
    Headers,
    PartsCheckpoint,
    PartsLayout,
    Settings,
    Tensors,
    need,
    total,
)
from quantgate.checkpoints.layouts.protocol import CHANNEL, StoredModule
from quantgate.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)  # output feature of each nibble, low bits first
_PARTS: Final = re.compile(r"(?P<layer>.+)\.(?P<key>qweight|qzeros|scales)")
_BITS: Final = 4
_MIDDLE: Final = 8  # of a symmetric grid


def bits_of(config: Mapping[str, Any]) -> Any:
    """Under any of its names."""
    return config.get("bits", config.get("w_bit"))


def _group(config: Mapping[str, Any]) -> int:
    return int(config.get("group_size", config.get("q_group_size", 0)))


def _words(headers: Headers, settings: Settings) -> tuple[int, ...]:
    """The shape of ``qweight`` where all parts are there, in the bits of this packing. Raises ModelError."""
    need(headers, settings["module"], "qweight", "qzeros", "scales")
    if bits_of(settings) != _BITS:
        raise ModelError(settings["module"], f"{bits_of(settings)} bits in AWQ's packing", expected=f"{_BITS}")
    return headers["qweight"].shape


def describe(headers: Headers, settings: Settings) -> StoredModule:
    """From the shapes of ``qweight`` ``[in, out / 8]`` and ``scales`` ``[groups, out]``."""
    rows, words = _words(headers, settings)
    group = _group(settings)
    if headers["scales"].shape != (-(-rows // (group if group > 0 else rows)), words * 8):
        raise ModelError(
            settings["module"], f"scales {headers['scales'].shape} for {rows} input and {words * 8} output features",
            expected=f"groups of {group}, as group_size says",
        )  # fmt: skip
    return StoredModule(
        "int", _BITS, group if group > 0 else CHANNEL, not settings.get("zero_point", not settings.get("sym", False)),
        headers["scales"].dtype, total(headers), (words * 8, rows),
    )  # fmt: skip


def unpack(tensors: Tensors, settings: Settings) -> Tensor:
    """``scale * (code - zero)``, float32 ``[out, in]``."""
    codes, zeros = (_nibbles(tensors[name]) for name in ("qweight", "qzeros"))
    size = _group(settings) if _group(settings) > 0 else len(codes)
    scales = tensors["scales"].float().repeat_interleave(size, 0)[: len(codes)]
    return (scales * (codes - zeros.repeat_interleave(size, 0)[: len(codes)])).t().contiguous()


def _nibbles(words: Tensor) -> Tensor:
    """Codes of int32 ``[rows, words]`` as float32 ``[rows, 8 * words]``."""
    import torch

    shifts = torch.tensor([4 * _ORDER.index(place) for place in range(8)], dtype=torch.int32)
    return ((words.unsqueeze(2) >> shifts) & 15).flatten(1).float()


def describe_gemv(headers: Headers, settings: Settings) -> StoredModule:
    """From the shapes of ``qweight`` ``[out, in / 8]`` and ``scales`` ``[out, groups]``, filled up."""
    rows, words = _words(headers, settings)
    group = _group(settings)
    groups = _groups_gemv(headers, settings)
    width = headers["qzeros"].shape[1] if len(headers["qzeros"].shape) == 2 else 0
    if headers["scales"].shape != (rows, 8 * width) or not groups <= 8 * width < groups + 32:
        raise ModelError(
            settings["module"],
            f"scales {headers['scales'].shape}, zero points {headers['qzeros'].shape} for {words * 8} input and {rows} "
            "output features",
            expected=f"groups of {group}, as group_size says, filled up to whole words",
        )
    return StoredModule(
        "int", _BITS, group if group > 0 else CHANNEL, not settings.get("zero_point", True), headers["scales"].dtype,
        total(headers), (rows, words * 8),
    )  # fmt: skip


def _groups_gemv(headers: Headers, settings: Settings) -> int:
    """Groups of input features; scales and zero points behind them fill up."""
    columns, group = headers["qweight"].shape[1] * 8, _group(settings)
    return -(-columns // group) if group > 0 else 1


def unpack_gemv(tensors: Tensors, settings: Settings) -> Tensor:
    """``scale * (code - zero)``, float32 ``[out, in]``."""
    codes, zeros = (_in_order(tensors[name]) for name in ("qweight", "qzeros"))
    columns = codes.shape[1]
    size = _group(settings) if _group(settings) > 0 else columns
    scales, zeros = (each.repeat_interleave(size, 1)[:, :columns] for each in (tensors["scales"].float(), zeros))
    return scales * (codes - zeros)


def _in_order(words: Tensor) -> Tensor:
    """Codes of int32 ``[rows, words]``, low bits first, as float32 ``[rows, 8 * words]``."""
    import torch

    return ((words.unsqueeze(2) >> torch.arange(0, 32, _BITS, dtype=torch.int32)) & 15).flatten(1).float()


def _claimed(checkpoint: PartsCheckpoint) -> list[Finding]:
    """Zero points of their own under ``zero_point: false``: kernels for symmetric codes pass over them."""
    uneven = [
        name
        for name in checkpoint.modules
        if checkpoint.settings(name).get("zero_point") is False and bool((_zeros(checkpoint, name) != _MIDDLE).any())
    ]
    if not uneven:
        return []
    sentence = f"{named(uneven)} have zero points of their own, and the configuration says zero_point: false"
    return [Finding("claimed_symmetric", ERROR, sentence, tuple(uneven))]


def _zeros(checkpoint: PartsCheckpoint, module: str) -> Tensor:
    """One number a group and output feature, in either packing."""
    words, settings = checkpoint.part(module, "qzeros"), checkpoint.settings(module)
    if version_of(checkpoint.quantization) == "gemm":
        return _nibbles(words)
    return _in_order(words)[:, : _groups_gemv(checkpoint.found[module], settings)]


def version_of(config: Mapping[str, Any]) -> str:
    """How the words are filled: ``gemm`` where nothing is said."""
    return str(config.get("version", config.get("format", "gemm"))).lower()


AWQ: Final = PartsLayout(
    "awq", ("awq", "gemm"), _PARTS, describe, unpack, applies=lambda config: version_of(config) == "gemm",
    suspect=_claimed,
)  # fmt: skip
AWQ_GEMV: Final = PartsLayout(
    "awq (gemv)", ("awq", "gemv"), _PARTS, describe_gemv, unpack_gemv,
    applies=lambda config: version_of(config) == "gemv", suspect=_claimed, used=_groups_gemv,
)  # fmt: skip


def packing_of(config: Mapping[str, Any]) -> str:
    """``auto_gptq`` or ``auto_awq``: how an AutoRound checkpoint is packed; whatever else it says, as it says it."""
    return str(config.get("packing_format", "")).rpartition(":")[2]


def _by_layer(config: Settings, module: str) -> Settings:
    """``extra_config`` names layers, or patterns of names, that differ."""
    extra = config.get("extra_config") or {}
    own: Settings = next((each for name, each in extra.items() if name == module or re.fullmatch(name, module)), {})
    return {**config, "sym": config.get("sym", True), **own}


AUTO_ROUND_GPTQ: Final = PartsLayout(
    "auto-round (gptq)", ("auto-round",), native.GPTQ.parts, native.GPTQ.describe, native.GPTQ.unpack, _by_layer,
    applies=lambda config: packing_of(config) in ("auto_gptq", "auto_round"),
)  # fmt: skip
AUTO_ROUND_AWQ: Final = PartsLayout(
    "auto-round (awq)", ("auto-round",), _PARTS, describe, unpack, _by_layer,
    applies=lambda config: packing_of(config) == "auto_awq",
)  # fmt: skip
