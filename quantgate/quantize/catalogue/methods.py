"""The table of methods. A new method is a new row; a new algorithm is a new file and a row in `ALGORITHMS`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from quantgate.core.errors import UsageError
from quantgate.core.naming import same_name, suggestion
from quantgate.core.registry import check_packages, with_packages
from quantgate.quantize.base import Algorithm, Method
from quantgate.quantize.catalogue import learned, rotated, transformed
from quantgate.quantize.catalogue.plugins import MethodPlugin, check_rows, installed_plugins, merged, table_of
from quantgate.quantize.settings import (
    AwqSettings,
    EasyQuantSettings,
    Float4Settings,
    FloatFormat,
    FloatSettings,
    GptqSettings,
    HqqSettings,
    Int8Settings,
    QuipSettings,
    RtnSettings,
    SlimSettings,
    SmoothQuantSettings,
    SpqrSettings,
)

if TYPE_CHECKING:
    from quantgate.quantize.transforms.fold import Transformation


@dataclass(frozen=True)
class Later:
    """A class of the room ``quantize``, imported when first called: its module loads torch, the table does not."""

    module: str
    name: str

    def __call__(self, settings: Any) -> Any:
        """The algorithm or transformation with its settings."""
        return self.load()(settings)

    def load(self) -> Any:
        """The class itself."""
        return getattr(importlib.import_module(f"quantgate.quantize.{self.module}"), self.name)


_OWN_ALGORITHMS: Final[dict[str, Callable[[Any], Algorithm]]] = {
    "rtn": Later("algorithms.rtn", "Rtn"),
    "gptq": Later("algorithms.gptq", "Gptq"),
    "spqr": Later("algorithms.spqr", "Spqr"),
    "slim": Later("algorithms.slim", "Slim"),
    "easyquant": Later("algorithms.easyquant", "EasyQuant"),
    "float": Later("algorithms.floats", "FloatFormats"),
    "quip": Later("algorithms.quip", "Quip"),
    "hqq": Later("algorithms.hqq", "Hqq"),
    "llm_int8": Later("algorithms.bnb", "Int8"),
    "bnb_4bit": Later("algorithms.bnb", "Float4"),
    "omniquant": Later("algorithms.omniquant", "OmniQuant"),
    "clipped_rtn": Later("algorithms.awq", "ClippedRtn"),
}
NO_WEIGHTS: Final = "none"  # the algorithm of rows that leave every weight as it is
_OWN_TRANSFORMATIONS: Final[dict[type, Callable[[Any], Transformation]]] = {
    AwqSettings: Later("algorithms.awq", "Awq"),
    SmoothQuantSettings: Later("transforms.smoothquant", "SmoothQuant"),
}


def _rtn(bits: int) -> Method:
    return Method(
        id=f"rtn{bits}",
        algorithm="rtn",
        settings=RtnSettings(bits),
        bits=bits,
        needs_calibration=False,
        storage="packed",
        code_version=1,
        summary=f"round to nearest, {bits} bit, groups of 128, symmetric",
        source="baseline of every paper; grid as in AutoGPTQ 0.7.1",
    )


def _gptq(bits: int) -> Method:
    return Method(
        id=f"gptq{bits}",
        algorithm="gptq",
        settings=GptqSettings(bits),
        bits=bits,
        needs_calibration=True,
        storage="packed",
        code_version=1,
        summary=f"GPTQ, {bits} bit, groups of 128, symmetric, act-order, true-sequential",
        source="Frantar et al. 2022 (arXiv 2210.17323); settings of quant_eval (paper A)",
    )


def _gptq_static(bits: int) -> Method:
    """Act-order whose checkpoint has its groups in order: for runtimes that refuse the other kind (vLLM, Marlin)."""
    return replace(
        _gptq(bits),
        id=f"gptq-static-w{bits}",
        settings=GptqSettings(bits, static_groups=True),
        summary=f"GPTQ, {bits} bit, act-order with static groups of 128: groups stay in order, as vLLM wants them",
        source="Frantar et al. 2022 (arXiv 2210.17323); static groups of AutoGPTQ",
        standard=False,
    )


def _float_inputs(method: Method) -> Method:
    """The row that reads the 16-bit model's inputs only: its statistics can be summed over shards beforehand."""
    settings: Any = replace(cast(Any, method.settings), true_sequential=False, block_sequential=False)
    said = method.summary.replace(", true-sequential", "")
    return replace(
        method,
        id=f"{method.algorithm}-float-w{method.bits}",
        settings=settings,
        summary=f"{said}, of the 16-bit model's inputs",
        standard=False,
    )


def _spqr(name: str, bits: int, what: str = "", **changes: Any) -> Method:
    settings = SpqrSettings(bits, **changes)
    return Method(
        id=name,
        algorithm="spqr",
        settings=settings,
        bits=bits,
        needs_calibration=True,
        storage="packed",
        code_version=2,
        summary=f"SpQR, {bits} bit, groups of {settings.group_size}, 3-bit statistics, {what or '16-bit outliers'}",
        source="Dettmers et al. 2023 (arXiv 2306.03078); settings of quant_eval (paper A)",
        standard=not what,
    )


