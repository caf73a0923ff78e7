"""Intervals for the mean of paired differences, for 0/1 outcomes and for real scores.

Numbers in, numbers out: nothing here knows items, metrics or policies. All functions take ``quantile``, the two-sided
critical value (1.96 for 95%), so that the same code serves intervals, p-values and planning.

Methods:
- Tango (1998), Stat. Med. 17:891: score interval for the difference of paired proportions. It keeps its error rates
  at few discordant pairs, and is not of zero width when no pair is discordant.
- Rao and Scott (1992), Biometrics 48:577: clustered counts are divided by their design effect.
- Hall (1992), JRSS B 54:221: removal of skewness from Student's t by a monotone transformation.
- Bell and McCaffrey (2002), Survey Methodology 28:169 (CR2): cluster-robust variance without bias under independence,
  and its degrees of freedom.
- Lazarus, Lewis, Stock and Watson (2018), JBES 36:541 (EWC): variance of the mean of a series from its lowest cosine
  frequencies, with as many degrees of freedom as frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

Floats: TypeAlias = npt.NDArray[np.float64]
Codes: TypeAlias = npt.NDArray[np.intp]

# A design effect estimated from a handful of discordant pairs is noise. Until many have been seen, a modest correlation
# within groups is taken for granted, with the weight of ten pairs.
PRIOR_CORRELATION: Final = 0.02
PRIOR_PAIRS: Final = 10.0
# How much items of a group are alike when it is asked how many groups of unequal size are worth: the more, the fewer.
DF_CORRELATION: Final = 0.05
# How seldom chance alone makes neighbours look so much alike that it counts for items not drawn.
SURE: Final = 0.05
_BISECTIONS: Final = 60


def normal_quantile(confidence: float) -> float:
    """Two-sided critical value of the normal distribution, 1.96 for 0.95."""
    return float(special.ndtri(0.5 + confidence / 2))


def t_quantile(confidence: float, df: float) -> float:
    """Two-sided critical value of Student's t; the normal one for infinite ``df``, NaN below one."""
    if df < 1:
        return math.nan
    return normal_quantile(confidence) if math.isinf(df) else float(special.stdtrit(df, 0.5 + confidence / 2))


def upper_tail(statistic: float, df: float) -> float:
    """P(T > statistic) for Student's t with ``df`` degrees of freedom (infinite: normal)."""
    return float(special.ndtr(-statistic) if math.isinf(df) else special.stdtr(df, -statistic))


def constrained_variance(worse: Floats, better: Floats, n: Floats, difference: Floats) -> Floats:
    """Variance of ``better - worse`` at the likeliest shares whose difference is ``difference`` (Tango 1998).

    Counts may be fractional: effective counts of clustered data, or shares with ``n`` = 1.
    """
    slope = (2 * n + worse - better) * difference - worse - better
    constant = worse * difference * (1 - difference)
    # sqrt(slope² + 8·n·constant) without squares, which underflow near a difference of 0.
    part, steep = np.sqrt(8 * n * np.abs(constant)), np.abs(slope)
    below = np.sqrt(np.maximum(steep - part, 0)) * np.sqrt(steep + part)
    p_worse = (np.where(constant < 0, below, np.hypot(steep, part)) - slope) / (4 * n)
    variance: Floats = n * (2 * p_worse + difference * (1 - difference))
    return variance


def tango_statistic(worse: Floats, better: Floats, n: Floats, difference: Floats) -> Floats:
    """Tango's score statistic for H0: P(better) - P(worse) = ``difference``; falls as ``difference`` rises.

    Infinite where the constrained variance is zero.
    """
    numerator = better - worse - n * difference
    variance = constrained_variance(worse, better, n, difference)
    # Where the null leaves no variance, any difference from it is a contradiction and no difference is none.
    certain = np.where(numerator > 0, np.inf, np.where(numerator < 0, -np.inf, 0.0))
    return np.where(variance > 0, numerator / np.sqrt(np.where(variance > 0, variance, 1.0)), certain)


def _tango_lower(worse: Floats, better: Floats, n: Floats, quantile: Floats) -> Floats:
    low, high = np.full_like(n, -1.0), (better - worse) / n
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        rejected = tango_statistic(worse, better, n, middle) > quantile
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low


def tango_interval(
    worse: npt.ArrayLike, better: npt.ArrayLike, n: npt.ArrayLike, quantile: npt.ArrayLike
) -> tuple[Floats, Floats]:
    """Score interval for P(better) - P(worse) among ``n`` pairs; elementwise over arrays.

    Without any discordant pair it is -q²/(n+q²) .. q²/(n+q²). ``n`` must be positive.
    """
    arrays = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (worse, better, n, quantile)))
    w, b, total, q = (np.atleast_1d(a) for a in arrays)
    shape = arrays[0].shape
    return _tango_lower(w, b, total, q).reshape(shape), (-_tango_lower(b, w, total, q)).reshape(shape)


