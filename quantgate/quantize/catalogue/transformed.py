"""Rows of the method table that change the model before they round it, or round more than weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, cast

from quantgate.quantize.base import Method, NoSettings
from quantgate.quantize.settings import (
    FLOAT_BLOCK,
    ActivationSettings,
    AwqSettings,
    CacheSettings,
    ClipSettings,
    FloatFormat,
    FloatSettings,
    GptqSettings,
    RtnSettings,
    SmoothQuantSettings,
)

_AWQ: Final = "Lin et al. 2023 (arXiv 2306.00978)"
_SMOOTHQUANT: Final = "Xiao et al. 2022 (arXiv 2211.10438)"
_FORMATS: Final = {
    "e4m3": "OCP 8-bit Floating Point Specification 1.0",
    "nvfp4": "NVIDIA Blackwell's NVFP4",
    "mxfp4": "OCP Microscaling 1.0",
}
_TOKEN: Final = ActivationSettings(8, "token")
_STATIC: Final = ActivationSettings(8, "tensor", dynamic=False)


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
        source=f"{_AWQ}; ranges aligned with the quantizer as in LLMC (2405.06001)",
        transformation=AwqSettings(bits),
    )


def _awq_gptq(bits: int) -> Method:
    return Method(
        id=f"awq-gptq-w{bits}",
        algorithm="gptq",
        settings=GptqSettings(bits, sym=False),
        bits=bits,
        needs_calibration=True,
        storage="packed",
        code_version=1,
        summary=f"AWQ's scales, then GPTQ, {bits} bit, groups of 128, asymmetric, act-order",
        source=f"{_AWQ}; GPTQ (arXiv 2210.17323); paper B's toolbox",
        transformation=AwqSettings(bits),
    )


def _rtn(id: str, bits: int, activations: ActivationSettings, summary: str, **changes: Any) -> Method:
    """Weights by output channel (``group_size`` 128 if given in ``changes``), inputs as ``activations`` say."""
    group_size = changes.pop("group_size", -1)
    return Method(
        id=id,
        algorithm="rtn",
        settings=RtnSettings(bits, group_size),
        bits=bits,
        needs_calibration=changes.pop("needs_calibration", not activations.dynamic),
        storage="packed",
        code_version=1,
        summary=summary,
        source=changes.pop("source", "the baseline SmoothQuant is compared with"),
        activation_bits=activations.bits,
        activations=activations,
        **changes,
    )


def _float(id: str, bits: int, activations: ActivationSettings, what: str, **changes: Any) -> Method:
    """Weights and inputs in one float format."""
    kind = cast(FloatFormat, activations.kind)
    return Method(
        id=id,
        algorithm="float",
        settings=FloatSettings(kind),
        bits=bits,
        needs_calibration=not activations.dynamic,
        storage="packed",
        code_version=1,
        summary=what,
        source=_FORMATS[kind],
        activation_bits=activations.bits,
        activations=activations,
        **changes,
    )


def _smoothquant(id: str, bits: int, activations: ActivationSettings, summary: str) -> Method:
    smooth = {"transformation": SmoothQuantSettings(), "needs_calibration": True, "source": _SMOOTHQUANT}
    return _rtn(id, bits, activations, f"SmoothQuant (alpha 0.5) folded into the norms; {summary}", **smooth)


def _smoothquant_gptq(id: str, bits: int) -> Method:
    return Method(
        id=id,
        algorithm="gptq",
        settings=GptqSettings(bits, group_size=-1),
        bits=bits,
        needs_calibration=True,
        storage="packed",
        code_version=1,
        summary=f"SmoothQuant, then GPTQ: weights {bits} bit by channel, inputs 8 bit by token",
        source=f"{_SMOOTHQUANT}; GPTQ (arXiv 2210.17323); paper B's toolbox",
        activation_bits=8,
        transformation=SmoothQuantSettings(),
        activations=_TOKEN,
    )


def _block(kind: FloatFormat) -> ActivationSettings:
    return ActivationSettings(4, "group", group_size=FLOAT_BLOCK[kind], kind=kind)


def _cache(bits: int) -> Method:
    return Method(
        id=f"kv{bits}",
        algorithm="none",
        settings=NoSettings(),
        bits=16,
        needs_calibration=False,
        storage="fake",
        code_version=1,
        summary=f"keys and values {bits} bit by token and groups of 64 channels; weights stay 16 bit",
        source="naive cache quantization of LLMC (arXiv 2405.06001), keys before rotation as in KVQuant (2401.18079)",
        kv_cache=CacheSettings(bits),
    )


_ROWS: Final = (
    *map(_awq, (8, 4, 3, 2)),
    *map(_awq_gptq, (4, 3, 2)),
    _rtn("rtn-token-a8-w8", 8, _TOKEN, "weights 8 bit by channel, inputs 8 bit by token"),
    _rtn("rtn-tensor-a8-w8", 8, ActivationSettings(8, "tensor"), "weights 8 bit by channel, inputs 8 bit by tensor"),
    _rtn(
        "rtn-group-a8-w8",
        8,
        ActivationSettings(8, "group"),
        "weights 8 bit, inputs 8 bit by token, both in groups of 128",
        group_size=128,
    ),
    _rtn("rtn-static-a8-w8", 8, _STATIC, "weights 8 bit by channel, inputs 8 bit by tensor, calibrated ranges"),
    _rtn("rtn-token-a8-w4", 4, _TOKEN, "weights 4 bit by channel, inputs 8 bit by token"),
    _smoothquant("smoothquant8", 8, _TOKEN, "weights 8 bit by channel, inputs 8 bit by token"),
    _smoothquant("smoothquant-static-w8", 8, _STATIC, "weights 8 bit by channel, inputs 8 bit by tensor, calibrated"),
    _smoothquant("smoothquant4", 4, _TOKEN, "weights 4 bit by channel, inputs 8 bit by token"),
    _smoothquant("smoothquant3", 3, _TOKEN, "weights 3 bit by channel, inputs 8 bit by token"),
    _smoothquant("smoothquant-a4-w4", 4, ActivationSettings(4, "token"), "weights and inputs 4 bit"),
    _smoothquant_gptq("smoothquant-gptq-w8", 8),
    _smoothquant_gptq("smoothquant-gptq-w4", 4),
    _smoothquant_gptq("smoothquant-gptq-w3", 3),
    *(
        _rtn(
            id,
            bits,
            _TOKEN,
            f"ZeroQuant: weights {bits} bit in groups of 128, inputs 8 bit by token, without distillation",
            group_size=128,
            source="Yao et al. 2022 (arXiv 2206.01861)",
        )
        for id, bits in (("zeroquant8", 8), ("zeroquant4", 4))
    ),
    _float("float-token-a8-w8", 8, ActivationSettings(8, kind="e4m3"), "E4M3 weights by channel, E4M3 inputs by token"),
    _float(
        "float-tensor-a8-w8",
        8,
        ActivationSettings(8, "tensor", kind="e4m3"),
        "E4M3 weights by channel, E4M3 inputs by tensor",
    ),
    _float(
        "float-static-a8-w8",
        8,
        ActivationSettings(8, "tensor", dynamic=False, kind="e4m3"),
        "E4M3 weights by channel, E4M3 inputs by tensor, calibrated ranges",
    ),
    _float("nvfloat-a4-w4", 4, _block("nvfp4"), "NVFP4 weights and inputs: E2M1 in blocks of 16 with an E4M3 scale"),
    _float("mxfloat-a4-w4", 4, _block("mxfp4"), "MXFP4 weights and inputs: E2M1 in blocks of 32, powers of two"),
    *map(_cache, (8, 4, 2)),
)

_STANDARD: Final = ("awq8", "awq4", "awq3", "awq2", "smoothquant8")
ROWS: Final = tuple(replace(row, standard=row.id in _STANDARD) for row in _ROWS)
