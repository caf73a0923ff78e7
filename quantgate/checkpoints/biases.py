"""Biases of matrices against the reference's: what a tool may have moved into them, and what is no such thing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from quantgate.checkpoints.layouts.protocol import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

_ALONG: Final = 0.5  # cosine
_TIMES: Final = 3.0
_SHARE: Final = 0.1  # of the length of the matrix's rows, which is what outputs are like behind a norm
_ALIKE: Final = 0.15
_UNLIKE: Final = 0.9  # of a bias, squared: less than that is not looked at
_NUMBERED: Final = re.compile(r".*?\.\d+\.")


def lost(
    names: Collection[str], checkpoint: Checkpoint, ours: Checkpoint, rows: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """Those of ``names`` that are other biases, and those that may be corrections.

    Args:
        names: biases that both have, in one shape.
        checkpoint: the candidate.
        ours: the reference.
        rows: factors of a matrix's rows, ``[out]``, which its bias has to share.

    A bias that follows its rows is neither. One that points elsewhere, or has another size, is another bias where that
    matters beside what the matrix gives, unless the norm before it has another bias too: that is a shift of the inputs.
    """
    others: list[str] = []
    corrections: list[str] = []
    norms = [name for name in ours.plain if name.endswith("norm.bias") and name in checkpoint.plain]
    shifted = {_block(name) for name in norms if not _same(ours.tensor(name), checkpoint.tensor(name))}
    for name in names:
        module = name.removesuffix(".bias")
        own, other = ours.tensor(name).float(), checkpoint.tensor(name).float()
        one = own * rows[module] if module in rows else own
        apart, least = float((other - one).norm()), min(float(own.norm()), float(one.norm()))
        if apart <= _ALIKE * float(other.norm()) or apart**2 <= _UNLIKE * least**2:
            continue
        felt = apart > _SHARE * _length(module, ours, rows)
        (others if felt and _away(one, other) and _block(name) not in shifted else corrections).append(name)
    return others, corrections


def _away(one: Tensor, other: Tensor) -> bool:
    before, after = float(one.norm()), float(other.norm())
    along = float((one * other).sum()) >= _ALONG * before * after
    return not along or not before / _TIMES <= after <= before * _TIMES or after == 0


def _length(module: str, ours: Checkpoint, rows: Mapping[str, Tensor]) -> float:
    """Of the matrix, times its rows' factors; 0 where there is none."""
    name = f"{module}.weight"
    if name not in ours.plain:
        return 0.0
    weight = ours.tensor(name).float()
    return float((weight * rows[module].view(-1, *[1] * (weight.ndim - 1)) if module in rows else weight).norm())


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one.to(other.dtype) == other).all())


def _block(name: str) -> str:
    """``model.layers.3.`` of anything in that block."""
    found = _NUMBERED.match(name)
    return found[0] if found else ""
