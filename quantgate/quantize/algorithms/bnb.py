"""LLM.int8, NF4 and FP4 by bitsandbytes' own functions, stored in the layout that transformers writes and reads.

int8 is executed as int8: activations are quantized too, outlier columns stay 16 bit. NF4 and FP4 are dequantized to the
compute dtype when a checkpoint is loaded (``execution: dequantized``), which is what bitsandbytes does before every
product.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from quantgate.core.errors import MethodError, ModelError
from quantgate.quantize.algorithms import int8
from quantgate.quantize.base import LayerResult, Order, Statistics, StoredWeight
from quantgate.quantize.settings import Float4Settings, Int8Settings


@dataclass(frozen=True)
class Int8Weight:
    """``codes``: int8 ``[out, in]``; ``scales``: absmax of each row, float32 ``[out]``."""

    codes: Tensor
    scales: Tensor

    @property
    def n_weights(self) -> int:
        """Number of weights that are represented."""
        return self.codes.numel()

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """``code * scale / 127`` as bitsandbytes rounds it."""
        values: Tensor = torch.ops.bitsandbytes.int8_vectorwise_dequant.default(self.codes, self.scales)
        return values.to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """``weight``, ``SCB`` and ``weight_format`` (0 = row-major)."""
        return {"weight": self.codes, "SCB": self.scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}


@dataclass(frozen=True)
class Float4Weight:
    """``packed``: uint8, two codes a byte; ``state``: bitsandbytes' QuantState (absmax, levels, shape)."""

    packed: Tensor
    state: Any

    @property
    def n_weights(self) -> int:
        """Number of weights that are represented."""
        return int(torch.Size(self.state.shape).numel())

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """``level * absmax`` by bitsandbytes' kernel, directly in ``dtype``.

        The kernel is given the weights as one long row: its CPU version (0.50.2) restarts the blocks at every row, so
        that it is wrong for matrices whose width is no multiple of the block size. Blocks run over the whole matrix.
        """
        state = self.state
        values: Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
            self.packed, self.absmax(), state.blocksize, state.quant_type, (1, self.n_weights), dtype
        )
        return values.view(state.shape)

    def absmax(self) -> Tensor:
        """Largest absolute value of every block, float32: with double quantization it is stored in 8 bit itself."""
        import bitsandbytes.functional as bnb

        if not self.state.nested:
            return cast(Tensor, self.state.absmax)
        return cast(Tensor, bnb.dequantize_blockwise(self.state.absmax, self.state.state2) + self.state.offset).float()

    def tensors(self) -> dict[str, Tensor]:
        """``weight`` and the parts of the QuantState under ``weight.``."""
        parts: dict[str, Tensor] = self.state.as_dict(packed=True)
        return {"weight": self.packed, **{f"weight.{name}": tensor for name, tensor in parts.items()}}


@dataclass(frozen=True)
class Int8:
    """LLM.int8 as the driver sees it."""

    settings: Int8Settings
    order: ClassVar[Order] = Order()

    def statistics(self, in_features: int, device: torch.device) -> None:
        """Nothing is collected."""

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """Row-wise absmax int8; the loss is the relative squared weight error."""
        return [_with_loss(weight, self._one(weight)) for weight in weights]

    def _one(self, weight: Tensor) -> Int8Weight:
        import bitsandbytes.functional as bnb

        half = weight.detach().to(torch.float16)
        if not bool(torch.isfinite(half).all()):
            raise MethodError(
                "LLM.int8",
                f"weights that are not finite in fp16 (the largest: {float(weight.abs().amax()):.3g})",
                expected=f"weights up to {torch.finfo(torch.float16).max:.0f}: it quantizes in fp16",
            )
        codes, scales, _ = bnb.int8_vectorwise_quant(half)
        return Int8Weight(codes, scales)

    def checkpoint_config(self) -> dict[str, Any]:
        """transformers' BitsAndBytesConfig."""
        return _config(load_in_8bit=True, llm_int8_threshold=self.settings.threshold)