@dataclass(frozen=True, slots=True)
class Spread:
    """How sure the mean of the differences is.

    ``se``: standard error of the mean. ``df``: degrees of freedom of its t quantile (infinite for independent 0/1
    pairs). ``design_effect``: variance of the mean over what it would be with independent items, at least 1.
    ``clustered``: whether the groups entered (the order of a text enters by ``df`` and ``design_effect`` alone).
    ``groups``, ``skewness``: how many, and how lopsided their sums are beyond chance (a few bad ones among many good).
    """

    se: float
    df: float
    design_effect: float
    clustered: bool
    groups: int = 0
    skewness: float = 0.0

    def arms(self, quantile: float) -> tuple[float, float]:
        """``quantile`` towards lower and higher differences, longer where the groups' sums have a tail (Hall 1992)."""
        found = hall_arms(np.asarray(self.skewness), quantile, self.groups)
        return max(quantile, float(found[0])), max(quantile, float(found[1]))


def effective_groups(codes: Codes) -> float:
    """n² / Σ n_g²: the number of equally large groups that carry as much; 0 without items (Kish 1965)."""
    if codes.size == 0:
        return 0.0
    sizes = np.bincount(codes).astype(np.float64)
    return float(codes.size**2 / np.sum(sizes**2))


def groups_count(codes: Codes) -> bool:
    """Whether groups enter the interval: there are two at least, and one of them holds two items."""
    sizes = np.bincount(codes)
    return bool(codes.size) and int(sizes.max()) > 1 and int(np.count_nonzero(sizes)) > 1


def group_df(sizes: Floats) -> float:
    """Degrees of freedom of the cluster-robust variance of a mean (Bell and McCaffrey 2002); at least 1.

    Satterthwaite's, for groups of these ``sizes`` within which items correlate by 0.05, but never more than the
    effective number of groups less one. Equal groups have one less than there are; one as large as all others leaves 2.
    """
    sizes = sizes[sizes > 0]  # of a part of the items, some groups may hold none
    shares = sizes / sizes.sum()
    noise = DF_CORRELATION + (1 - DF_CORRELATION) / sizes  # variance of a group's mean
    weights, pull = shares**2 / (1 - shares), shares * noise
    total = float(shares @ pull)
    own = noise - 2 * pull + total  # variance of a group's deviation from the mean of all
    w0, w1, w2 = (float(weights @ pull**power) for power in (0, 1, 2))
    # Σ_gh weight_g weight_h cov_gh², where cov_gh = total - pull_g - pull_h off the diagonal
    crossed = total**2 * w0**2 + 2 * w2 * w0 - 4 * total * w1 * w0 + 2 * w1**2
    crossed += float(weights**2 @ (own**2 - (total - 2 * pull) ** 2))
    return max(1.0, min(float(weights @ own) ** 2 / crossed, 1 / float(shares @ shares) - 1))


def spread(differences: Floats, codes: Codes) -> Spread:
    """Standard error of the mean difference, cluster-robust where the groups count.

    The larger of the independent and the cluster-robust error is taken, so grouping can only widen an interval.
    ``se`` is NaN with fewer than two items.
    """
    n = differences.size
    if n < 2:
        return Spread(math.nan, math.nan, 1.0, False)
    independent = float(np.var(differences, ddof=1)) / n
    if not groups_count(codes):
        return Spread(math.sqrt(independent), n - 1.0, 1.0, False)
    sizes = np.bincount(codes).astype(np.float64)
    residuals = np.bincount(codes, weights=differences - differences.mean())
    # Dividing by 1 - n_g/n makes the sum unbiased when items are independent after all (CR2).
    robust = float(np.sum(residuals**2 / (1 - sizes / n))) / n**2
    effect = max(1.0, robust / independent) if independent > 0 else 1.0
    sums: Floats = residuals[sizes > 0].astype(np.float64)
    skewness = float(sure_skewness(sums, sizes[sizes > 0]))
    return Spread(math.sqrt(independent * effect), group_df(sizes), effect, True, sums.size, skewness)


def serial_spread(differences: Floats) -> Spread:
    """As ``spread`` for items in the order of a running text, where neighbours resemble each other.

    The variance of the mean is read from the series' 0.4 · n^(2/3) lowest cosine frequencies (at least three), where
    correlation of any shape shows; the independent one is the least it can be. So many are the degrees of freedom.
    """
    n = differences.size
    if n < 2:
        return Spread(math.nan, math.nan, 1.0, False)
    independent = float(np.var(differences, ddof=1)) / n
    count = min(n - 1, max(3, round(0.4 * n ** (2 / 3))))
    waves = np.cos(np.pi * np.arange(1, count + 1)[:, None] * (np.arange(n) + 0.5) / n) * math.sqrt(2 / n)
    low = float(np.mean((waves @ differences) ** 2)) / n
    effect = max(1.0, low / independent) if independent > 0 else 1.0
    return Spread(math.sqrt(independent * effect), float(count), effect, False)


