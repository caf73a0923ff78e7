"""Relative margins of 0/1 scores: a score test on the ratio of two paired proportions (Nam and Blackwelder 2002).

"At most a share r of what the reference can do" is a claim about subject - (1 - r) · reference. Tango's test at r times
the reference's observed value takes that value for known and counts its error in the difference alone; at r = 0.5 that
costs half of the power. Nam and Blackwelder, Stat. Med. 21:689: under the claim's limit, ratio = φ, the item-wise
subject - φ · reference has a mean of 0 and a variance of φ · (P(lost) + P(won)), at the likeliest shares of that ratio.

Those have a closed form. The share wrong on both sides stays as seen, 1 - s; with q = P(won), P(lost) = (1-φ)s + φq and
P(both right) = φs - (1+φ)q, so one quadratic in q is left.
"""

from __future__ import annotations

import math
from typing import Final

from quantgate.verdict.comparison import Comparison

_BISECTIONS: Final = 80


def ratio_shares(both: float, lost: float, won: float, n: float, ratio: float) -> tuple[float, float]:
    """The likeliest P(lost), P(won) when subject / reference = ``ratio``, for ratios up to 1."""
    seen = both + lost + won
    s = seen / n
    square = ratio * (1 + ratio) * seen
    linear = s * (lost * ratio**2 - both * (1 - ratio**2) + won * (2 * ratio**2 - 1))
    constant = won * ratio * (1 - ratio) * s * s
    root = math.sqrt(linear * linear + 4 * square * constant)
    # the same root either way; this one without subtracting nearly equal numbers
    q = (linear + root) / (2 * square) if linear >= 0 else 2 * constant / (root - linear)
    return (1 - ratio) * s + ratio * q, q


def ratio_statistic(both: float, lost: float, won: float, n: float, ratio: float) -> float:
    """The score statistic for H0: P(subject right) = ``ratio`` · P(reference right); falls as ``ratio`` rises.

    Counts may be fractional (divided by a design effect). Infinite where the limit leaves no variance.
    """
    if ratio > 1:  # the sides change places
        return -ratio_statistic(both, won, lost, n, 1 / ratio)
    distance = (both + won) - ratio * (both + lost)
    variance = n * ratio * sum(ratio_shares(both, lost, won, n, ratio)) if ratio > 0 and both + lost + won > 0 else 0.0
    if variance > 0:
        return distance / math.sqrt(variance)
    return math.copysign(math.inf, distance) if distance else 0.0


def ratio_interval(
    both: float, lost: float, won: float, n: float, quantiles: tuple[float, float]
) -> tuple[float, float]:
    """Interval of subject / reference; infinite above where the reference may have nothing. Needs a right answer.

    ``quantiles``: critical values of the lower and the upper bound.
    """
    upper = _lowest(both, won, lost, n, quantiles[1])
    return _lowest(both, lost, won, n, quantiles[0]), 1 / upper if upper > 0 else math.inf


def _lowest(both: float, lost: float, won: float, n: float, quantile: float) -> float:
    low, high = 0.0, (both + won) / (both + lost) if both + lost > 0 else 1e12
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        rejected = ratio_statistic(both, lost, won, n, middle) > quantile
        low, high = (middle, high) if rejected else (low, middle)
    return low


def counts(comparison: Comparison) -> tuple[float, float, float, float]:
    """Items with score 1 on both sides, of the reference alone, of the subject alone, all; over the design effect."""
    worse, better = float(comparison.items_worse), float(comparison.items_better)
    lost, won = (worse, better) if comparison.metric.higher_is_better else (better, worse)
    ones = comparison.reference * comparison.n_items
    effect = comparison.spread.design_effect
    return max(0.0, ones - lost) / effect, lost / effect, won / effect, comparison.n_items / effect


def statistic_at(comparison: Comparison, margin: float) -> float:
    """The score statistic against a harm of ``margin`` (in the metric's unit); large for a pass."""
    sign = -1.0 if comparison.metric.higher_is_better else 1.0
    ratio = max(0.0, 1 + sign * margin / comparison.reference)
    return -sign * ratio_statistic(*counts(comparison), ratio)


def deviations(comparison: Comparison, margin: float) -> tuple[float, float, float]:
    """Distance from a harm of ``margin``, and one item's standard deviation there and as it is (subject - φ · ref)."""
    sign = -1.0 if comparison.metric.higher_is_better else 1.0
    ratio = max(0.0, 1 + sign * margin / comparison.reference)
    both, lost, won, n = counts(comparison)
    mean = (both + won - ratio * (both + lost)) / n
    if ratio > 1:
        null = ratio * sum(ratio_shares(both, won, lost, n, 1 / ratio))
    else:
        null = ratio * sum(ratio_shares(both, lost, won, n, ratio)) if ratio > 0 else 0.0
    own = (both * (1 - ratio) ** 2 + lost * ratio**2 + won) / n - mean**2
    return abs(mean), math.sqrt(max(null, 0.0)), math.sqrt(max(own, 0.0))
