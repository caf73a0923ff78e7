"""Statistics of a stage's input whose sum does not depend on any order: shards, pooled, are the whole bit for bit.

Inputs are rounded to multiples of 2^-20 (an error of at most 2^-21, far below the damping of any method) and split into
a high and a low part of 16 and 17 bits. Products are whole numbers, and float64 sums of up to 2^19 of them are exact.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from quantgate.core.errors import MethodError
from quantgate.quantize.numerics.statistics import InputStatistics

GRID: Final = 2.0**-20
_LOW_BITS: Final = 17
_MOST: Final = 2.0**13  # largest input: 33 bits in steps of the grid
_MOST_ROWS: Final = 1 << 19
PARTS: Final = ("high", "cross", "low")


class ExactStatistics:
    """Sums over input vectors of one stage, exact in float64.

    ``high``, ``cross``, ``low``: float64 ``[features, features]``, whole numbers; ``magnitude``, ``least``, ``most``:
    float64 ``[features]``, in steps of the grid; ``count``: vectors.
    """

    def __init__(self, features: int) -> None:
        self.high, self.cross, self.low = (torch.zeros(features, features, dtype=torch.float64) for _ in PARTS)
        self.magnitude = torch.zeros(features, dtype=torch.float64)
        self.least = torch.full((features,), torch.inf, dtype=torch.float64)
        self.most = torch.full((features,), -torch.inf, dtype=torch.float64)
        self.count = 0

    def add(self, rows: Tensor) -> None:
        """Add input vectors ``[n, features]``.

        Raises:
            MethodError: an input is too large for the grid, or there are too many.
        """
        steps = (rows.detach().to("cpu", torch.float64) / GRID).round()
        if not bool((steps.abs() < _MOST / GRID).all()) or self.count + len(rows) > _MOST_ROWS:
            raise MethodError(
                "exact statistics",
                f"inputs beyond {_MOST:g}, or more than {_MOST_ROWS} tokens",
                expected="inputs that float64 sums without rounding",
                hint="take --precision float32",
            )
        high = torch.floor(steps / 2**_LOW_BITS)
        low = steps - high * 2**_LOW_BITS
        self.high += high.t() @ high
        cross = high.t() @ low
        self.cross += cross + cross.t()
        self.low += low.t() @ low
        self.magnitude += steps.abs().sum(0)
        self.least = torch.minimum(self.least, steps.amin(0))
        self.most = torch.maximum(self.most, steps.amax(0))
        self.count += len(rows)

    def merge(self, other: ExactStatistics) -> None:
        """Add another shard's. Raises MethodError when together they hold too many tokens to stay exact."""
        if self.count + other.count > _MOST_ROWS:
            raise MethodError(
                "exact statistics", f"{self.count + other.count} tokens", expected=f"at most {_MOST_ROWS}"
            )
        for name in (*PARTS, "magnitude"):
            getattr(self, name).add_(getattr(other, name))
        self.least = torch.minimum(self.least, other.least)
        self.most = torch.maximum(self.most, other.most)
        self.count += other.count

    def rounded(self) -> InputStatistics:
        """As the methods read them, rounded once to float32."""
        found = InputStatistics(len(self.magnitude), torch.device("cpu"), ("hessian", "magnitude", "range"))
        total = (self.high * 2.0 ** (2 * _LOW_BITS) + self.cross * 2.0**_LOW_BITS + self.low) * GRID**2
        found.total = total.to(torch.float32)
        found.magnitude_sum = (self.magnitude * GRID).to(torch.float32)
        found.low, found.high = ((each * GRID).to(torch.float32) for each in (self.least, self.most))
        found.count = self.count
        return found
