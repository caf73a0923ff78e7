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
_NUMBERED: Final = re.compile(r".*?\.\d+\.")


def lost(
    changed: Collection[str], checkpoint: Checkpoint, ours: Checkpoint, rows: Mapping[str, Tensor | float]
) -> tuple[list[str], list[str]]:
    """Those of ``changed`` that are other biases, and those that may be corrections.

    Args:
        changed: names of biases that have hardly anything of the reference's.
        checkpoint: the candidate.
        ours: the reference.
        rows: factors of a matrix's rows, or the one of all, which its bias has to share.

    A bias that follows its rows is neither. One that points elsewhere, or is much larger, is another bias where that
    matters beside what the matrix gives, unless the norm before it has another bias too: that is a shift of the inputs.
    """
    others: list[str] = []
    corrections: list[str] = []
    norms = [name for name in ours.plain if name.endswith("norm.bias") and name in checkpoint.plain]
    shifted = {_block(name) for name in norms if not _same(ours.tensor(name), checkpoint.tensor(name))}
    for name in changed:
        module = name.removesuffix(".bias")
        one, other = ours.tensor(name).float(), checkpoint.tensor(name).float()
        if module in rows and float((one * rows[module] - other).norm()) < _ALIKE * float(other.norm()):
            continue
        size = float(other.norm())
        away = float((one * other).sum()) < _ALONG * float(one.norm()) * size or size > _TIMES * float(one.norm())
        away = away or size == 0
        weight = ours.tensor(f"{module}.weight").float() if f"{module}.weight" in ours.plain else None
        felt = weight is None or float((other - one).norm()) > _SHARE * float(weight.norm())
        (others if away and felt and _block(name) not in shifted else corrections).append(name)
    return others, corrections


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one.to(other.dtype) == other).all())


def _block(name: str) -> str:
    """``model.layers.3.`` of anything in that block."""
    found = _NUMBERED.match(name)
    return found[0] if found else ""
