"""HQQ's safetensors, as its own writer and older releases of transformers lay them out: codes, scales, zero points, and
every setting of a matrix as a small tensor beside it.

Codes are packed along their first dimension: the first rows lie in the highest bits. A weight is ``(code - zero) *
scale``; HQQ computes that in 16 bit, here it is float32. Quantized scales and zero points are not in this form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.layouts.parts import Headers, PartsLayout, Settings, Tensors, need, small, total
from quantgate.checkpoints.layouts.protocol import StoredModule
from quantgate.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_PER_WORD: Final = {8: 1, 4: 2, 3: 10, 2: 4, 1: 8}  # codes in a byte; of 3 bit, in 32
_SETTINGS: Final = (
    "nbits", "group_size", "shape", "axis", "packing", "unpack_view_dtype", "view_as_float", "quant_scale",
    "quant_zero", "compute_dtype", "offload_meta", "encoded_state_dict", "stores_quant_config", "channel_wise",
    "optimize", "round_zero",
)  # fmt: skip
_NEEDED: Final = ("W_q", "scale", "zero", "nbits", "shape", "axis")


def _whole(tensors: Mapping[str, Any], name: str) -> int:
    return int(tensors[name].item())


def _describe(headers: Headers, settings: Settings) -> StoredModule:
    need(headers, settings["module"], *_NEEDED)
    said = {name: small(headers[name], settings["module"]) for name in ("nbits", "shape", "axis")}
    rows, columns = (int(each) for each in said["shape"])
    bits, along = _whole(said, "nbits"), _whole(said, "axis")
    if bits not in _PER_WORD or along not in (0, 1):
        raise ModelError(settings["module"], f"{bits} bits along axis {along}", expected="1, 2, 3, 4 or 8 along 0 or 1")
    groups = math.prod(headers["scale"].shape)
    group = rows * columns // groups if along == 1 and groups else None  # along 0 a group is scattered over the rows
    return StoredModule("int", bits, group, False, headers["scale"].dtype, total(headers), (rows, columns))


def _unpack(tensors: Tensors, settings: Settings) -> Tensor:
    import torch

    if "view_as_float" in tensors and _whole(tensors, "view_as_float"):
        raise ModelError(settings["module"], "codes that are viewed as floats", expected="view_as_float false")
    bits, shape = _whole(tensors, "nbits"), [int(each) for each in tensors["shape"]]
    words, per = tensors["W_q"], _PER_WORD[bits]
    codes = torch.cat([(words >> bits * place) & (2**bits - 1) for place in reversed(range(per))])
    rows = math.prod(shape) // codes.shape[1]  # packing fills the last words up
    return ((codes[:rows].float() - tensors["zero"].float()) * tensors["scale"].float()).reshape(shape)


LAYOUT: Final = PartsLayout(
    "hqq", ("hqq",), re.compile(rf"(?P<layer>.+)\.(?P<key>W_q|scale|zero|{'|'.join(_SETTINGS)})"), _describe, _unpack,
)  # fmt: skip