_SPQR: Final = (
    *(_spqr(f"spqr{bits}", bits) for bits in (8, 4, 3, 2)),
    _spqr("spqr-dense-w2", 2, "no outliers", relative_threshold=None),
    _spqr("spqr-g128-w2", 2, "16-bit outliers", group_size=128),
)


def _slim(bits: int) -> Method:
    return Method(
        id=f"slim{bits}",
        algorithm="slim",
        settings=SlimSettings(bits),
        bits=bits,
        needs_calibration=True,
        storage="packed",
        code_version=1,
        summary=f"SliM-LLM, {bits} bit on average: groups of 128 with {bits - 1}, {bits} or {bits + 1} bit by salience",
        source="Huang et al. 2024 (arXiv 2405.14917)",
        standard=bits == 2,
    )


def _easyquant(bits: int) -> Method:
    return Method(
        id=f"easyquant{bits}",
        algorithm="easyquant",
        settings=EasyQuantSettings(bits),
        bits=bits,
        needs_calibration=False,
        storage="packed",
        code_version=2,
        summary=f"EasyQuant, {bits} bit, groups of 128, weights beyond 3 sigma in 16 bit, ranges of least error",
        source="Tang et al. 2024 (arXiv 2403.02775); groups instead of whole rows",
        standard=bits == 4,
    )


_PAPER: Final = (  # settings as published, where the standard rows have others
    *(
        replace(
            _slim(bits),
            id=f"slim-paper-w{bits}",
            settings=SlimSettings(bits, exponent=2.4, split=True),
            summary=f"SliM-LLM, {bits} bit on average, salient weights apart, errors to the power of 2.4",
            standard=False,
        )
        for bits in (3, 2)
    ),
    replace(
        _easyquant(4),
        id="easyquant-paper-w4",
        settings=EasyQuantSettings(4, -1, search="adam"),
        summary="EasyQuant, 4 bit, one scale an output feature, ranges by 500 steps of Adam, outliers beyond 3 sigma",
        source="Tang et al. 2024 (arXiv 2403.02775)",
        standard=False,
    ),
)


def _float(name: str, kind: FloatFormat, bits: int, what: str, source: str) -> Method:
    return Method(
        id=name,
        algorithm="float",
        settings=FloatSettings(kind),
        bits=bits,
        needs_calibration=False,
        storage="packed",
        code_version=2 if kind == "nvfp4" else 1,
        summary=what,
        source=source,
        standard=kind in ("e4m3", "nvfp4"),
    )


_OCP8: Final = "OCP 8-bit Floating Point Specification 1.0"
_FLOATS: Final = (
    _float("float8-e4m3", "e4m3", 8, "E4M3 weights, a scale an output feature", _OCP8),
    _float("float8-e5m2", "e5m2", 8, "E5M2 weights, a scale an output feature", _OCP8),
    _float("nvfloat4", "nvfp4", 4, "NVFP4: E2M1 weights, blocks of 16 with an E4M3 scale", "NVIDIA Blackwell's NVFP4"),
    _float("mxfloat4", "mxfp4", 4, "MXFP4: E2M1 weights, blocks of 32 with a power of two", "OCP Microscaling 1.0"),
)


def _quip(bits: int, half_range: float) -> Method:
    """The authors take 2.4 at any bits; below 4 a narrower grid leaves less output error (0.039 for 0.054 at 2 bit)."""
    return Method(
        id=f"quip{bits}",
        algorithm="quip",
        settings=QuipSettings(bits, half_range),
        bits=bits,
        needs_calibration=True,
        storage="packed",
        code_version=1,
        summary=f"QuIP, {bits} bit: randomly rotated weights on a grid of +-{half_range} rms, rotated back on loading",
        source="Chee et al. 2023 (arXiv 2307.13304); Hadamard rotations as in QuIP# (2402.04396)",
        standard=bits == 2,
    )


def _quip_paper(bits: int) -> Method:
    return replace(
        _quip(bits, 2.4),
        id=f"quip-paper-w{bits}",
        settings=QuipSettings(bits, factors="orthogonal"),
        summary=f"QuIP, {bits} bit: two random orthogonal factors a rotation, grid of +-2.4 rms",
        source="Chee et al. 2023 (arXiv 2307.13304)",
        standard=False,
    )


def _hqq(bits: int) -> Method:
    return Method(
        id=f"hqq{bits}",
        algorithm="hqq",
        settings=HqqSettings(bits),
        bits=bits,
        needs_calibration=False,
        storage="packed",
        code_version=1,
        summary=f"HQQ, {bits} bit, groups of 64, asymmetric, by its library (optional: quantgate[hqq])",
        source="Badri and Shaji 2023, hqq 0.2.8",
        standard=False,
    )


