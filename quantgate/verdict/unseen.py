"""Room for items that were not drawn: how much worse the mean may be than any sample of this size could show.

A sample in which nothing broke does not show that nothing breaks: with n items, damage to up to about 3/n of all items
stays out of 5% of samples. No formula that looks at the spread of the sample alone can know of it (Bahadur and Savage
1956). What is known is how bad one item can get at most, the stake, and with it the mean can be bounded.

The bound is Gaffke's (2005; Learned-Miller and Thomas 2019, arXiv 1905.06208): to the n values seen a worst possible
one is added, the n + 1 are given random weights that sum to 1 (Dirichlet, all ones), and the quantile of the weighted
mean is taken. Of 0/1 values it is Clopper and Pearson's exact bound, of n equal values c it is c + (stake - c)(1 -
level^(1/n)), and of many well-behaved ones the normal bound. Nothing in it asks what is "nearly constant", so jitter
does not move it.

The weights are normalized exponentials: P(weighted mean > t) = P(Σ E_i (x_i - t) > 0), whose logarithmic moment
generating function is known. Lugannani and Rice's (1980) saddlepoint formula gives it within a percent, undrawn.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy import optimize, special

from quantgate.core.metrics import Metric
from quantgate.verdict.intervals import Floats

_STEPS: Final = 60
_CLOSE: Final = 1e-12
_NEAR: Final = 1e-3
MOST_ITEMS: Final = 1e7


def unseen_tail(harm: Floats, stake: float, at: float, effect: float = 1.0) -> Floats:
    """P(weighted mean > ``at``): a p-value of "the mean harm is ``at`` or more" when no item loses more than ``stake``.

    ``harm``: float64 [..., items]; the result has the leading axes. ``effect``: design effect; items that resemble each
    other weigh 1 / effect each, the unseen one always 1.
    """
    values = np.concatenate([harm, np.full((*harm.shape[:-1], 1), stake)], axis=-1) - at
    weights = np.full(values.shape[-1], 1 / effect)
    weights[-1] = 1.0
    top = values.max(axis=-1, keepdims=True)
    inside = (top[..., 0] > 0) & (values.min(axis=-1) < 0)
    scaled = np.where(inside[..., None], values / np.where(top > 0, top, 1.0), np.linspace(-1, 1, values.shape[-1]))
    found = _saddlepoint(scaled, weights)
    return np.where(inside, found, (values.min(axis=-1) >= 0) & (top[..., 0] > 0))


def _saddlepoint(values: Floats, weights: Floats) -> Floats:
    """P(Σ Gamma(weight_i) · value_i > 0) for values below and above 0, the largest being 1 (Lugannani and Rice)."""
    s = np.asarray(_root(values, weights) if values.ndim == 1 else _roots(values, weights))
    share = values / (1 - s[..., None] * values)
    cumulant = -np.log1p(-s[..., None] * values) @ weights
    u = s * np.sqrt(share**2 @ weights)
    w = np.sign(s) * np.sqrt(np.maximum(-2 * cumulant, 0.0))
    near = np.abs(w) < _NEAR
    skewness = 2 * (share**3 @ weights) / (share**2 @ weights) ** 1.5
    with np.errstate(divide="ignore", invalid="ignore"):
        correction = np.where(near, -skewness / 6, 1 / u - 1 / w)
    density = np.exp(-(w**2) / 2) / math.sqrt(2 * math.pi)
    tail: Floats = np.clip(special.ndtr(-w) + density * correction, 0.0, 1.0)
    return tail


def _roots(values: Floats, weights: Floats) -> Floats:
    """Where the derivative of the cumulant generating function is 0, by Newton's steps within bounds."""
    smallest = values.min(axis=-1)
    low, high = 1 / smallest, np.ones(values.shape[:-1])
    s = np.zeros(values.shape[:-1])
    for _ in range(_STEPS):
        share = values / (1 - s[..., None] * values)
        slope, bend = share @ weights, share**2 @ weights
        low, high = np.where(slope < 0, s, low), np.where(slope < 0, high, s)
        step = s - slope / bend
        step = np.where((step > low) & (step < high), step, (low + high) / 2)
        if np.max(np.abs(step - s)) < _CLOSE:
            break
        s = step
    return s


