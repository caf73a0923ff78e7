"""Which of LLMC's three strategies a method takes: transformation, clipping, reconstruction; none is plain rounding.

Gong et al. 2024 (arXiv 2405.06001) sort methods by what they change before or while they round: the model, so that it
rounds better; the range that is rounded; or the weights that are left, to make up for what was rounded already.
"""

from __future__ import annotations

from typing import Final, Literal

from quantgate.quantize.base import Method

Strategy = Literal["transformation", "clipping", "reconstruction"]
_BY_ALGORITHM: Final[dict[str, tuple[Strategy, ...]]] = {
    "rtn": (), "float": (), "llm_int8": (), "bnb_4bit": (), "none": (),
    "gptq": ("reconstruction",), "spqr": ("reconstruction",), "quip": ("transformation", "reconstruction"),
    "clipped_rtn": ("clipping",), "hqq": ("clipping",), "easyquant": ("clipping",),
    "slim": ("clipping", "reconstruction"), "omniquant": ("transformation", "clipping"),
}  # fmt: skip
_ORDER: Final[tuple[Strategy, ...]] = ("transformation", "clipping", "reconstruction")


def strategies_of(method: Method) -> tuple[Strategy, ...]:
    """Those of the method, in their order; empty for rounding alone, and for algorithms of other packages."""
    found = {*_BY_ALGORITHM.get(method.algorithm, ())}
    if method.transformation is not None or method.rotation is not None:
        found.add("transformation")
    return tuple(each for each in _ORDER if each in found)