def sure_effect(found: Spread) -> float:
    """The design effect that counts for items that were not drawn: of a series, what chance alone does not explain.

    Read from few frequencies it is noise: of independent items too it reaches twice the truth now and then. Above the
    95% quantile of that noise (chi-squared) it counts; the interval itself has Student's t for it.
    """
    if found.clustered or not found.design_effect > 1:
        return found.design_effect
    noise = float(special.chdtri(found.df, SURE)) / found.df
    return max(1.0, found.design_effect / noise)


def cautious_effect(effect: Floats, discordant: Floats, group_size: float) -> Floats:
    """Design effect of 0/1 data when only ``discordant`` pairs could show it; never below the estimate ``effect``.

    The estimate is averaged with 1 + (``group_size`` - 1) · 0.02 (Kish's formula), which weighs as much as ten pairs.
    Without it, a rare bad group that was not drawn would leave no trace (see benchmarks/verdict_calibration.py).
    """
    assumed = 1 + (group_size - 1) * PRIOR_CORRELATION
    return np.maximum(effect, (discordant * effect + PRIOR_PAIRS * assumed) / (discordant + PRIOR_PAIRS))


def binary_spread(differences: Floats, codes: Codes) -> Spread:
    """As ``spread`` for differences of 0/1 outcomes: normal quantiles for independent items, a cautious design effect
    for clustered ones.
    """
    found = spread(differences, codes)
    if not found.clustered:
        return Spread(found.se, math.inf, 1.0, False)
    discordant = np.asarray(np.count_nonzero(differences), dtype=np.float64)
    size = differences.size / effective_groups(codes)
    effect = float(cautious_effect(np.asarray(found.design_effect), discordant, size))
    return replace(found, se=found.se * math.sqrt(effect / found.design_effect), design_effect=effect)


def binary_interval(differences: Floats, found: Spread, quantile: float) -> tuple[float, float]:
    """Tango's interval for differences in {-1, 0, 1}, on counts divided by the design effect; needs an item."""
    effect = found.design_effect
    worse, better = float(np.sum(differences < 0)), float(np.sum(differences > 0))
    low, high = tango_interval(worse / effect, better / effect, differences.size / effect, found.arms(quantile))
    return float(low[0]), float(high[1])


def mean_interval(differences: Floats, found: Spread, quantile: float) -> tuple[float, float]:
    """Interval for the mean of real differences from what was seen; NaN with fewer than two items.

    Student's t, united with Hall's skewness-corrected t: a KL divergence has a long right tail, and t alone says
    "inside the margin" too often. What no sample of this size could show is added by :mod:`quantgate.verdict.unseen`.
    """
    n = differences.size
    centre = float(differences.mean()) if n else math.nan
    by_item = skewed_arms(differences, quantile, n / found.design_effect)
    lower, upper = (max(each) * found.se for each in zip(found.arms(quantile), by_item, strict=True))
    return centre - lower, centre + upper


def skewed_arms(differences: Floats, quantile: float, n_effective: float) -> tuple[float, float]:
    """Arms of the interval below and above the mean in standard errors, corrected for skewness (Hall 1992).

    Hall's cubic transformation of t, inverted at ± ``quantile``; both are ``quantile`` for a symmetric sample.
    """
    deviation = float(np.std(differences)) if differences.size else 0.0
    # Cubes of tiny spreads underflow, and a constant sample has no shape.
    if not deviation > 1e-100:
        return quantile, quantile
    skewness = float(np.mean(((differences - differences.mean()) / deviation) ** 3))
    below, above = hall_arms(np.asarray(skewness), quantile, n_effective)
    return float(below), float(above)


def hall_arms(skewness: Floats, quantile: float, n: float) -> tuple[Floats, Floats]:
    """Hall's arms below and above the mean for ``n`` values of this skewness; elementwise over arrays."""
    root = math.sqrt(max(n, 1.0))
    slope = skewness / (3 * root)
    flat = np.abs(slope) < 1e-9
    steep = np.where(flat, 1.0, slope)

    def inverse(z: float) -> Floats:
        return np.where(flat, z, (np.cbrt(1 + 3 * steep * (z - skewness / (6 * root))) - 1) / steep)

    return inverse(quantile), -inverse(-quantile)


def sure_skewness(sums: Floats, sizes: Floats) -> Floats:
    """Skewness of ``sums`` [..., groups] where it is more than chance shows in 5% of normal samples, else 0.

    The skewness of ten normal numbers is anything between -1.3 and 1.3, and more where one of them, of a large group,
    outweighs the others; to count that would lengthen every interval. ``sizes``: items of the groups, [groups].
    """
    centred = sums - sums.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1))
    found = (centred**3).mean(axis=-1) / np.where(deviation > 1e-100, deviation, 1.0) ** 3
    spreads = sizes * (1 + (sizes - 1) * DF_CORRELATION)  # variance of a group's sum
    uneven = float((spreads**3).mean() / spreads.mean() ** 3)
    noise = special.ndtri(1 - SURE) * math.sqrt(6 * uneven / sums.shape[-1])
    return np.where((deviation > 1e-100) & (np.abs(found) > noise), found, 0.0)
