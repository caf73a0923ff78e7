"""Rows of an embedding or a head that are another token's, or nothing.

A few of them show in no distance of the whole, and in no text that lacks their tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

_PIECE: Final = 1 << 22  # weights that are compared at a time
_OFF: Final = 0.5  # of a row, squared: rounding and training leave less
_LIGHT: Final = 0.1  # share of a usual row's squares below which a row has no say
_SAME: Final = 0.1  # of a row, squared: it is that one, rounded
_ASKED: Final = 1 << 34  # products, at most, to find out whose a row is
_SEVERAL: Final = 2  # a single row may be a padding token's, or one that new tokens were copied from


def strange(ours: Tensor, theirs: Tensor) -> tuple[int, int]:
    """How many rows of ``theirs`` hold another token's, and how many nothing; of very many, those that were looked at.

    Args:
        ours: the reference's, ``[tokens, features]``, of any float dtype.
        theirs: the candidate's, in the same shape.
    """
    off = _off(ours, theirs)
    empty = int((~theirs[off].any(1)).sum())
    held = _held(ours, theirs, off[theirs[off].any(1)])
    return (held if held >= _SEVERAL else 0), (empty if empty >= _SEVERAL else 0)


def _off(ours: Tensor, theirs: Tensor) -> Tensor:
    """Numbers of the rows that are not ``ours``."""
    import torch

    step = max(1, _PIECE // max(1, ours.shape[1]))
    apart, mass = [], []
    for start in range(0, len(ours), step):
        one, other = ours[start : start + step].float(), theirs[start : start + step].float()
        apart.append((other - one).square().sum(1))
        mass.append(one.square().sum(1))
    lost, whole = torch.cat(apart), torch.cat(mass)
    return ((lost > _OFF * whole) & (whole > _LIGHT * whole.mean())).nonzero().flatten()


def _held(ours: Tensor, theirs: Tensor, rows: Tensor) -> int:
    """How many different rows of ``ours`` stand in other places of ``theirs``, among ``rows``."""
    import torch

    most = max(_SEVERAL, _ASKED // max(1, ours.numel()))
    rows = rows[:: max(1, -(-len(rows) // most))]
    if not len(rows):
        return 0
    found = theirs[rows].float()
    step = max(1, _PIECE // max(1, ours.shape[1]))
    best = torch.full((len(rows),), float("inf"))
    whose = torch.zeros(len(rows), dtype=torch.int64)
    for start in range(0, len(ours), step):
        one = ours[start : start + step].float()
        apart = one.square().sum(1) - 2 * (found @ one.t())  # but for the row's own square
        least, place = apart.min(1)
        whose = torch.where(least < best, start + place, whose)
        best = torch.minimum(least, best)
    power = found.square().sum(1)
    same = best + power < _SAME * power  # of another row: this one is far from its own
    return len(set(whose[same].tolist()))
