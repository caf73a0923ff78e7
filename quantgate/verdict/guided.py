"""Reference-guided sampling: ask first the items that may turn, and weigh them so that the estimate stays unbiased.

The reference's stored outcomes tell where an answer is likely to turn (near the boundary between two options). Items
are drawn with probabilities from that (active statistical inference, Zrnic and Candes 2024, arXiv 2403.03208), and the
benchmark's mean harm is estimated by the difference estimator ``mean f + mean (h - f) / pi`` with cross-fitted ``f``.

- *Draw*: Poisson sampling with permanent random numbers. Item i has a number u and a weight w; with the threshold c it
  is drawn if u <= pi = min(1, c w). A larger c only adds items, so looks are nested, and the covariance of two
  estimates is the variance of the later one: their scores have independent increments, and the boundaries of a group
  sequential test (alpha spending, Lan and DeMets 1983) hold.
- *Floor*: a share of every weight is the same for all items, so none is more than a few times lighter than the mean.
- *Error*: over the draw alone. It speaks of this benchmark's items, dependent or not, and of no population beyond them.
- *Rare harm*: on the margin, harm of the size of the margin must lie among items that were not drawn where none was
  seen; what it would add to the variance is added (as Tango's interval does), so no harm seen in few items is no proof.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from quantgate.core.items import ItemOutcome
from quantgate.verdict.intervals import Codes, Floats

FLOOR: Final = 0.3  # share of the draw that is the same for all items
FIRST: Final = 64
GROWTH: Final = 1.5
_STEPS: Final = 11  # cells a side: answers that were wrong, and that were right, by how near they are to turning
CELLS: Final = 2 * _STEPS
_NEAR: Final = 0.17  # share of a side's answers within which most of what turns lies
_SHRINK: Final = 5.0  # items of no harm that every cell's mean is averaged with
_LARGEST: Final = 31.5  # margin² · information at which all error is spent: 3 times what shows no harm (power 90%)
_GRID: Final = 161
_TINY: Final = 1e-12  # a variance of less is none: nearly everything was asked
_WIDE: Final = 8.0


def default_curve() -> tuple[float, ...]:
    """Share of answers that turn by cell, before any method was seen: most where two options are equally likely."""
    turned = 0.01 + 0.25 * np.exp(-(np.arange(_STEPS) + 0.5) / _STEPS / _NEAR)
    return tuple(float(each) for each in np.concatenate([turned, turned]))


def cells(reference: Sequence[ItemOutcome]) -> Codes:
    """The cell of each scored item: wrong or right, and how near to turning it is among its like.

    A right answer turns where its option's probability is low, a wrong one where the right option's is high. By rank,
    because tasks differ in how sharp their probabilities are; the same for all where none is known.
    """
    from scipy.stats import rankdata  # takes a second to import, and every run imports this module

    right = np.array([float(outcome.score or 0.0) > 0.5 for outcome in reference], dtype=bool)
    mass = np.array([outcome.companions.get("prob_right", 0.5) for outcome in reference])
    found = np.zeros(right.size, dtype=np.intp)
    for side in (False, True):
        here = right == side
        sure = (rankdata(mass[here]) - 0.5) / max(1, int(here.sum()))
        far = sure if side else 1 - sure
        found[here] = np.minimum((far * _STEPS).astype(np.intp), _STEPS - 1) + _STEPS * side
    return found


@dataclass(frozen=True)
class Draw:
    """A draw. By item: its ``cell``, its ``weight``, the threshold at which it ``enters``, its ``fold``."""

    cell: Codes
    weight: Floats
    enters: Floats
    fold: Codes

    @classmethod
    def of(cls, cell: Codes, curve: Sequence[float], seed: int) -> Draw:
        """Everything follows from the reference's outcomes, the curve and the seed."""
        size = cell.size
        likely = np.sqrt(np.asarray(curve, dtype=np.float64)[cell] + 0.003)
        weight = FLOOR / size + (1 - FLOOR) * likely / likely.sum()
        generator = np.random.default_rng([seed, size])
        enters = generator.random(size) / weight
        return cls(cell, weight, enters, generator.integers(0, 2, size).astype(np.intp))

    def threshold(self, count: float) -> float:
        """The threshold at which ``count`` items are drawn on average; infinite for all of them."""
        if count >= self.cell.size:
            return math.inf
        low, high = 0.0, 1 / float(self.weight.min())
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if np.minimum(1.0, middle * self.weight).sum() < count else (low, middle)
        return high

    def thresholds(self, first: int) -> list[float]:
        """The thresholds of all looks; the last one draws everything."""
        counts = [float(max(first, FIRST))]
        while counts[-1] * GROWTH < 0.9 * self.cell.size:
            counts.append(counts[-1] * GROWTH)
        return [self.threshold(count) for count in counts] + [math.inf]

    def estimate(self, harm: Floats, threshold: float) -> tuple[float, float, float]:
        """Mean harm of the benchmark, the variance of that, and what a unit of unseen harm adds to the variance.

        ``harm``: of all items; only those drawn at ``threshold`` are read.
        """
        size = self.cell.size
        drawn = self.enters <= threshold
        chance = np.minimum(1.0, threshold * self.weight)
        weights = np.where(drawn, 1 / chance, 0.0)
        expected = np.empty(size)
        for side in (0, 1):
            others = drawn & (self.fold != side)
            total = np.bincount(self.cell[others], weights=weights[others], minlength=CELLS)
            lost = np.bincount(self.cell[others], weights=(weights * harm)[others], minlength=CELLS)
            count = np.bincount(self.cell[others], minlength=CELLS)
            mean = np.where(count > 0, lost / np.maximum(total, 1e-300), 0.0) * count / (count + _SHRINK)
            expected[self.fold == side] = mean[self.cell[self.fold == side]]
        rest = np.where(drawn, harm - expected, 0.0)
        value = float(expected.mean() + (weights * rest).sum() / size)
        variance = float(((1 - chance) * weights**2 * rest**2).sum()) / size**2
        return value, variance, float(((1 - chance) / chance).mean()) / size


