"""What every algorithm can be told: frozen data with its defaults, and nothing that imports torch.

The table of methods is read by commands that end before anything is computed (a typo, ``--collect-only``), so it must
cost no more than these classes. The code that follows them is in the module of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from quantgate.core.errors import MethodError

Need = Literal["hessian", "magnitude", "range"]
MIN_BITS: Final = 2
MAX_BITS: Final = 8


def check_grid(bits: int) -> None:
    """Raise MethodError for bits that no uniform grid here has."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise MethodError("uniform grid", f"{bits} bits", expected=f"{MIN_BITS} to {MAX_BITS} bits")


@dataclass(frozen=True)
class RtnSettings:
    """``group_size``: input features that share a scale (-1: all of them); ``sym``: zero fixed in the middle."""

    bits: int
    group_size: int = 128
    sym: bool = True


@dataclass(frozen=True)
class GptqSettings:
    """The defaults are those of paper A (AutoGPTQ's names).

    ``desc_act``: columns with the largest ``diag(H)`` first. ``static_groups``: scales fitted once to the original
    weights. ``damp_percent``: share of ``mean(diag(H))`` added to the diagonal. ``true_sequential``: layers of a block
    see their predecessors quantized. ``block_sequential``: so do the blocks.
    """

    bits: int
    group_size: int = 128
    sym: bool = True
    desc_act: bool = True
    static_groups: bool = False
    damp_percent: float = 0.01
    blocksize: int = 128
    true_sequential: bool = True
    block_sequential: bool = True


@dataclass(frozen=True)
class AwqSettings:
    """The transformation. ``grid``: number of ratios in [0, 1); the scales are searched for this weight grid."""

    bits: int
    group_size: int = 128
    sym: bool = False
    grid: int = 20


@dataclass(frozen=True)
class ClipSettings:
    """RTN with searched ranges. ``steps`` candidates, the range shrunk by up to ``max_shrink`` (exclusive)."""

    bits: int
    group_size: int = 128
    sym: bool = False
    steps: int = 10
    max_shrink: float = 0.5


@dataclass(frozen=True)
class SmoothQuantSettings:
    """``alpha``: how much of the difficulty moves, 0 (weights become even) to 1 (activations become even).

    Raises:
        MethodError: ``alpha`` outside [0, 1].
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise MethodError("smoothquant", f"alpha {self.alpha}", expected="0 to 1")


@dataclass(frozen=True)
class SpqrSettings:
    """The defaults are those of paper A.

    ``relative_threshold``: tau, relative to ``mean_j(var(W_j) / U_jj^2)``; None: no outliers. ``statistic_bits`` and
    ``statistic_group``: of the quantized scales and zero points. The rest as in `GptqSettings`.
    """

    bits: int
    group_size: int = 16
    relative_threshold: float | None = 0.2
    statistic_bits: int = 3
    statistic_group: int = 16
    desc_act: bool = True
    damp_percent: float = 0.01
    blocksize: int = 128
    true_sequential: bool = False
    block_sequential: bool = True


@dataclass(frozen=True)
class SlimSettings:
    """``bits``: the mean. ``stretch`` and ``steps``: factors tried are ``1 +- stretch``, ``steps`` on each side of 1.

    ``sample``: input vectors the divergence is measured on. The rest as in `GptqSettings`.
    """

    bits: int
    group_size: int = 128
    stretch: float = 0.1
    steps: int = 50
    sample: int = 256
    damp_percent: float = 0.01
    blocksize: int = 128
    true_sequential: bool = True
    block_sequential: bool = True


@dataclass(frozen=True)
class EasyQuantSettings:
    """``sigmas``: distance from the mean, in standard deviations, from which a weight is an outlier (paper: 2.5 to 3).

    ``group_size``: input features that share a scale (-1: all of them, as in the paper).
    """

    bits: int
    group_size: int = 128
    sigmas: float = 3.0


@dataclass(frozen=True)
class QuipSettings:
    """``half_range``: of the grid, in root mean squares of the rotated weight. The rest as in `GptqSettings`."""

    bits: int
    half_range: float = 2.4
    damp_percent: float = 0.01
    blocksize: int = 128
    seed: int = 1234
    true_sequential: bool = True
    block_sequential: bool = True


FloatFormat = Literal["e4m3", "e5m2", "nvfp4", "mxfp4"]


@dataclass(frozen=True)
class FloatSettings:
    """``kind``: see the module."""

    kind: FloatFormat


@dataclass(frozen=True)
class HqqSettings:
    """``group_size``: input features that share a scale. At 4 bit zero points are whole numbers, as in the library."""

    bits: int
    group_size: int = 64


@dataclass(frozen=True)
class Int8Settings:
    """``threshold``: activation columns that reach it are multiplied in 16 bit (6.0: the paper's, the library's)."""

    threshold: float = 6.0


@dataclass(frozen=True)
class Float4Settings:
    """``quant_type``: the sixteen levels; ``blocksize``: consecutive weights that share an absmax (float32)."""

    quant_type: Literal["nf4", "fp4"]
    blocksize: int = 64


Granularity = Literal["tensor", "token", "group"]


@dataclass(frozen=True)
class ActivationSettings:
    """How a layer's input is quantized.

    ``granularity``: what shares a scale: the whole tensor, each token, or each run of ``group_size`` features (of a
    token if ``dynamic``). ``dynamic``: ranges are those of the tensor at hand; otherwise of the calibration set.

    Raises:
        MethodError: static scales a token, which nothing could have measured, or bits the grid does not have.
    """

    bits: int = 8
    granularity: Granularity = "token"
    dynamic: bool = True
    sym: bool = True
    group_size: int = 128

    def __post_init__(self) -> None:
        if self.granularity == "token" and not self.dynamic:
            raise MethodError(
                "activations", "static scales by token", expected="dynamic, or granularity tensor or group"
            )
        check_grid(self.bits)

    @property
    def needs(self) -> frozenset[Need]:
        """What of the calibration set it looks at."""
        return frozenset() if self.dynamic else frozenset({"range"})


@dataclass(frozen=True)
class CacheSettings:
    """The key/value cache: every token's keys (before their rotation, as in KVQuant, arXiv 2401.18079) and values, in
    groups of ``group_size`` channels (a head, usually), asymmetric with a float32 range that follows the token."""

    bits: int = 8
    group_size: int = 64

    @property
    def bits_effective(self) -> float:
        """Bits per element with a 16-bit scale and a zero point a group."""
        return self.bits + (16 + self.bits) / self.group_size