@dataclass(frozen=True)
class Float4:
    """NF4 and FP4 as the driver sees them."""

    settings: Float4Settings
    order: ClassVar[Order] = Order()

    def statistics(self, in_features: int, device: torch.device) -> None:
        """Nothing is collected."""

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """Nearest level of each block's absmax; the loss is the relative squared weight error."""
        return [_with_loss(weight, self._one(weight)) for weight in weights]

    def _one(self, weight: Tensor) -> Float4Weight:
        import bitsandbytes.functional as bnb

        packed, state = bnb.quantize_4bit(
            weight.detach().contiguous(), blocksize=self.settings.blocksize, quant_type=self.settings.quant_type
        )
        return Float4Weight(packed, state)

    def checkpoint_config(self) -> dict[str, Any]:
        """transformers' BitsAndBytesConfig; the block size is part of every layer's stored state."""
        return _config(load_in_4bit=True, bnb_4bit_quant_type=self.settings.quant_type)


def _with_loss(weight: Tensor, stored: StoredWeight) -> LayerResult:
    original = weight.to(torch.float32)
    if not bool(torch.isfinite(original).all()):
        raise MethodError("bitsandbytes", "weights that are not finite", expected="finite weights")
    error = (stored.dequantize(torch.float32) - original).square().sum()
    return LayerResult(stored, float(error / original.square().sum().clamp(min=1e-30)))


def _config(**details: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": False,
        "load_in_8bit": False,
        "llm_int8_threshold": 6.0,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": ["lm_head"],
        "llm_int8_enable_fp32_cpu_offload": False,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": False,
    }
    return defaults | details


def from_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], who: str) -> StoredWeight:
    """Read what ``tensors()`` of one layer stored (keys as there).

    Raises:
        ModelError: the int8 codes are not row-major, or the type is not the declared one. What a tensor that is missing
            raises, the caller translates.
    """
    import bitsandbytes.functional as bnb

    if config.get("load_in_8bit"):
        if int(tensors["weight_format"]) != 0:
            raise ModelError(who, f"weight_format {int(tensors['weight_format'])}", expected="0 (row-major)")
        return Int8Weight(tensors["weight"], tensors["SCB"])
    parts = {name.removeprefix("weight."): tensor for name, tensor in tensors.items() if name != "weight"}
    state = bnb.QuantState.from_dict(parts, device=tensors["weight"].device)
    if config.get("bnb_4bit_quant_type") not in (None, state.quant_type):
        raise ModelError(who, f"stored as {state.quant_type}", expected=f"{config['bnb_4bit_quant_type']}, as declared")
    return Float4Weight(tensors["weight"], state)


class Int8Linear(nn.Module):
    """LLM.int8 from stored codes: `int8.matmul` on a CPU, which gives bitsandbytes' bits sooner, else bitsandbytes.

    Codes (``weight``) and scales are buffers. bitsandbytes' own ``Int8Params`` keeps them as attributes beside the
    weight, and these stay on the CPU when a model that holds it is moved to a GPU (seen with 0.50.2 and torch 2.11).
    """

    def __init__(self, stored: Int8Weight, bias: Tensor | None, threshold: float) -> None:
        super().__init__()
        self.out_features, self.in_features = stored.codes.shape
        self.threshold = threshold
        self.weight: Tensor
        self.scales: Tensor
        self.register_buffer("weight", stored.codes)
        self.register_buffer("scales", stored.scales)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x @ W^T + bias``, in ``x``'s dtype; ``x`` is ``[..., in]``."""
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self.out_features)
        if x.device.type == "cpu":
            return int8.matmul(x, self.weight, self.scales, self.bias, self.threshold)
        return self.by_bitsandbytes(x)

    def by_bitsandbytes(self, x: Tensor) -> Tensor:
        """The same by bitsandbytes' kernels for ``x``'s device."""
        import bitsandbytes as bnb

        _hush()
        state = bnb.MatmulLtState()
        state.CB, state.SCB = self.weight, self.scales
        state.threshold, state.has_fp16_weights, state.is_training = self.threshold, False, False
        bias = None if self.bias is None else self.bias.to(x.dtype)
        out: Tensor = bnb.matmul(x.reshape(-1, self.in_features), self.weight, bias=bias, state=state)
        return out.view(*x.shape[:-1], self.out_features)


@cache
def _hush() -> None:
    """bitsandbytes warns of every layer that it computes in float16, which is its method."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def int8_linear(stored: Int8Weight, bias: Tensor | None, threshold: float) -> nn.Module:
    """A linear layer in evaluation mode around stored codes; ``threshold``: of outlier columns."""
    return Int8Linear(stored, bias, threshold).eval()