def _root(values: Floats, weights: Floats) -> np.float64:
    """`_roots` of one sample, to the last bit: arrays without axes take three times as long as numbers."""
    low, high, s = np.float64(1 / values.min()), np.float64(1.0), np.float64(0.0)
    for _ in range(_STEPS):
        share = values / (1 - s * values)
        slope, bend = np.float64(share @ weights), np.float64(share**2 @ weights)
        low, high = (s, high) if slope < 0 else (low, s)
        step = s - slope / bend
        step = step if low < step < high else (low + high) / 2
        if abs(step - s) < _CLOSE:
            break
        s = step
    return s


def unseen_bound(harm: Floats, stake: float, level: float, effect: float = 1.0) -> float:
    """Upper bound of the mean harm, too low in at most ``level`` of samples whatever is rare; NaN without items.

    The larger of ``stake`` and the largest harm seen is what an unseen item may lose.
    """
    if harm.size == 0:
        return math.nan
    top = max(stake, float(harm.max()))
    centre = (float(harm.sum()) / effect + top) / (harm.size / effect + 1)
    if not top > centre:
        return top

    def beyond(at: float) -> float:
        return float(unseen_tail(harm, stake, at, effect)) - level

    highest = top - 1e-9 * (top - centre)
    if beyond(centre) <= 0 or beyond(highest) >= 0:
        return top
    return float(optimize.brentq(beyond, centre, highest, xtol=1e-10 * (top - centre), rtol=1e-9))


def widened(
    differences: Floats,
    bounds: tuple[float, float],
    stakes: tuple[float, float],
    level: float,
    effect: float = 1.0,
) -> tuple[float, float]:
    """``bounds`` of the mean difference with room for unseen items, which may fall and rise by ``stakes`` (0: none)."""
    low, high = bounds
    if stakes[0] > 0:
        low = float(np.minimum(low, -unseen_bound(-differences, stakes[0], level, effect)))  # NaN stays NaN
    if stakes[1] > 0:
        high = float(np.maximum(high, unseen_bound(differences, stakes[1], level, effect)))
    return low, high


def stakes(metric: Metric, before: Floats, after: Floats) -> tuple[float, float]:
    """By how much the score of an unseen item may fall and rise at most.

    Bounded scores: their range, either way. A stated stake counts towards the worse side; towards the better one, where
    nothing known about quantization makes a few texts far better, the largest change that was seen. Where nothing is
    stated, the largest score seen, either way.
    """
    if metric.stake is not None:
        better = float(np.abs(after - before).max()) if metric.stake > 0 else 0.0
        return (metric.stake, better) if metric.higher_is_better else (better, metric.stake)
    largest = metric.range
    if largest is None:
        largest = float(np.abs(np.concatenate([before, after])).max())
    return largest, largest


def items_to_show(harm: float, arm: float, n: int, stake: float, margin: float, level: float, effect: float) -> float:
    """Items with which unseen ones would leave a mean of ``harm`` within ``margin``, if things go on as in ``n`` items.

    ``arm``: what sampling error adds with ``n`` items; it shrinks with the root of their number. A little too many,
    because the two are added up. Infinite where ten million would not do.
    """

    def room(items: float) -> float:
        hidden = (stake - harm) * -math.expm1(math.log(level) * effect / items)
        return margin - harm - arm * math.sqrt(n / items) - hidden

    if room(MOST_ITEMS) <= 0:
        return math.inf
    return math.ceil(optimize.brentq(room, 1e-3, MOST_ITEMS)) if room(1e-3) < 0 else 1.0
