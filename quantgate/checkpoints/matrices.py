"""Distances between a matrix of a checkpoint and the reference's, and what a distance can come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from quantgate.checkpoints.layouts.protocol import CHANNEL, TENSOR, StoredModule

if TYPE_CHECKING:
    from torch import Tensor

_STEPS: Final = 4  # of the fit of scales: each halves what is left at least
_LOST: Final = 0.01  # of a usual row's squared factor, below which a row is not believed as much as others
LEAST: Final = 0.002  # error of the finest grid that is told from another: outliers widen the steps of 8 bits
_RANGE: Final = 3.0  # range of a grid in standard deviations where the layout does not say its steps
_PIECE: Final = 1 << 22  # weights that are compared at a time
_ENOUGH: Final = 1 << 22  # weights that say what a matrix is like
_TINY: Final = 1e-30
_LIGHT: Final = 0.1  # share of a usual group's squares below which a group has no say
_FEW_GROUPS: Final = 16  # correlate by chance
_RELATED: Final = (
    0.4  # correlation: rounding twice leaves up to 0.36, scales of other groups of like sizes 0.40 to 0.96
)
_PIECE_OF_ROW: Final = 64
_ALONG: Final = 0.5  # cosine of a group's angle: 0.95 and more in 16 levels without feedback, 0.18 by chance for 32
_NEAREST_OF_ALL: Final = 1.5  # times what rounding to the nearest leaves of the usual group; with feedback 1.6 and more
_OFF: Final = 4.0  # times: 0.87 to 1.13 in honest ones
_ONE_SIDED: Final = 0.6  # of the squared error of a group is its mean: one step off leaves 0.92, rounding 1 / size
FINEST: Final = 2e-5  # the same of integers whose steps are known: their scales are rounded to 16 bit


def least_error(weight: Tensor, module: StoredModule) -> float:
    """Relative squared error of rounding ``weight`` (``[out, in]``) to the nearest level of a grid of its kind.

    For integers that is a twelfth of a squared step, steps taken from the range of each group; where there are no steps
    (floats, tables of levels) those of ``2^bits - 1`` steps over +-`_RANGE` standard deviations, at least `LEAST`.
    """
    levels = 2.0 ** min(module.bits, 16.0) - 1
    if module.bits < 1:
        share = 1.0
    elif module.kind == "int" and module.group is not None and module.rows == 1:
        return max(FINEST, _squared_steps(weight, module.group, bool(module.symmetric), levels) / 12)
    else:
        share = (2 * _RANGE / levels) ** 2
    return max(LEAST, share / 12)


def _squared_steps(weight: Tensor, group: int, symmetric: bool, levels: float) -> float:
    """Mean squared step of a grid over each group's range, relative to the mean square of the weights."""
    width = _ranges(weight, group, symmetric)
    return float((width / levels).square().mean() / weight.square().mean().clamp(min=_TINY))


def _ranges(weight: Tensor, group: int, symmetric: bool) -> Tensor:
    """What a grid has to reach over in every group, as `block_max`."""
    high, low = (each.clamp(min=0) for each in (block_max(weight, group), block_max(-weight, group)))
    return 2 * high.maximum(low) if symmetric else high + low


def block_max(weight: Tensor, group: int) -> Tensor:
    """The largest value of every group of input features, ``[out, groups]``; a shorter last group counts as one."""
    if group == TENSOR:
        return weight.amax().view(1, 1)
    size = weight.shape[1] if group == CHANNEL else group
    whole = weight.shape[1] // size * size
    found: Tensor = weight[:, :whole].reshape(len(weight), -1, size).amax(2)
    if whole == weight.shape[1]:
        return found
    import torch

    return torch.cat([found, weight[:, whole:].amax(1, keepdim=True)], 1)


