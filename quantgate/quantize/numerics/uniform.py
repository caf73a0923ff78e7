"""One linear layer on a uniform grid: codes, scales, zero points, and how they lie in a GPTQ-layout checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from quantgate.core.errors import MethodError, ModelError
from quantgate.quantize.grids import UniformGrid, dequantize, group_index
from quantgate.quantize.numerics.packing import (
    PACKABLE_BITS,
    CheckpointFormat,
    checkpoint_format,
    pack_rows,
    pack_zeros,
    unpack_rows,
    unpack_zeros,
)

_AT_A_TIME = 1 << 18  # weights that are unpacked at a time: a megabyte in float32


@dataclass(frozen=True)
class UniformWeight:
    """The quantized weight of one linear layer.

    ``codes``: uint8 ``[in, out]``. ``scales``: fp16 ``[groups, out]``. ``zeros``: uint8 ``[groups, out]``.
    ``g_idx``: int32 ``[in]``, the group of each input feature (not sorted after GPTQ with act-order).
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    g_idx: Tensor
    grid: UniformGrid

    @property
    def n_weights(self) -> int:
        """Number of weights that are represented."""
        return self.codes.numel()

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight ``[out, in]``: ``scale * (code - zero)`` in float32, then rounded once to ``dtype``.

        Columns are taken a few at a time, so that what is computed on the way stays in the processor's caches.
        """
        features, outputs = self.codes.shape
        found = torch.empty(outputs, features, dtype=dtype, device=self.codes.device)
        step = max(1, _AT_A_TIME // max(1, features))
        for start in range(0, outputs, step):
            some = slice(start, start + step)
            found[some] = self._columns(some).to(dtype).t()
        return found

    def _columns(self, some: slice) -> Tensor:
        """Values of some output features, float32 ``[in, some]``."""
        # the small tables are cast before they are spread over all rows
        scales, zeros = (each[:, some].to(torch.float32) for each in (self.scales, self.zeros))
        codes = self.codes[:, some]
        if self._even:
            groups = codes.reshape(len(scales), -1, codes.shape[1])
            return dequantize(groups, scales.unsqueeze(1), zeros.unsqueeze(1)).flatten(0, 1)
        index = self.g_idx.to(torch.int64)
        return dequantize(codes, scales.index_select(0, index), zeros.index_select(0, index))

    @cached_property
    def _even(self) -> bool:
        """Whether groups of equal size follow one another: each has its rows of codes to itself."""
        features, groups = len(self.g_idx), len(self.scales)
        return features % groups == 0 and torch.equal(
            self.g_idx, group_index(features, features // groups).to(self.g_idx)
        )

    def split(self, sizes: Sequence[int]) -> list[UniformWeight]:
        """Cut along ``out``: the layers that were quantized together because they share their input."""
        cut = [torch.split(tensor, list(sizes), 1) for tensor in (self.codes, self.scales, self.zeros)]
        return [
            UniformWeight(codes.contiguous(), scales.contiguous(), zeros.contiguous(), self.g_idx, self.grid)
            for codes, scales, zeros in zip(*cut, strict=True)
        ]

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores beside the layer's name: ``qweight``, ``qzeros``, ``scales``, ``g_idx``.

        Raises:
            MethodError: a bit width the layout does not have.
        """
        bits = self.grid.bits
        if bits not in PACKABLE_BITS:
            raise MethodError("GPTQ layout", f"{bits} bits", expected="2, 3, 4 or 8 bits")
        return {
            "qweight": pack_rows(self.codes, bits),
            "qzeros": pack_zeros(self.zeros, bits, checkpoint_format(self.grid.symmetric)),
            "scales": self.scales.contiguous(),
            "g_idx": self.g_idx.clone(),
        }


def from_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], who: str) -> UniformWeight:
    """Read what `UniformWeight.tensors` stored; ``config`` is the checkpoint's ``quantization_config``.

    Raises:
        ModelError: a tensor is missing, or shapes and configuration contradict each other.
    """
    missing = {"qweight", "qzeros", "scales"} - tensors.keys()
    if missing:
        raise ModelError(who, f"no {', '.join(sorted(missing))}", expected="a complete GPTQ-layout layer")
    # zero points are stored: AutoGPTQ's and GPTQModel's default for a missing `sym` changes no value
    grid = UniformGrid(int(config["bits"]), bool(config.get("sym", True)))
    version = cast(CheckpointFormat, config.get("checkpoint_format") or config.get("format") or "gptq")
    scales = tensors["scales"]
    g_idx = tensors["g_idx"] if "g_idx" in tensors else _in_order(tensors["qweight"], config, who)
    _check_groups(g_idx, scales, int(config["group_size"]), who)
    if not config.get("desc_act") and bool((g_idx[1:] < g_idx[:-1]).any()):
        raise ModelError(
            who, "g_idx is not in order", expected="groups in order, as desc_act false says: kernels rely on it"
        )  # fmt: skip
    codes = unpack_rows(tensors["qweight"], grid.bits, g_idx.shape[0])
    zeros = unpack_zeros(tensors["qzeros"], grid.bits, scales.shape[1], version)
    return UniformWeight(codes, scales, zeros, g_idx, grid)


def _in_order(qweight: Tensor, config: Mapping[str, Any], who: str) -> Tensor:
    """Groups of features in their order: packers leave ``g_idx`` out where it says nothing else."""
    if config.get("desc_act"):
        raise ModelError(who, "no g_idx", expected="the order of the groups, as desc_act true says")
    features = qweight.shape[0] * 32 // int(config["bits"])
    size = int(config["group_size"]) if int(config["group_size"]) > 0 else features
    return (torch.arange(features) // size).to(torch.int32)


def _check_groups(g_idx: Tensor, scales: Tensor, group_size: int, who: str) -> None:
    """Refuse groups that contradict the configuration: weights would be scaled by their neighbours' scales."""
    features, groups = g_idx.shape[0], scales.shape[0]
    size = group_size if group_size > 0 else features
    if int(g_idx.min()) < 0 or int(g_idx.max()) >= groups:
        raise ModelError(who, f"group {int(g_idx.max())} in g_idx", expected=f"less than {groups} groups")
    members = torch.bincount(g_idx.to(torch.int64), minlength=groups)
    if groups != -(-features // size) or int(members.max()) > size:
        raise ModelError(
            who,
            f"{groups} groups of up to {int(members.max())} features",
            expected=f"groups of {size}, as group_size says",
            hint="compare group_size in quantize_config.json with the checkpoint's scales and g_idx",
        )
    if not bool(torch.isfinite(scales).all()):
        raise ModelError(who, "scales that are not finite", expected="finite fp16 scales")


def gptq_layout_config(*, bits: int, group_size: int, sym: bool, **details: Any) -> dict[str, Any]:
    """``quantization_config`` of a GPTQ-layout checkpoint with AutoGPTQ's keys; ``details`` override its defaults."""
    defaults: dict[str, Any] = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group_size,
        "sym": sym,
        "desc_act": False,
        "static_groups": False,
        "true_sequential": True,
        "damp_percent": 0.01,
        "lm_head": False,
        "checkpoint_format": checkpoint_format(sym),
        "model_name_or_path": None,
        "model_file_base_name": "model",
    }
    return defaults | details
