"""What methods keep of a stage's input, accumulated in one pass for all of them.

Every part is additive: statistics over shards of the calibration set, merged, equal those of the whole set (up to
summation order; maxima exactly), so shards can stay where they are and only their statistics travel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from quantgate.quantize.numerics.hessian import Hessian
from quantgate.quantize.settings import Need

_CHUNK: Final = 4096  # tokens at a time: bounds the float32 copy


class InputStatistics(Hessian):
    """Statistics of the input vectors of one stage; only what is in ``needs`` is accumulated.

    ``hessian``: see `Hessian`. ``magnitude``: sum of absolute values per feature. ``range``: smallest and largest value
    per feature. All float32 ``[features]``. Float32 sums of 10^5 bf16 magnitudes are good to five digits.
    """

    def __init__(self, features: int, device: torch.device, needs: Iterable[Need] = ("hessian",)) -> None:
        self.needs: frozenset[Need] = frozenset(needs)
        super().__init__(features if "hessian" in self.needs else 0, device)
        self.magnitude_sum = torch.zeros(features, device=device)
        self.low = torch.full((features,), torch.inf, device=device)
        self.high = torch.full((features,), -torch.inf, device=device)

    def add(self, rows: Tensor) -> None:
        """Add input vectors ``[n, features]`` of any float dtype."""
        if "hessian" in self.needs:
            super().add(rows)
        else:
            self.count += rows.shape[0]
        for chunk in torch.split(rows, _CHUNK):
            if "magnitude" in self.needs:
                self.magnitude_sum += chunk.abs().sum(0, dtype=torch.float32)
            if "range" in self.needs:
                low, high = torch.aminmax(chunk, dim=0)
                self.low = torch.minimum(self.low, low.to(torch.float32))
                self.high = torch.maximum(self.high, high.to(torch.float32))

    def merge(self, other: Hessian) -> None:
        """Add the statistics of another shard of the calibration set.

        Raises:
            ValueError: the other shard lacks a part that is kept here.
        """
        if not isinstance(other, InputStatistics) or not self.needs <= other.needs:
            raise ValueError(f"the shards keep different statistics: {sorted(self.needs)} is wanted")
        super().merge(other)
        self.magnitude_sum += other.magnitude_sum
        self.low = torch.minimum(self.low, other.low)
        self.high = torch.maximum(self.high, other.high)

    @property
    def mean_magnitude(self) -> Tensor:
        """Mean absolute value per feature, float32 ``[features]``."""
        return self.magnitude_sum / max(self.count, 1)

    @property
    def max_magnitude(self) -> Tensor:
        """Largest absolute value per feature, float32 ``[features]``."""
        return torch.maximum(self.high, -self.low)

    def divided(self, scale: Tensor) -> InputStatistics:
        """The statistics of ``x / scale`` (``scale``: positive, float32 ``[features]``), without another pass."""
        found = InputStatistics(len(self.low), self.low.device, self.needs)
        found.count = self.count
        if "hessian" in self.needs:
            found.total = self.total / scale / scale.unsqueeze(1)
        found.magnitude_sum = self.magnitude_sum / scale
        found.low, found.high = self.low / scale, self.high / scale
        return found
