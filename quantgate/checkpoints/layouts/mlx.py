"""MLX's affine integers, as mlx-lm saves them: words of codes with a scale and an offset a group.

A word of 32 bits holds codes of a row one behind the other, low bits first; those of 3, 5 and 6 bits lie across words.
A weight is ``scale * code + bias``, ``bias`` being the group's offset. Embedding and head are stored so too.
config.json declares it as ``quantization``: bits and group size for all, and by name for matrices that differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from quantgate.checkpoints.layouts.parts import Headers, PartsLayout, Settings, Tensors, need, total
from quantgate.checkpoints.layouts.protocol import StoredModule
from quantgate.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_FIELDS: Final = ("bits", "group_size")
_WORD: Final = 32


def by_module(config: Settings, module: str) -> Settings:
    """What is declared of one matrix."""
    own = config.get(module)
    return {**config, **own} if isinstance(own, Mapping) else config


def _describe(headers: Headers, settings: Settings) -> StoredModule:
    need(headers, settings["module"], "weight", "scales", "biases")
    bits, group = (int(settings[name]) for name in _FIELDS)
    rows, words = headers["weight"].shape
    columns = words * _WORD // bits
    shape = (rows, columns // group)
    if headers["weight"].dtype != "U32" or columns % group or any(headers[key].shape != shape for key in _PER_GROUP):
        raise ModelError(
            settings["module"],
            f"{words} words of {headers['weight'].dtype} a row, scales {headers['scales'].shape}, biases "
            f"{headers['biases'].shape}",
            expected=f"codes of {bits} bits in U32, and one of both for each {group} of them",
            hint="compare quantization in config.json with the tensors, or write the checkpoint again",
        )
    return StoredModule("int", bits, group, False, headers["scales"].dtype, total(headers), (rows, columns))


_PER_GROUP: Final = ("scales", "biases")


def _unpack(tensors: Tensors, settings: Settings) -> Tensor:
    import torch

    from quantgate.quantize.numerics.packing import unpack_stream

    bits, group = (int(settings[name]) for name in _FIELDS)
    words = tensors["weight"].view(torch.int32)
    codes = unpack_stream(words, bits, (len(words), words.shape[1] * _WORD // bits // group, group)).float()
    scales, offsets = (tensors[key].float().unsqueeze(2) for key in _PER_GROUP)
    return (codes * scales + offsets).flatten(1)


LAYOUT: Final = PartsLayout(
    "mlx", ("mlx",), re.compile(r"(?P<layer>.+)\.(?P<key>scales|biases)"), _describe, _unpack, by_module,
)  # fmt: skip