_INT8: Final = Method(
    id="int8",
    algorithm="llm_int8",
    settings=Int8Settings(),
    bits=8,
    needs_calibration=False,
    storage="packed",
    code_version=1,
    summary="LLM.int8: weights and activations int8 by row, activation columns with outliers in 16 bit",
    source="Dettmers et al. 2022 (arXiv 2208.07339), bitsandbytes",
    activation_bits=8,
)


def _float4(quant_type: Literal["nf4", "fp4"]) -> Method:
    return Method(
        id=quant_type,
        algorithm="bnb_4bit",
        settings=Float4Settings(quant_type),
        bits=4,
        needs_calibration=False,
        storage="packed",
        code_version=1,
        summary=f"{quant_type.upper()}: sixteen levels, blocks of 64 with a float32 absmax",
        source="Dettmers et al. 2023 (QLoRA, arXiv 2305.14314), bitsandbytes",
    )


_ROWS: Final = (
    *map(_rtn, (8, 4, 3, 2)),
    replace(
        _rtn(8),
        id="rtn-whole-w8",
        settings=RtnSettings(8, -1, whole=True),
        summary="round to nearest, 8 bit, one scale a matrix, symmetric",
        standard=False,
    ),
    *map(_gptq, (8, 4, 3, 2)),
    *map(_gptq_static, (8, 4, 3)),
    *(_float_inputs(_gptq(bits)) for bits in (4, 3)),
    *(_float_inputs(_spqr(f"spqr{bits}", bits)) for bits in (4, 3)),
    _INT8,
    _float4("nf4"),
    _float4("fp4"),
    *_SPQR,
    *map(_slim, (4, 3, 2)),
    *map(_easyquant, (8, 4, 3, 2)),
    *(_quip(bits, half_range) for bits, half_range in ((4, 2.4), (3, 2.1), (2, 1.8))),
    *map(_quip_paper, (4, 3, 2)),
    *_PAPER,
    *map(_hqq, (4, 3, 2)),
    *_FLOATS,
    *transformed.ROWS,
    *rotated.ROWS,
    *learned.ROWS,
)


@dataclass(frozen=True)
class _Tables:
    """Ours, with what ``plugins`` add."""

    plugins: Sequence[MethodPlugin]

    @classmethod
    def of(cls, plugins: Sequence[MethodPlugin]) -> _Tables:
        """Raises UsageError where a plugin brings what no run could use."""
        found = cls(plugins)
        check_rows(plugins, [*found.algorithms, NO_WEIGHTS], found.transformations)
        _ = found.methods
        return found

    @property
    def algorithms(self) -> dict[str, Callable[[Any], Algorithm]]:
        return merged(_OWN_ALGORITHMS, [plugin.algorithms for plugin in self.plugins], "algorithm")

    @property
    def transformations(self) -> dict[type, Callable[[Any], Transformation]]:
        return merged(_OWN_TRANSFORMATIONS, [plugin.transformations for plugin in self.plugins], "transformation")

    @property
    def methods(self) -> dict[str, Method]:
        return table_of([*_ROWS, *(row for plugin in self.plugins for row in plugin.rows)])


_TABLES: Final = with_packages(lambda: _Tables.of(installed_plugins()), lambda: _Tables(()))
ALGORITHMS: Final = _TABLES.algorithms
TRANSFORMATIONS: Final = _TABLES.transformations
METHODS: Final = _TABLES.methods


_ALL: Final = "all"


def get_methods(ids: Sequence[str], who: str = "--methods") -> list[Method]:
    """The rows called ``ids`` in any case, in that order, each once; ``all`` is every row of the table.

    ``who``: where they were named, for messages.

    Raises:
        UsageError: an id is not in the table; the message names the closest ones.
    """
    check_packages()
    chosen: list[str] = []
    for typed in ids:
        name = same_name(typed, [*METHODS, _ALL])
        if name is None:
            raise UsageError(who, f"unknown method {typed!r}", hint=suggestion(typed, METHODS, 3))
        chosen += METHODS if name == _ALL else [name]
    return [METHODS[name] for name in dict.fromkeys(chosen)]


def get_method(name: str) -> Method:
    """The one row called ``name``. Raises UsageError, also for ``all``."""
    found = get_methods([name], "method")
    if len(found) != 1:
        raise UsageError("method", f"{name!r} is {len(found)} methods", expected="the id of one, for example gptq4")
    return found[0]


def standard_methods(keywords: str = "") -> list[Method]:
    """The rows of a run that names no methods: the standard ones, and those that ``keywords`` (of ``-k``) name."""
    return [method for method in METHODS.values() if method.standard or method.id in keywords]


def algorithm_of(method: Method) -> Algorithm:
    """The algorithm of a row, with the row's settings."""
    return ALGORITHMS[method.algorithm](method.settings)


def transformation_of(method: Method) -> Transformation | None:
    """What is folded into the model before the row's algorithm rounds it."""
    return TRANSFORMATIONS[type(method.transformation)](method.transformation) if method.transformation else None