def plain_distance(weight: Tensor, found: Tensor) -> float:
    """Relative squared error of ``found`` against ``weight``, both ``[out, in]`` of any float dtype; read in pieces."""
    step = max(1, _PIECE // max(1, weight[:1].numel()))
    lost = whole = 0.0
    for start in range(0, len(weight), step):
        one, other = weight[start : start + step].float(), found[start : start + step].float()
        lost += float((other - one).square().sum())
        whole += float(one.square().sum())
    return lost / max(whole, _TINY)


def is_zero(values: Tensor) -> bool:
    """Whether all of them are; a first row that is not says so at once."""
    return not bool(values[:1].any()) and not bool(values.any())


def sampled(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Evenly spaced rows of large matrices, the same of both: what concerns a matrix shows in some million weights."""
    step = max(1, -(-one.numel() // _ENOUGH))
    return one[::step], other[::step]


@dataclass(frozen=True)
class Pair:
    """A matrix of the reference (as stored) and the candidate's (float32), both ``[out, in]``."""

    weight: Tensor
    found: Tensor

    @cached_property
    def sample(self) -> tuple[Tensor, Tensor]:
        """`sampled`, both in float32."""
        one, other = sampled(self.weight, self.found)
        return one.float(), other.float()

    @cached_property
    def wide(self) -> Tensor:
        """The reference's in float32: as large as the candidate's, and seldom needed."""
        return self.weight.float()

    @cached_property
    def fit(self) -> Fit:
        """See `fit_scales`."""
        return fit_scales(self.wide, self.found)


@dataclass(frozen=True)
class Fit:
    """``found`` as ``rows * weight * columns`` by least squares; ``error``: what is left, relative and squared.

    ``scaled``: that product, ``[out, in]``. One of ``rows`` (``[out]``) and ``columns`` (``[in]``) may take any factor
    from the other. ``mass``: squares of ``weight``'s columns, ``[in]``.
    """

    error: float
    rows: Tensor
    columns: Tensor
    scaled: Tensor
    mass: Tensor


def fit_scales(weight: Tensor, found: Tensor) -> Fit:
    """The factors for rows and columns that bring ``weight`` nearest to ``found``: AWQ and SmoothQuant fold such in.

    The steps of a grid are as large as the weights of a row, so that the error of a row is measured by its own factor
    where columns are fitted; those come first: a column may be a hundred times as large as the others.
    """
    product, square = weight * found, weight.square()
    rows = weight.new_ones(len(weight))
    columns = weight.new_ones(weight.shape[1])
    for _ in range(_STEPS):
        power = rows.square()
        trust = rows / power.clamp(min=_LOST * float(power.median()) + _TINY)
        columns = trust @ product / ((trust * rows) @ square).clamp(min=_TINY)
        rows = product @ columns / (square @ columns.square()).clamp(min=_TINY)
    scaled = weight * rows.unsqueeze(1) * columns
    lost = weight[:, ~found.any(0)].square().sum() / weight.square().sum().clamp(min=_TINY)  # no scale is zero
    left = (found - scaled).square().sum() / found.square().sum().clamp(min=_TINY) + lost
    return Fit(float(left), rows, columns, scaled, square.sum(0))


def spread(weight: Tensor, found: Tensor, group: int | None) -> float:
    """Standard deviation of the factors between the groups of ``found`` and those of ``weight``.

    Rounding leaves each of them near 1; scales of another matrix, or in another order, do not.
    """
    factors, _ = _group_factors(weight, found, group)
    return float(factors.std()) if factors.numel() > 1 else 0.0


def own_ranges(weight: Tensor, found: Tensor, group: int | None) -> bool:
    """Whether the factors between the groups of ``found`` and those of ``weight`` have nothing to do with their sizes.

    Scales of other groups, or of one size for all, make small groups large and large ones small: the logarithm of the
    factor falls with that of the group's largest weight. What moved each step for a reason of its own (a second
    rounding, a clipped range) does not follow it.
    """
    factors, largest = _group_factors(weight, found, group)
    if factors.numel() < _FEW_GROUPS or bool((factors <= 0).any()):
        return False
    size, by = (each.log() - each.log().mean() for each in (largest, factors))
    return abs(float((size * by).sum())) < _RELATED * float(size.norm() * by.norm())


def lost_groups(weight: Tensor, found: Tensor, module: StoredModule, allowed: float) -> int:
    """Groups of ``found`` that are not ``weight``'s, as `groups_off` counts them, where these are single ones.

    Rounding with feedback (GPTQ) leaves single groups anywhere: where the others have more than ``allowed`` (relative,
    squared) of error, none is named, nor where most groups are off: that is a factor of the whole matrix, which a fold
    leaves.
    """
    lost, apart, mass, most = _groups(weight, found, module)
    if not bool(lost.any()) or 2 * int(lost.sum()) > lost.numel():
        return 0
    rest = apart[~lost].sum() / mass[~lost].sum().clamp(min=_TINY)
    usual = (3 * apart / most.clamp(min=_TINY))[~lost].median()  # a third of the largest error, squared, is the mean
    return int(lost.sum()) if float(rest) <= allowed and float(usual) <= _NEAREST_OF_ALL else 0


def groups_off(weight: Tensor, found: Tensor, module: StoredModule) -> int:
    """Groups of ``found`` (pieces of `_PIECE_OF_ROW` where the layout has none) that are not ``weight``'s.

    Rounding to the nearest of 16 levels and more leaves each of them nearly along the original, at about its size,
    unless it is small beside its steps: half a step of error a weight is no loss. One that holds something else, or has
    a scale of another size, hardly shows in the whole matrix.
    """
    lost, *_ = _groups(weight, found, module)
    return int(lost.sum())


def _groups(weight: Tensor, found: Tensor, module: StoredModule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By group, ``[out, groups]``: whether it is off, squared error, squares of ``weight``, and the most error that
    rounding to the nearest leaves.
    """
    import torch

    group = module.group
    size = group if group is not None and 0 < group < weight.shape[1] else min(_PIECE_OF_ROW, weight.shape[1])
    whole = weight.shape[1] // size * size
    ours, theirs = (each[:, :whole].reshape(len(each), -1, size) for each in (weight, found))
    mass, power = ours.square().sum(2), theirs.square().sum(2)
    along = (ours * theirs).sum(2)
    factors = along / mass.clamp(min=_TINY)
    lost = (along < _ALONG * (mass * power).sqrt()) | (factors > _OFF) | (factors < 1 / _OFF)
    heard = (mass > _LIGHT * mass.mean()) | (
        power > _LIGHT * power.mean()
    )  # a row that was fitted away still has power
    apart, lost = mass + power - 2 * along, lost & heard
    # steps are asked of those that may be lost alone
    most = size * _half_steps(weight, module)[:, : whole // size] if bool(lost.any()) else torch.ones_like(mass[:, :1])
    return lost & (apart > most), apart, mass, most


def _half_steps(weight: Tensor, module: StoredModule) -> Tensor:
    """Half a step, squared, of the grid of every group: ``[out, groups]``, or one for all of a row or of a matrix."""
    group = module.group if module.rows == 1 and module.group is not None else TENSOR
    width = _ranges(weight, group if group < weight.shape[1] else CHANNEL, bool(module.symmetric))
    return (width / (2**module.bits - 1) / 2).square()


def _group_factors(weight: Tensor, found: Tensor, group: int | None) -> tuple[Tensor, Tensor]:
    """For each group with a say: the factor by which ``found`` is ``weight``, and the largest of its ``weight``."""
    size = group if group is not None and 0 < group < weight.shape[1] else weight.shape[1]
    whole = weight.shape[1] // size * size
    ours, theirs = (each[:, :whole].reshape(len(each), -1, size) for each in (weight, found))
    mass = ours.square().sum(2)
    factors = (ours * theirs).sum(2) / mass.clamp(min=_TINY)
    heard = mass > _LIGHT * mass.mean()
    return factors[heard], ours.abs().amax(2)[heard]


def shifted(weight: Tensor, found: Tensor, group: int | None) -> float:
    """Share of the groups of ``found`` (``[out, in]``) whose errors are nearly all alike: rounding goes either way, a
    zero point that is off by one goes the same way with every weight.
    """
    size = group if group is not None and 0 < group < weight.shape[1] else weight.shape[1]
    whole = weight.shape[1] // size * size
    errors = (found - weight)[:, :whole].reshape(len(weight), -1, size)
    mean, power = errors.mean(2).square(), errors.square().mean(2)
    return float((mean > _ONE_SIDED * power.clamp(min=_TINY)).float().mean())


def gain(weight: Tensor, found: Tensor) -> float:
    """The factor by which ``found`` is ``weight``, in the least squares sense; rounding leaves it near 1."""
    return float((weight * found).sum() / weight.square().sum().clamp(min=_TINY))


def empty_blocks(weight: Tensor, found: Tensor, group: int | None) -> int:
    """Groups of input features that are all zeros in ``found`` although they hold a share of ``weight``."""
    size = group if group is not None and group > 0 else weight.shape[1]
    whole = weight.shape[1] // size * size
    if not whole:
        return 0
    dead = ~found[:, :whole].reshape(len(found), -1, size).any(2)
    if not bool(dead.any()):
        return 0
    mass = weight[:, :whole].reshape(len(weight), -1, size).square().sum(2)
    typical = mass.mean().clamp(min=_TINY)
    return int((dead & (mass > 0.1 * typical)).sum())


def whose(found: Tensor, names: Iterable[str], weight_of: Callable[[str], Tensor], allowed: float) -> str:
    """The module among ``names`` of whose reference ``found`` is a rounding; empty when there is none."""
    for name in names:
        weight = weight_of(name)
        if weight.shape == found.shape and plain_distance(weight, found) <= allowed:
            return name
    return ""


def is_rotation(ours: Tensor, theirs: Tensor, rows: int = 128) -> bool:
    """Whether ``theirs`` (``[tokens, features]``) is ``ours`` turned: products between rows are the same."""
    step = max(1, len(ours) // rows)
    one, other = ours[::step].float(), theirs[::step].float()
    before, after = one @ one.t(), other @ other.t()
    return float((after - before).square().sum() / before.square().sum().clamp(min=_TINY)) < 0.01
