"""LLM.int8's forward (Dettmers et al. 2022) on a CPU: bitsandbytes' arithmetic in fewer passes over memory.

bitsandbytes' own CPU path makes some fifteen passes over the whole activation, most of them in fp16, which CPUs are
slow at. Here the same numbers are computed chunk by chunk in float32, where each intermediate equals bitsandbytes' (its
fp16 values are exact in float32, and its products are promoted to float32 anyway); a test asserts equal bits.

As in bitsandbytes, the outlier columns of an input are those where any row of the *batch* reaches the threshold.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
from torch import Tensor

from quantgate.core.errors import MethodError

_CHUNK: Final = 1 << 18  # elements worked on at a time: a chunk in float32 stays in the L2 cache
_DEQUANT: Final = 6.200124e-05  # bitsandbytes' rounding of 1 / 127^2


def _chunks(rows: int, width: int) -> list[slice]:
    step = max(_CHUNK // width, 1)
    return [slice(start, start + step) for start in range(0, rows, step)]


def outlier_columns(rows: Tensor, threshold: float) -> Tensor:
    """Indices of the columns of ``rows`` (``[n, features]``) where any absolute value reaches ``threshold``.

    As in bitsandbytes, a threshold of 0 means that there are none.
    """
    if threshold <= 0:
        return torch.empty(0, dtype=torch.int64)
    low, high = rows.amin(0), rows.amax(0)
    return torch.nonzero((high >= threshold) | (low <= -threshold)).view(-1)


def quantize_rows(half: Tensor, outliers: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Row-wise absmax int8 codes of an fp16 matrix ``[n, features]`` and the row maxima, float32 ``[n]``.

    Outlier elements do not count for a row's maximum; outlier columns get code 0 (they are multiplied apart).
    """
    codes = torch.empty(half.shape, dtype=torch.int8)
    maxima = torch.empty(len(half), dtype=torch.float32)
    for part in _chunks(*half.shape):
        values = half[part].to(torch.float32)
        if outliers.numel():
            columns = values[:, outliers]
            values[:, outliers] = columns.masked_fill_(columns.abs() >= threshold, 0.0)
        low, high = torch.aminmax(values, dim=1)
        maximum = torch.maximum(high, -low)
        values.mul_((127.0 / maximum).unsqueeze(1)).round_()
        if outliers.numel():
            values[:, outliers] = 0.0
        codes[part], maxima[part] = values, maximum
    return codes, maxima


@cache
def has_exact_products() -> bool:
    """Whether products of int8 matrices are exact in this process.

    oneDNN, told to do without VNNI instructions (``ONEDNN_MAX_CPU_ISA``) on a processor for which torch calls it, adds
    pairs of products in 16 bits, which saturate.
    """
    codes = torch.full((32, 64), 127, dtype=torch.int8)
    found: Tensor = torch.ops.bitsandbytes.int8_linear_matmul.default(codes, codes)
    return bool((found == 64 * 127 * 127).all())


def products(codes: Tensor, weight: Tensor) -> Tensor:
    """``codes @ weight^T`` of int8 matrices, int32, exact on any processor."""
    if has_exact_products():
        found: Tensor = torch.ops.bitsandbytes.int8_linear_matmul.default(codes, weight)
        return found
    return (codes.to(torch.float64) @ weight.to(torch.float64).t()).to(torch.int32)


def matmul(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, threshold: float) -> Tensor:
    """``x @ W^T + bias`` with both sides in int8, outlier columns of ``x`` in ``x``'s dtype.

    Args:
        x: ``[..., in]``, bf16, fp16 or float32.
        weight: int8 codes ``[out, in]``.
        scales: absmax of every row of the weight, float32 ``[out]``.
        bias: ``[out]`` or None.
        threshold: of the outliers.

    Raises:
        MethodError: activations that fp16 cannot hold, in which this method quantizes them.
    """
    rows = x.reshape(-1, x.shape[-1])
    half = rows.to(torch.float16)
    # bf16 converts exactly to fp16 around the threshold, so the outliers can be looked for before the conversion
    outliers = outlier_columns(rows if rows.dtype == torch.bfloat16 else half, threshold)
    codes, maxima = quantize_rows(half, outliers, threshold)
    if not bool(torch.isfinite(maxima).all()):  # bitsandbytes goes on with codes that mean nothing
        raise MethodError(
            "LLM.int8",
            f"an activation of {float(rows.abs().amax()):.3g} outside the outlier columns",
            expected=f"values that fp16 holds (up to {torch.finfo(torch.float16).max:.0f}): it quantizes in fp16",
        )
    sums = products(codes, weight)
    out = torch.empty(sums.shape, dtype=x.dtype)
    for part in _chunks(*sums.shape):
        values = maxima[part].unsqueeze(1) * scales
        values = (sums[part] * values).mul_(_DEQUANT)
        out[part] = values if bias is None else values.add_(bias)
    if outliers.numel():
        kept = torch.ops.bitsandbytes.int8_vectorwise_dequant.default(weight[:, outliers].contiguous(), scales)
        out = out.addmm(rows[:, outliers].contiguous(), kept.to(x.dtype).t())
    return out.view(*x.shape[:-1], len(weight))
