"""GPTQ (Frantar et al. 2022): quantize column by column, let the columns that follow make up for each error.

For one weight matrix and the Hessian ``H`` of its input. With ``U`` the upper Cholesky factor of ``H^-1``
(``H^-1 = U^T U``): column ``j`` is rounded to its grid, ``e = (w_j - q_j) / U_jj``, and every later column ``k``
becomes ``w_k - e U_jk``. The loss this leaves, ``tr((W - Q) H (W - Q)^T)``, is exactly ``sum e^2``.

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
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from quantgate.errors import MethodError
from quantgate.quantize.base import LayerResult, Order, Statistics
from quantgate.quantize.grids import UniformGrid, fit, fit_groups, group_bounds, group_index, to_steps
from quantgate.quantize.hessian import Hessian, exact_bf16_products
from quantgate.quantize.uniform import UniformWeight, gptq_layout_config

_SPAN: Final = 32  # columns whose errors are pushed one by one
_LEAF: Final = 96  # size below which a triangular matrix is inverted in one call
_SHARED_COLUMNS: Final = 2048  # size of a factorization from which several threads pay
_SHARED_WORK: Final = 100_000_000  # multiplications of a product from which several threads pay


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


def inverse_factor(hessian: Tensor, who: str = "gptq") -> Tensor:
    """The upper triangular ``U`` with ``U^T U = hessian^-1``, float32 ``[n, n]``.

    Tried in float32, then in float64.

    Raises:
        MethodError: ``hessian`` is not finite, or not positive definite in float64 either.
    """
    if not bool(torch.isfinite(hessian.sum())):  # NaN and infinity survive the sum
        raise MethodError(who, "a Hessian with NaN or infinity", expected="finite calibration activations")
    with _threads(torch.get_num_threads() if len(hessian) >= _SHARED_COLUMNS else 1):
        for dtype in (torch.float32, torch.float64):
            lower, info = torch.linalg.cholesky_ex(hessian.to(dtype).flip(0, 1))
            if int(info) == 0:
                factor = _invert_lower(lower).flip(0, 1)
                if bool(torch.isfinite(factor.sum())):
                    return torch.as_tensor(factor, dtype=torch.float32)
    raise MethodError(
        who,
        "a Hessian that is not positive definite, even in float64",
        expected="damping that makes it so",
        hint="raise damp_percent or calibrate with more tokens",
    )


def _prepare(columns: Tensor, hessian: Tensor, settings: GptqSettings, who: str) -> tuple[Tensor, Tensor, Tensor]:
    """Zero the dead columns, choose the order, damp: (weights in processing order, U, order)."""
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    alive = diagonal[~dead]
    mean = alive.mean() if alive.numel() else torch.ones((), device=hessian.device)
    order = torch.arange(len(hessian), device=hessian.device)
    if settings.desc_act:
        order = torch.argsort(diagonal, descending=True, stable=True)
    columns = columns.masked_fill(dead.unsqueeze(1), 0.0)[order]
    damped = hessian[order][:, order]
    # a dead input is coupled to no other, so any positive diagonal leaves the others as they are
    damped.diagonal().add_(settings.damp_percent * mean).add_(mean * dead[order])
    return columns, inverse_factor(damped, who), order


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


class _Loop:
    """State of the column loop for one matrix; `columns` is consumed: it ends as the quantized steps."""

    def __init__(self, columns: Tensor, factor: Tensor, settings: GptqSettings, order: Tensor) -> None:
        self.columns, self.factor = columns, factor
        self.grid = UniformGrid(settings.bits, settings.sym)
        rows, out = columns.shape
        self.bounds = group_bounds(rows, settings.group_size)
        self.group_of = group_index(rows, settings.group_size).to(order.device)
        self.errors = torch.empty_like(columns)
        self.scales = columns.new_empty(len(self.bounds), out)
        self.zeros = torch.empty_like(self.scales)
        self.refit = not settings.static_groups
        self.pivots: list[float] = factor.diagonal().reciprocal().tolist()

    def fix_groups(self, original: Tensor, order: Tensor, group_size: int) -> None:
        """Static groups: fit to the original weights in their original order."""
        self.scales, self.zeros = fit_groups(original, group_size, self.grid)
        self.group_of = self.group_of[order]

    def run(self, blocks: list[list[tuple[int, int]]]) -> None:
        """Quantize all columns."""
        groups: list[int] = self.group_of.tolist()
        for spans in blocks:
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
        group = -1
        for column in range(start, end):
            if groups[column] != group:
                group = groups[column]
                scale, low, high = self._grid_of(group, column)
            weight, error = self.columns[column], self.errors[column]
            steps = to_steps(weight, scale, low, high)
            torch.addcmul(weight, steps, scale, value=-1, out=error).mul_(self.pivots[column])
            weight.copy_(steps)
            if column + 1 < end:
                self.columns[column + 1 : end].addr_(self.factor[column, column + 1 : end], error, alpha=-1)

    def _grid_of(self, group: int, column: int) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """Scale and end points in steps of a group; fitted here when its first column is reached."""
        if self.refit and self.bounds[group][0] == column:
            scale, zero = fit(self.columns[slice(*self.bounds[group])], 0, self.grid)
            self.scales[group], self.zeros[group] = scale[0], zero[0]
        if self.grid.symmetric:  # numbers instead of vectors: the same steps, fewer memory reads
            return self.scales[group], -float(self.grid.middle), float(self.grid.top - self.grid.middle)
        return self.scales[group], -self.zeros[group], self.grid.top - self.zeros[group]


def gptq(weight: Tensor, hessian: Tensor, settings: GptqSettings, who: str = "gptq") -> tuple[UniformWeight, Tensor]:
    """Quantize one weight matrix.

    Args:
        weight: ``[out, in]``, any float dtype; layers that share their input may be stacked along ``out``.
        hessian: float32 ``[in, in]``, symmetric, undamped.
        settings: see `GptqSettings`.
        who: named in errors.

    Returns:
        The weight on its grid, and per output row the loss ``(w - q) H (w - q)^T`` (H damped), float32 ``[out]``.

    Raises:
        MethodError: weights or Hessian are not finite, or the damped Hessian is not positive definite.
    """
    original = weight.to(torch.float32).t().contiguous()
    columns, factor, order = _prepare(original, hessian, settings, who)
    loop = _Loop(columns, factor, settings, order)
    if settings.static_groups:
        loop.fix_groups(original, order, settings.group_size)
    loop.run(_blocks(len(columns), settings.group_size, settings.blocksize))
    codes = loop.columns.add_(loop.zeros[loop.group_of]).to(torch.uint8)
    back = torch.argsort(order)
    stored = UniformWeight(
        codes[back],
        loop.scales.to(torch.float16),
        loop.zeros.to(torch.uint8),
        loop.group_of[back].to(torch.int32),
        loop.grid,
    )
    return stored, loop.errors.square_().sum(0)


@dataclass(frozen=True)
class Gptq:
    """GPTQ as the driver sees it: one Hessian a stage, the stage's layers quantized together."""

    settings: GptqSettings

    @property
    def order(self) -> Order:
        """As set."""
        return Order(self.settings.true_sequential, self.settings.block_sequential)

    def statistics(self, in_features: int, device: torch.device) -> Hessian:
        """An empty Hessian for inputs of ``in_features``."""
        return Hessian(in_features, device)

    def quantize(self, weights: Sequence[Tensor], statistics: Statistics | None) -> list[LayerResult]:
        """One result a weight (all of them read the same input); the loss is relative to the output's energy.

        Raises:
            MethodError: no statistics, or see `gptq`.
        """
        if not isinstance(statistics, Hessian) or statistics.count == 0:
            raise MethodError("gptq", "no calibration statistics", expected="at least one calibration token")
        hessian = statistics.matrix()
        stacked = torch.cat([weight.to(torch.float32) for weight in weights])
        sizes = [len(weight) for weight in weights]
        stored, losses = gptq(stacked, hessian, self.settings)
        with exact_bf16_products(True):  # only a denominator for the report: three digits are plenty
            energy = (stacked @ hessian).mul_(stacked).sum(1)
        parts = zip(stored.split(sizes), torch.split(losses, sizes), torch.split(energy, sizes), strict=True)
        return [LayerResult(part, float(loss.sum() / all_.sum().clamp(min=1e-30))) for part, loss, all_ in parts]

    def checkpoint_config(self) -> dict[str, Any]:
        """Settings under AutoGPTQ's names."""
        s = self.settings
        return gptq_layout_config(
            bits=s.bits,
            group_size=s.group_size,
            sym=s.sym,
            desc_act=s.desc_act,
            static_groups=s.static_groups,
            true_sequential=s.true_sequential,
            damp_percent=s.damp_percent,
        )
