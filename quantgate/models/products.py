"""16-bit linear layers on processors without instructions for them: multiplied in float32, rounded once.

Where oneDNN has no bf16 (or fp16) product, torch multiplies 16-bit matrices in a plain loop. Measured on an AMD EPYC
with AVX2 only, two busy threads: 1,024 rows through a 1,536 x 576 layer take 395 ms so, and 57 ms this way.

The values are the same up to the order of a sum: a product of two bf16 numbers is exact in float32, sums are float32
either way, and the result is rounded to 16 bit once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FEWEST_ROWS: Final = 4  # below, torch's own product of a vector reads the 16-bit weights once and is faster
_CHUNK: Final = 4096  # output features whose weights are widened at a time: bounds the memory


def has_products(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies matrices of ``dtype`` by instructions made for it."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True


def wide_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # torch's own names
    """``input @ weight.t() + bias`` with float32 products and sums, in the dtype of ``input``.

    Args:
        input: ``[..., in]``, bf16 or fp16, on a CPU.
        weight: ``[out, in]`` of the same dtype.
        bias: ``[out]`` or None.
    """
    wide = input.reshape(-1, input.shape[-1]).to(torch.float32)
    result = torch.empty(wide.shape[0], weight.shape[0], dtype=input.dtype)
    for start in range(0, weight.shape[0], _CHUNK):
        part = slice(start, start + _CHUNK)
        product = wide @ weight[part].to(torch.float32).t()
        result[:, part] = product if bias is None else product.add_(bias[part])
    return result.view(*input.shape[:-1], -1)


class _WideLinears(TorchFunctionMode):
    """Sends every linear layer with 16-bit inputs on the CPU to `wide_linear`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.nn.functional.linear and _is_ours(*args, **(kwargs or {})):
            return wide_linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _is_ours(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:  # torch's own names
    return (
        type(weight) in (Tensor, torch.nn.Parameter)
        and input.dtype == weight.dtype
        and input.dtype in (torch.bfloat16, torch.float16)
        and input.device.type == weight.device.type == "cpu"
        and weight.dim() == 2
        and input.numel() >= _FEWEST_ROWS * input.shape[-1]
    )


@contextmanager
def wide_products(dtype: torch.dtype) -> Iterator[None]:
    """Within the block, linear layers of ``dtype`` are multiplied in float32 where this processor has no such product.

    Gradients do not pass through.
    """
    if has_products(dtype):
        yield
        return
    with _WideLinears():
        yield
