"""The layout of algorithms that no other format holds: ``quant_method: "quantgate"``, described in docs/checkpoints.md.

The tensors of a layer are called ``<layer>.quantized.<part>``; ``quantization_config`` names the ``format`` and holds
every setting of the algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from quantgate.core.errors import ModelError
from quantgate.quantize.base import Settings
from quantgate.quantize.settings import QUANT_METHOD, as_settings

PREFIX: Final = "quantized."


def layout_config(format_name: str, settings: Settings) -> dict[str, Any]:
    """``quantization_config`` of a checkpoint in this layout."""
    return {"quant_method": QUANT_METHOD, "format": format_name, **as_settings(settings)}


def stored_parts(shape: tuple[int, int], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one layer of ``shape`` (``[out, in]``) under the names they get behind the layer's."""
    named = {"shape": torch.tensor(shape, dtype=torch.int32), **parts}
    return {PREFIX + name: tensor.contiguous() for name, tensor in named.items()}


class Parts:
    """The stored tensors of one layer, by part; ``shape``: ``(out, in)``.

    Args:
        tensors: as `stored_parts` named them.
        who: the layer, for errors.

    Raises:
        ModelError: there is no shape.
    """

    def __init__(self, tensors: Mapping[str, Tensor], who: str) -> None:
        self.tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        self.who = who
        out, columns = self["shape"].tolist()
        self.shape: tuple[int, int] = (out, columns)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ModelError(self.who, f"no {name}", expected="a complete layer")
        return self.tensors[name]

    def shaped(self, name: str, *shape: int) -> Tensor:
        """The tensor called ``name``. Raises ModelError when it has another shape."""
        tensor = self[name]
        if tuple(tensor.shape) != shape:
            raise ModelError(self.who, f"{name} of shape {tuple(tensor.shape)}", expected=f"{shape}")
        return tensor
