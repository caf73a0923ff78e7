"""Orthogonal matrices that are rebuilt from a seed and applied fast: what spreads outliers over all directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, cast

import torch
from torch import Tensor


def _cosines(n: int) -> list[list[float]]:
    """The orthonormal cosine transform (DCT-II)."""
    norms = [math.sqrt((2 if row else 1) / n) for row in range(n)]
    return [
        [norms[row] * math.cos(math.pi * row * (2 * column + 1) / (2 * n)) for column in range(n)] for row in range(n)
    ]


class Rotation:
    """An orthogonal ``n x n`` matrix: random signs, then Hadamard (x) cosine transform, along the last dimension.

    Args:
        n: the dimension.
        seed: of the signs.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.odd = n >> ((n & -n).bit_length() - 1)
        self.power = n // self.odd
        self.signs = 2.0 * torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed)) - 1.0
        self.cosines = _cosines(self.odd)

    def apply(self, x: Tensor) -> Tensor:
        """``x`` (float32 ``[..., n]``) times the transposed matrix: every row is rotated."""
        return self._cosine(self._hadamard(x * self.signs.to(x)), self.cosines)

    def invert(self, x: Tensor) -> Tensor:
        """What `apply` gave, back."""
        transposed = [list(row) for row in zip(*self.cosines, strict=True)]
        return self._cosine(self._hadamard(x), transposed) * self.signs.to(x)

    def _hadamard(self, x: Tensor) -> Tensor:
        """Over the slow part of the last dimension; its own inverse."""
        shape, width = x.shape, self.odd
        while width < shape[-1]:
            pairs = x.reshape(*shape[:-1], -1, 2, width)
            low, high = pairs.unbind(-2)
            x = torch.stack([low + high, low - high], -2)
            width *= 2
        return x.reshape(shape) * (1 / math.sqrt(self.power))

    def _cosine(self, x: Tensor, rows: Sequence[Sequence[float]]) -> Tensor:
        """Over the fast part of the last dimension; a sum in a fixed order instead of a matrix product."""
        if self.odd == 1:
            return x
        parts = x.reshape(*x.shape[:-1], self.power, self.odd).unbind(-1)
        sums = []
        for row in rows:
            total = parts[0] * row[0]
            for part, factor in zip(parts[1:], row[1:], strict=True):
                total = total + part * factor
            sums.append(total)
        return torch.stack(sums, -1).reshape(x.shape)


class KroneckerRotation:
    """An orthogonal ``n x n`` matrix: the product of two random orthogonal ones, as near to square as ``n`` allows.

    Args:
        n: the dimension.
        seed: of the factors.
    """

    def __init__(self, n: int, seed: int) -> None:
        rows = max(each for each in range(1, math.isqrt(n) + 1) if n % each == 0)
        generator = torch.Generator().manual_seed(seed)
        self.factors = _orthogonal(rows, generator), _orthogonal(n // rows, generator)

    def apply(self, x: Tensor) -> Tensor:
        """``x`` (float32 ``[..., n]``) times the transposed matrix: every row is rotated."""
        return self._times(x, *self.factors)

    def invert(self, x: Tensor) -> Tensor:
        """What `apply` gave, back."""
        return self._times(x, *(each.t() for each in self.factors))

    @staticmethod
    def _times(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """``left X right^T`` of every row as a matrix ``X``."""
        square = x.to(torch.float64).reshape(*x.shape[:-1], len(left), len(right))
        return (left.to(x.device) @ square @ right.to(x.device).t()).reshape(x.shape).to(torch.float32)


def _orthogonal(n: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix, float64 ``[n, n]``, uniform over all of them."""
    drawn = torch.randn(n, n, generator=generator, dtype=torch.float64)
    q, r = cast(tuple[Tensor, Tensor], torch.linalg.qr(drawn))
    return q * r.diagonal().sign()


_Make = Callable[[int, int], Rotation | KroneckerRotation]
ROTATIONS: Final[dict[str, _Make]] = {"hadamard": Rotation, "orthogonal": KroneckerRotation}
