"""The column loop that GPTQ, SpQR, SliM-LLM and QuIP share: round one column, let those that follow make up for it.

For one weight matrix and the Hessian ``H`` of its input. With ``U`` the upper Cholesky factor of ``H^-1``
(``H^-1 = U^T U``): column ``j`` is rounded, ``e = (w_j - q_j) / U_jj``, and every later column ``k`` becomes
``w_k - e U_jk``. The loss this leaves, ``tr((W - Q) H (W - Q)^T)``, is exactly ``sum e^2``.

``U`` comes from one Cholesky factorization and one triangular inverse: with ``J`` the reversal of the order,
``J H J = L L^T`` gives ``H = R R^T`` for the upper triangular ``R = J L J``, hence ``U = R^-1 = J L^-1 J``. No inverse
of ``H`` is formed.

Weights are worked on as ``[in, out]``: a column of the paper is then one contiguous row. Updates are lazy on two
levels: inside a short span each error is pushed at once, to the rest of its block when the span is done, to all later
columns when the block is done. Spans and blocks end at group boundaries, so the weights a group's scale is fitted to
are always fully compensated, whatever the block size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

from quantgate.core.errors import MethodError
from quantgate.quantize.base import Statistics
from quantgate.quantize.grids import group_bounds, group_index
from quantgate.quantize.numerics.hessian import Hessian, hessian_of

_SPAN: Final = 32  # columns whose errors are pushed one by one
_LEAF: Final = 96  # size below which a triangular matrix is inverted in one call
_SHARED_COLUMNS: Final = 2048  # size of a factorization from which several threads pay
_SHARED_WORK: Final = 100_000_000  # multiplications of a product from which several threads pay
# Roundings of a diagonal entry that a float32 pivot must hold, or the factor is wrong by more than half a percent.
# Damping of 1% leaves more, except beside an input feature with hundreds of times the usual energy.
_PIVOT_EPS: Final = 256


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run torch's operations on ``count`` threads.

    Inside a span tensors fit the cache: handing a share of a few microseconds to another thread costs more than it
    saves, tenfold so on a machine whose cores are busy.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _invert_lower(lower: Tensor) -> Tensor:
    """Inverse of a lower triangular matrix, by halves: most of the work is matrix products."""
    size = len(lower)
    if size <= _LEAF:
        identity = torch.eye(size, dtype=lower.dtype, device=lower.device)
        return torch.as_tensor(torch.linalg.solve_triangular(lower, identity, upper=False))
    half = size // 2
    inverse = torch.zeros_like(lower)
    inverse[:half, :half] = first = _invert_lower(lower[:half, :half])
    inverse[half:, half:] = second = _invert_lower(lower[half:, half:])
    inverse[half:, :half] = -(second @ (lower[half:, :half] @ first))
    return inverse


def _has_digits(lower: Tensor, hessian: Tensor) -> bool:
    """Whether every pivot of the float32 factor kept at least ``_PIVOT_EPS`` roundings of the diagonal it came from."""
    left = lower.diagonal().square() / hessian.diagonal().flip(0)
    return bool(left.min() >= _PIVOT_EPS * torch.finfo(torch.float32).eps)


def inverse_factor(hessian: Tensor, who: str = "gptq") -> Tensor:
    """The upper triangular ``U`` with ``U^T U = hessian^-1``, float32 ``[n, n]``.

    Tried in float32, then in float64. Float32 is believed only where its pivots hold more than rounding: near a
    singular matrix it fails on one processor and gives a factor without a right digit on another.

    Raises:
        MethodError: ``hessian`` is not finite, or not positive definite in float64 either.
    """
    if not bool(torch.isfinite(hessian.sum())):  # NaN and infinity survive the sum
        raise MethodError(who, "a Hessian with NaN or infinity", expected="finite calibration activations")
    with _threads(torch.get_num_threads() if len(hessian) >= _SHARED_COLUMNS else 1):
        for dtype in (torch.float32, torch.float64):
            lower, info = torch.linalg.cholesky_ex(hessian.to(dtype).flip(0, 1))
            if int(info) == 0 and (dtype is torch.float64 or _has_digits(lower, hessian)):
                factor = _invert_lower(lower).flip(0, 1)
                if bool(torch.isfinite(factor.sum())):
                    return torch.as_tensor(factor, dtype=torch.float32)
    raise MethodError(
        who,
        "a Hessian that is not positive definite, even in float64",
        expected="damping that makes it so",
        hint="raise damp_percent or calibrate with more tokens",
    )


class Processing:
    """In which order the columns of a stage are rounded, and ``U`` in that order; shared by the stage's layers.

    ``order``: int64 ``[in]``, largest ``diag(H)`` first (``desc_act``) or as they are; ``back`` inverts it.
    ``dead``: bool ``[in]``, inputs that were never anything but zero.

    Args:
        hessian: float32 ``[in, in]``, symmetric, undamped.
        damp_percent: share of ``mean(diag(H))`` added to the diagonal.
        desc_act: see ``order``.
        who: named in errors.

    Raises:
        MethodError: the Hessian is not finite, or damped not positive definite.
    """

    def __init__(self, hessian: Tensor, *, damp_percent: float, desc_act: bool, who: str) -> None:
        diagonal = hessian.diagonal()
        self.dead = diagonal == 0
        alive = diagonal[~self.dead]
        mean = alive.mean() if alive.numel() else torch.ones((), device=hessian.device)
        self.order = torch.arange(len(hessian), device=hessian.device)
        if desc_act:
            self.order = torch.argsort(diagonal, descending=True, stable=True)
        self.back = torch.argsort(self.order)
        damped = hessian[self.order][:, self.order]
        # a dead input is coupled to no other, so any positive diagonal leaves the others as they are
        damped.diagonal().add_(damp_percent * mean).add_(mean * self.dead[self.order])
        self.factor = inverse_factor(damped, who)
        self.who = who

    def columns(self, weight: Tensor) -> Tensor:
        """``weight`` (``[out, in]``, any float dtype) in processing order, dead columns zeroed: float32 ``[in, out]``.

        Always a new tensor: the loop works in it.

        Raises:
            MethodError: weights that are not finite.
        """
        columns = weight.to(torch.float32).t()
        if not bool(torch.isfinite(columns.sum())):
            raise MethodError(self.who, "weights that are not finite", expected="finite weights")
        return columns.masked_fill(self.dead.unsqueeze(1), 0.0)[self.order].contiguous()


def processing_of(
    statistics: Statistics | None, *, damp_percent: float, desc_act: bool, who: str
) -> tuple[Tensor, Processing]:
    """The Hessian of ``statistics`` and its `Processing`, made once for all methods of a sweep that share them.

    Raises:
        MethodError: no statistics, or see `Processing`.
    """
    hessian = hessian_of(statistics, who)
    assert isinstance(statistics, Hessian)

    def make() -> Processing:
        return Processing(hessian, damp_percent=damp_percent, desc_act=desc_act, who=who)

    return hessian, statistics.derived(("processing", damp_percent, desc_act), make)


def _cut(runs: Sequence[tuple[int, int]], width: int) -> list[tuple[int, int]]:
    """Split every run of columns into runs of at most ``width``."""
    return [(at, min(at + width, end)) for start, end in runs for at in range(start, end, width)]


def _blocks(rows: int, group_size: int, blocksize: int) -> list[list[tuple[int, int]]]:
    """The spans (start, end) of every block; blocks hold whole groups, or groups hold whole blocks."""
    groups = group_bounds(rows, group_size)
    size = groups[0][1]
    if size > blocksize:
        return [_cut([block], _SPAN) for block in _cut(groups, blocksize)]
    count = blocksize // size
    return [_cut(groups[at : at + count], _SPAN) for at in range(0, len(groups), count)]


class ColumnLoop:
    """The loop over the columns of one matrix; a subclass says how a group is fitted and a column rounded.

    ``errors``: ``e`` of every column, float32 ``[in, out]``, once `run` is through. ``pivots``: ``1 / U_jj``.

    Args:
        columns: float32 ``[in, out]`` in processing order; consumed: it ends as what `round` leaves in it.
        factor: ``U`` in processing order.
        group_size: columns that are fitted together (-1: all).
        blocksize: columns after which errors are pushed to all later columns; changes nothing but the speed.
    """

    def __init__(self, columns: Tensor, factor: Tensor, group_size: int, blocksize: int) -> None:
        self.columns, self.factor = columns, factor
        self.bounds = group_bounds(len(columns), group_size)
        self.group_of = group_index(len(columns), group_size).to(columns.device)
        self.errors = torch.empty_like(columns)
        self.pivots: list[float] = factor.diagonal().reciprocal().tolist()
        self._group = -1
        self._blocks = _blocks(len(columns), group_size, blocksize)

    def enter(self, group: int, column: int) -> None:
        """``column`` is next, and it is of another group than the one before."""
        raise NotImplementedError

    def round(self, column: int, weight: Tensor, error: Tensor) -> None:
        """Round one column (``weight``, float32 ``[out]``); write ``weight - rounded`` into ``error``.

        What is left in ``weight`` is up to the subclass: the loop does not look at it again.
        """
        raise NotImplementedError

    def run(self) -> None:
        """Round all columns."""
        groups: list[int] = self.group_of.tolist()
        for spans in self._blocks:
            first, last = spans[0][0], spans[-1][1]
            for start, end in spans:
                with _threads(1):
                    self._span(start, end, groups)
                self._push(start, end, end, last)
            self._push(first, last, last, len(self.columns))

    def _push(self, start: int, end: int, target: int, stop: int) -> None:
        """Subtract the errors of columns ``start:end`` from the columns ``target:stop``."""
        if target == stop:
            return
        products = (end - start) * (stop - target) * self.columns.shape[1]
        with _threads(torch.get_num_threads() if products > _SHARED_WORK else 1):
            coefficients = self.factor[start:end, target:stop]
            self.columns[target:stop].addmm_(coefficients.t(), self.errors[start:end], alpha=-1)

    def _span(self, start: int, end: int, groups: list[int]) -> None:
        for column in range(start, end):
            if groups[column] != self._group:
                self._group = groups[column]
                self.enter(self._group, column)
            error = self.errors[column]
            self.round(column, self.columns[column], error)
            error.mul_(self.pivots[column])
            if column + 1 < end:
                self.columns[column + 1 : end].addr_(self.factor[column, column + 1 : end], error, alpha=-1)