@dataclass(frozen=True)
class Look:
    """One look: the estimate, its standard errors towards a pass and a regression, and the information (1/variance)."""

    value: float
    se_pass: float
    se_regressed: float
    information: float


def look(draw: Draw, harm: Floats, threshold: float, margin: float) -> Look:
    """The estimate at one threshold, judged against ``margin``."""
    value, variance, unseen = draw.estimate(harm, threshold)
    hidden = variance + max(margin - value, 0.0) * unseen
    seen = variance + margin * unseen / 2
    return Look(value, math.sqrt(max(hidden, _TINY)), math.sqrt(max(seen, _TINY)), 1 / max(hidden, _TINY))


def spent(informations: Sequence[float], margin: float, alpha: float) -> list[float]:
    """The error that may be spent up to each look: as the root of the information."""
    largest = _LARGEST / max(margin, _TINY) ** 2
    return [alpha * math.sqrt(min(1.0, each / largest)) for each in informations]


class Boundaries:
    """Critical values of the looks: P(first crossing at look k | on the margin) = what is newly spent there."""

    def __init__(self) -> None:
        self._before, self._used = 0.0, 0.0
        self._points, self._density = np.zeros(1), np.ones(1)  # of the score at the last look, not yet crossed

    def next(self, information: float, until: float) -> float:
        """The critical value of the next look, up to which the error ``until`` may be spent."""
        information = max(information, self._before * 1.0001 + 1e-12)
        step, scale = math.sqrt(information - self._before), math.sqrt(information)
        budget, low, high = until - self._used, 0.0, _WIDE
        for _ in range(30):
            middle = (low + high) / 2
            over = float((self._density * special.ndtr((self._points - middle * scale) / step)).sum())
            low, high = (middle, high) if over > budget else (low, middle)
        grid = np.linspace(-_WIDE, high, _GRID) * scale
        moved = np.exp(-(((grid[:, None] - self._points[None, :]) / step) ** 2) / 2) / (step * math.sqrt(2 * math.pi))
        density = (moved @ self._density) * (grid[1] - grid[0])
        density[[0, -1]] /= 2
        self._points, self._density = grid, density
        self._before, self._used = information, max(until, self._used)
        return high


def boundaries(informations: Sequence[float], margin: float, alpha: float) -> list[float]:
    """Critical values of several looks; see :class:`Boundaries`."""
    found = Boundaries()
    return [
        found.next(each, until) for each, until in zip(informations, spent(informations, margin, alpha), strict=True)
    ]
