"""What every algorithm can be told: frozen data with its defaults, and nothing that imports torch.

The table of methods is read by commands that end before anything is computed (a typo, ``--collect-only``), so it must
cost no more than these classes. The code that follows them is in the module of the same name.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Final, Literal

from quantgate.core.errors import MethodError

Need = Literal["hessian", "magnitude", "range"]
MIN_BITS: Final = 2
MAX_BITS: Final = 8
QUANT_METHOD: Final = "quantgate"
"""In a checkpoint's ``quantization_config``: the layout of our own."""
LATER: Final = {"later": True}
"""Of a setting that older records lack: it is written down only where it is not its default, which they mean."""


def check_grid(bits: int) -> None:
    """Raise MethodError for bits that no uniform grid here has."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise MethodError("uniform grid", f"{bits} bits", expected=f"{MIN_BITS} to {MAX_BITS} bits")


def check_sizes(who: str, settings: Any, *names: str) -> None:
    """Raise MethodError for a size that is no whole number of at least 1; -1 means all of them for a ``group_size``."""
    for name in names:
        size = getattr(settings, name)
        if type(size) is int and (size >= 1 or (size == -1 and name == "group_size")):
            continue
        whole = ", or -1 for all input features" if name == "group_size" else ""
        raise MethodError(who, f"{name} {size!r}", expected=f"a whole number of at least 1{whole}")


def as_settings(settings: Any) -> dict[str, Any]:
    """Settings by name as records and checkpoints hold them."""
    return {
        each.name: _plain(value)
        for each in fields(settings)
        if (value := getattr(settings, each.name)) != _default(each) or not each.metadata.get("later")
    }


def _default(each: Any) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return as_settings(value) if is_dataclass(value) else value


@dataclass(frozen=True)
class RtnSettings:
    """``group_size``: input features that share a scale (-1: all of them); ``sym``: zero fixed in the middle.

    ``whole``: one scale for the whole matrix; ``group_size`` must be -1 then.

    Raises:
        MethodError: settings no grid has.
    """

    bits: int
    group_size: int = 128
    sym: bool = True
    whole: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        check_grid(self.bits)
        check_sizes("rtn", self, "group_size")
        if self.whole and self.group_size != -1:
            raise MethodError("rtn", f"one scale a matrix and group_size {self.group_size}", expected="group_size -1")


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

    def __post_init__(self) -> None:
        check_grid(self.bits)
        check_sizes("gptq", self, "group_size", "blocksize")


@dataclass(frozen=True)
class AwqSettings:
    """The transformation. ``grid``: number of ratios in [0, 1); the scales are searched for this weight grid."""

    bits: int
    group_size: int = 128
    sym: bool = False
    grid: int = 20

    def __post_init__(self) -> None:
        check_grid(self.bits)
        check_sizes("awq", self, "group_size", "grid")


@dataclass(frozen=True)
class ClipSettings:
    """RTN with searched ranges. ``steps`` candidates, the range shrunk by up to ``max_shrink`` (exclusive)."""

    bits: int
    group_size: int = 128
    sym: bool = False
    steps: int = 10
    max_shrink: float = 0.5

    def __post_init__(self) -> None:
        check_grid(self.bits)
        check_sizes("clipped rtn", self, "group_size", "steps")


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
class RotationSettings:
    """``seed``: of the signs of the Hadamard matrices. ``heads``: values are rotated within each head, too."""

    seed: int = 1234
    heads: bool = True


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

    def __post_init__(self) -> None:
        check_grid(self.bits)
        check_sizes("spqr", self, "group_size", "statistic_group", "blocksize")


@dataclass(frozen=True)
class SlimSettings:
    """``bits``: the mean. ``stretch`` and ``steps``: factors tried are ``1 +- stretch``, ``steps`` on each side of 1.

    ``sample``: input vectors the divergence is measured on. ``split``: the errors of a group's salient weights (2
    deviations above the mean salience) and of its others are added as means, not as sums; ``exponent``: of an error's
    magnitude. The rest as in `GptqSettings`.
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
    exponent: float = field(default=2.0, metadata=LATER)
    split: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        check_grid(self.bits)
        check_sizes("slim", self, "group_size", "steps", "sample", "blocksize")


@dataclass(frozen=True)
class OmniQuantSettings:
    """The defaults are the paper's. ``epochs`` of ``step_tokens`` tokens (whole samples) a step; ``clip_rate`` and
    ``scale_rate``: learning rates of ranges and of scales; ``start``: of the ranges' logits.

    ``transform``: inputs are scaled, too, at first as by SmoothQuant with ``alpha``. ``both``: the outputs of the
    16-bit block on the quantized model's inputs are aimed at, too. ``salience``: bits of groups differ (SliM-LLM).
    """

    bits: int
    group_size: int = 128
    epochs: int = 20
    step_tokens: int = 2048
    clip_rate: float = 5e-3
    scale_rate: float = 1e-2
    start: float = 4.0
    transform: bool = False
    alpha: float = 0.5
    both: bool = False
    salience: bool = False

    def __post_init__(self) -> None:
        check_grid(self.bits)
        check_sizes("omniquant", self, "group_size", "epochs", "step_tokens")
        if self.transform and self.salience:
            raise MethodError("omniquant", "transform and salience together", expected="one of them")


