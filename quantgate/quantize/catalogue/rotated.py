"""Rows of the method table that rotate the model before they round it."""

from __future__ import annotations

from typing import Any, Final

from quantgate.quantize.base import Method
from quantgate.quantize.settings import ActivationSettings, CacheSettings, GptqSettings, RotationSettings, RtnSettings

_QUAROT: Final = "Ashkboos et al. 2024 (QuaRot, arXiv 2404.00456), folded rotations only for weights"
_A4: Final = ActivationSettings(4, "token")
_A8: Final = ActivationSettings(8, "token")


def _row(id: str, bits: int, summary: str, settings: RtnSettings | GptqSettings, **changes: Any) -> Method:
    gptq = isinstance(settings, GptqSettings)
    activations: ActivationSettings | None = changes.get("activations")
    return Method(
        id=id,
        algorithm="gptq" if gptq else "rtn",
        settings=settings,
        bits=bits,
        needs_calibration=gptq,
        storage="packed",
        code_version=1,
        summary=f"the model rotated, then {summary}",
        source=_QUAROT,
        activation_bits=activations.bits if activations else 16,
        rotation=RotationSettings(),
        standard=False,
        **changes,
    )


ROWS: Final = (
    *(
        _row(f"quarot-rtn-w{bits}", bits, f"round to nearest, {bits} bit, groups of 128", RtnSettings(bits))
        for bits in (4, 3)
    ),
    *(
        _row(f"quarot-gptq-w{bits}", bits, f"GPTQ, {bits} bit, groups of 128, act-order", GptqSettings(bits))
        for bits in (4, 3, 2)
    ),
    _row("quarot-a8-w8", 8, "weights 8 bit by channel, inputs 8 bit by token", RtnSettings(8, -1), activations=_A8),
    _row("quarot-a4-w4", 4, "weights 4 bit by channel, inputs 4 bit by token", RtnSettings(4, -1), activations=_A4),
    _row("quarot-gptq-a4-w4", 4, "GPTQ by channel, weights and inputs 4 bit", GptqSettings(4, -1), activations=_A4),
    _row(
        "quarot-gptq-cache4-w4",
        4,
        "GPTQ by channel; weights, inputs, keys and values 4 bit",
        GptqSettings(4, -1),
        activations=_A4,
        kv_cache=CacheSettings(4),
    ),
)
