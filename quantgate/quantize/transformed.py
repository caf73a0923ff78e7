"""Rows of the method table that change the model before they round it, or round more than weights."""

from __future__ import annotations

from typing import Final

from quantgate.quantize.awq import AwqSettings, ClipSettings
from quantgate.quantize.base import Method


def _awq(bits: int) -> Method:
    return Method(
        id=f"awq{bits}",
        algorithm="clipped_rtn",
        settings=ClipSettings(bits),
        bits=bits,
        needs_calibration=True,
        storage="packed",
        code_version=1,
        summary=f"AWQ, {bits} bit, groups of 128, asymmetric: searched scales folded away, searched ranges",
        source="Lin et al. 2023 (arXiv 2306.00978); ranges aligned with the quantizer as in LLMC (2405.06001)",
        transformation=AwqSettings(bits),
    )


ROWS: Final = tuple(map(_awq, (8, 4, 3, 2)))
