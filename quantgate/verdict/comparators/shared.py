"""What several comparators have in common: harm on the scale of the scores, t tests, statements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from quantgate.core.metrics import Metric
from quantgate.verdict import intervals
from quantgate.verdict.comparison import ABOUT, Comparison
from quantgate.verdict.intervals import Codes, Spread


@dataclass(frozen=True, slots=True)
class Harm:
    """How much worse the subject is on the scale of the scores: estimate, interval, and the margin on that scale."""

    point: float
    low: float
    high: float
    margin: float

    @property
    def half_width(self) -> float:
        """Half the interval; on the scale of the scores it is (nearly) symmetric."""
        return (self.high - self.low) / 2


def harm_of(comparison: Comparison, margin: float, on_scores: Callable[[float, float], float]) -> Harm:
    """The comparison seen as harm; ``margin`` in the metric's unit, ``on_scores``: see `Comparator`."""
    sign = -1.0 if comparison.metric.higher_is_better else 1.0
    bounds = (on_scores(bound, comparison.reference) for bound in (comparison.ci_low, comparison.ci_high))
    low, high = sorted(sign * bound for bound in bounds)
    return Harm(sign * comparison.shift, low, high, on_scores(margin, comparison.reference))


def worst_side(metric: Metric, low: float, high: float) -> float:
    """The harm at the worse end of an interval."""
    return -low if metric.higher_is_better else high


def t_test(plain: Comparison, shift: float, found: Spread) -> float:
    """One-sided p-value of "not worse at all"."""
    if not found.se > 0:
        return math.nan if shift else 1.0
    harm = -shift if plain.metric.higher_is_better else shift
    return intervals.upper_tail(harm / found.se, found.df)


def statement(name: str, plain: Comparison, found: Spread, codes: Codes, stake: float, *, along: bool) -> str:
    """How the interval was made and what it speaks about, in one line. ``along``: items are neighbours in a text."""
    room = f"; an item not seen may lose {stake:.3g}" if stake > 0 else ""
    sure = f"design effect {found.design_effect:.2f}, {found.df:.1f} degrees of freedom"
    if found.clustered:
        return f"{name}, clustered by {plain.n_groups} groups ({sure}){ABOUT}groups like these{room}"
    if along:
        return f"{name} along the text ({sure}){ABOUT}text like this{room}"
    if np.bincount(codes).max() > 1:
        return f"{name} per item{ABOUT}the items of this one group{room}"
    return f"{name}, independent items{room}"