@dataclass(frozen=True)
class EasyQuantSettings:
    """``sigmas``: distance from the mean, in standard deviations, from which a weight is an outlier (paper: 2.5 to 3).

    ``group_size``: input features that share a scale (-1: all of them, as in the paper). ``search``: how the range is
    found, by a scan or by the paper's 500 steps of Adam.
    """

    bits: int
    group_size: int = 128
    sigmas: float = 3.0
    search: Literal["scan", "adam"] = field(default="scan", metadata=LATER)

    def __post_init__(self) -> None:
        check_grid(self.bits)
        check_sizes("easyquant", self, "group_size")


@dataclass(frozen=True)
class QuipSettings:
    """``half_range``: of the grid, in root mean squares of the rotated weight. ``factors``: of the rotations, Hadamard
    and cosine transform, or two random orthogonal ones (the paper's). The rest as in `GptqSettings`.
    """

    bits: int
    half_range: float = 2.4
    damp_percent: float = 0.01
    blocksize: int = 128
    seed: int = 1234
    true_sequential: bool = True
    block_sequential: bool = True
    factors: Literal["hadamard", "orthogonal"] = field(default="hadamard", metadata=LATER)

    def __post_init__(self) -> None:
        check_grid(self.bits)
        check_sizes("quip", self, "blocksize")


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

    def __post_init__(self) -> None:
        check_grid(self.bits)
        check_sizes("hqq", self, "group_size")


@dataclass(frozen=True)
class Int8Settings:
    """``threshold``: activation columns that reach it are multiplied in 16 bit (6.0: the paper's, the library's)."""

    threshold: float = 6.0


@dataclass(frozen=True)
class Float4Settings:
    """``quant_type``: the sixteen levels; ``blocksize``: consecutive weights that share an absmax (float32)."""

    quant_type: Literal["nf4", "fp4"]
    blocksize: int = 64

    def __post_init__(self) -> None:
        check_sizes("bitsandbytes", self, "blocksize")


Granularity = Literal["tensor", "token", "group"]
ActivationKind = Literal["int", "e4m3", "e5m2", "nvfp4", "mxfp4"]
FLOAT_BLOCK: Final = {"nvfp4": 16, "mxfp4": 32}


@dataclass(frozen=True)
class ActivationSettings:
    """How a layer's input is quantized.

    ``granularity``: what shares a scale: the whole tensor, each token, or each run of ``group_size`` features (of a
    token if ``dynamic``). ``dynamic``: ranges are those of the tensor at hand; otherwise of the calibration set.
    ``kind``: whole numbers, or floats: ``e4m3`` and ``e5m2`` (8 bit; a scale a group is dynamic), ``nvfp4`` and
    ``mxfp4`` (4 bit, dynamic, groups of 16 and 32 with a scale of the format; NVFP4's common scale is a token's).
    ``rotation``: seed of a rotation of the input before it is quantized; the weight holds the same one.

    Raises:
        MethodError: static scales a token, which nothing could have measured, or what the kind does not have.
    """

    bits: int = 8
    granularity: Granularity = "token"
    dynamic: bool = True
    sym: bool = True
    group_size: int = 128
    kind: ActivationKind = field(default="int", metadata=LATER)
    rotation: int | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.granularity == "token" and not self.dynamic:
            raise MethodError(
                "activations", "static scales by token", expected="dynamic, or granularity tensor or group"
            )
        check_sizes("activations", self, "group_size")
        if self.kind == "int":
            check_grid(self.bits)
            return
        wanted = {"e4m3": 8, "e5m2": 8, "nvfp4": 4, "mxfp4": 4}.get(self.kind)
        if self.bits != wanted or not self.sym:
            form = "symmetric" if self.sym else "asymmetric"
            raise MethodError(
                "activations", f"{form} {self.kind} of {self.bits} bit", expected=f"symmetric, {wanted} bit"
            )
        block = FLOAT_BLOCK.get(self.kind)
        if block and (self.granularity, self.dynamic, self.group_size) != ("group", True, block):
            raise MethodError(
                "activations", f"{self.kind} by {self.granularity}", expected=f"dynamic groups of {block}"
            )
        if not block and self.granularity == "group" and not self.dynamic:
            raise MethodError("activations", f"static {self.kind} by group", expected="dynamic, or a scale a tensor")

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

    def __post_init__(self) -> None:
        check_grid(self.bits)
        check_sizes("kv_cache", self, "group_size")

    @property
    def bits_effective(self) -> float:
        """Bits per element with a 16-bit scale and a zero point a group."""
        return self.bits + (16 + self.bits) / self.group_size


@dataclass(frozen=True)
class StoredCacheSettings:
    """A key/value cache of codes, as in KIVI. ``group_size``: tokens of a channel's keys, or channels of a token's
    values, that share a range. ``residual``: newest tokens that stay as they are, whole groups.

    Raises:
        MethodError: bits that do not fill bytes, or a residual that is not whole groups.
    """

    bits: int = 2
    group_size: int = 32
    residual: int = 128

    def __post_init__(self) -> None:
        check_sizes("stored cache", self, "group_size", "residual")
        if self.bits not in (2, 4, 8):
            raise MethodError("stored cache", f"{self.bits} bits", expected="2, 4 or 8 bits")
        if self.group_size * self.bits % 8 or self.group_size < 1 or self.residual % self.group_size:
            raise MethodError(
                "stored cache",
                f"a residual of {self.residual} tokens in groups of {self.group_size}",
                expected="whole groups, and whole bytes of codes",
            )
