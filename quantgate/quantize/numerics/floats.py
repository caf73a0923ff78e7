"""Numbers in 8 and 4-bit floating point: E4M3, E5M2 and E2M1, rounded to and read back."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Literal

import torch
from torch import Tensor

from quantgate.quantize.settings import FLOAT_BLOCK, FloatFormat

FLOAT8: Final = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
BLOCK: Final = FLOAT_BLOCK
E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_SIGN: Final = 8  # of a 4-bit code: three bits of `E2M1`, then the sign
E8M0_BIAS: Final = 127
E4M3_TOP: Final = 448.0
TINY: Final = 2.0**-100  # stands in for the largest weight of a matrix of zeros


def round_float8(values: Tensor, kind: FloatFormat) -> Tensor:
    """Nearest value of the format, ties to even, saturating at its largest; in torch's dtype of it."""
    top = torch.finfo(FLOAT8[kind]).max
    return values.clamp(-top, top).to(FLOAT8[kind])


def round_e2m1(values: Tensor) -> Tensor:
    """4-bit codes (uint8) of the nearest E2M1 values, ties to even, saturating at 6; zero has no sign."""
    magnitude = values.abs()
    codes = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
    for code, (low, high) in enumerate(pairwise(E2M1)):
        middle = (low + high) / 2
        codes += (magnitude > middle) if code % 2 == 0 else (magnitude >= middle)  # a tie goes to the even code
    return codes + _SIGN * ((values < 0) & (codes > 0)).to(torch.uint8)


def e2m1_values(codes: Tensor) -> Tensor:
    """The values of 4-bit codes, float32."""
    table = torch.tensor([*E2M1, *(-value for value in E2M1)], device=codes.device)
    return table[codes.to(torch.int64)]


def simulate_float4(values: Tensor, kind: Literal["nvfp4", "mxfp4"], common: Tensor | None = None) -> Tensor:
    """``values`` (float32 ``[n, features]``) as the format holds them, float32.

    ``common``: NVFP4's common scale, float32 ``[1]``, that was calibrated; None: each row has its own. Values that are
    not finite stay so: a broken model's inputs are not to look well.
    """
    blocks = values.view(len(values), -1, BLOCK[kind])
    largest = blocks.abs().amax(2, keepdim=True)
    if kind == "mxfp4":
        scales = torch.exp2((torch.frexp(largest).exponent - 3).clamp(-E8M0_BIAS, E8M0_BIAS).to(torch.float32))
    else:
        top = largest.amax(1, keepdim=True).clamp(min=TINY)
        divisor = torch.exp2(torch.log2(E4M3_TOP * E2M1[-1] / top).floor()) if common is None else 1 / common
        wanted = (largest / E2M1[-1] * divisor).clamp(2.0**-9, E4M3_TOP)  # a calibrated scale may be too small
        scales = round_float8(wanted, "e4m3").to(torch.float32) / divisor
    rounded = e2m1_values(round_e2m1(blocks / scales)) * scales
    return torch.where(torch.isfinite(largest), rounded, torch.nan).view_as(values)
