"""Intervals for metrics of a whole corpus, which are no mean over items: BLEU, bias scores.

The difference is resampled: a seeded paired bootstrap (Efron 1979; Koehn 2004 for BLEU) over groups where they count,
else over items. Three corrections make it hold for few items:

- both arms are as long as the longer one: a loss leaves a long tail on one side, and neither way of turning quantiles
  into bounds (basic, percentile) is right about which;
- a bootstrap interval is too short by sqrt((n-1)/n) and by the ratio of the normal to Student's quantile; both are put
  back (Hesterberg 2015, The American Statistician 69:371, "expanded percentile");
- resampling sees nothing of what was not drawn. The jackknife's pseudo-values are to a corpus metric what scores are to
  a mean (and equal the scores when the metric is a mean), so room for unseen items is made on them
  (:mod:`quantgate.verdict.unseen`), where one may lose the largest pseudo-value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from quantgate.verdict import intervals
from quantgate.verdict.exact import Resampling, bootstrap_difference
from quantgate.verdict.intervals import Codes, Floats, Spread
from quantgate.verdict.unseen import widened

Aggregate: TypeAlias = Callable[[Floats], float]
ROUNDS: Final = 2000
_SEED: Final = 1234  # fixed: the same outcomes give the same record


@dataclass(frozen=True, slots=True)
class CorpusInterval:
    """Bounds of subject minus reference in the metric's unit, the spread behind them, and a line on how they came.

    ``half``: half the interval by what was seen alone. ``stake``: what an unseen item may lose, in the metric's unit.
    """

    low: float
    high: float
    spread: Spread
    statement: str
    half: float
    stake: float


def corpus_interval(
    before: Floats, after: Floats, value: Aggregate, codes: Codes, confidence: float, rounds: int = ROUNDS,
    ratio: float = 1.0,
) -> CorpusInterval:  # fmt: skip
    """The interval of ``value(sum of after) - ratio * value(sum of before)``.

    Args:
        before: facts of the reference, float64 [items, facts].
        after: facts of the subject for the same items in the same order.
        value: the metric of summed facts, float64 [facts].
        codes: group of every item, 0 to groups - 1.
        confidence: two-sided level.
        rounds: resamples.
        ratio: the share of the reference's value that is compared with.

    Returns:
        NaN bounds when there are fewer than two units to resample, or when some resample has no finite value.
    """
    clustered = intervals.groups_count(codes)
    units = codes if clustered else np.arange(len(codes), dtype=np.intp)
    n = int(units.max()) + 1
    how = Resampling(np.random.default_rng(_SEED), rounds, confidence)
    difference, low, high = bootstrap_difference(before, after, value, units, how, ratio)
    df = intervals.group_df(np.bincount(codes).astype(np.float64)) if clustered else n - 1.0
    quantile = intervals.t_quantile(confidence, df)
    wider = quantile / intervals.normal_quantile(confidence) * math.sqrt(n / max(n - 1, 1))
    pseudo = [_pseudo_values(rows, value, units, n) for rows in (before, after)]
    half = wider * max(difference - low, high - difference)
    both = np.concatenate(pseudo)
    stake = float(np.abs(both).max()) if np.ptp(both) else 0.0  # a value that no item moves has nothing at stake
    # the mean of pseudo-values is the metric less its bias; only their spread is asked for
    moved = pseudo[1] - ratio * pseudo[0]
    seen = (difference - half, difference + half)
    low, high = widened(moved - moved.mean() + difference, seen, (stake, stake), 1 - confidence)
    spread = Spread(half / quantile, df, 1.0, clustered)
    return CorpusInterval(low, high, spread, _statement(codes, clustered, n, rounds), half, stake)


def _pseudo_values(rows: Floats, value: Aggregate, units: Codes, n: int) -> Floats:
    """n · value - (n - 1) · value without unit i, for every unit i."""
    sums = np.zeros((n, rows.shape[1]))
    np.add.at(sums, units, rows)
    whole = sums.sum(axis=0)
    return n * value(whole) - (n - 1) * np.array([value(whole - each) for each in sums])


def _statement(codes: Codes, clustered: bool, n: int, rounds: int) -> str:
    drawn = f"paired bootstrap, {rounds:,} resamples of {n} {'groups' if clustered else 'items'}"
    if clustered:
        return f"{drawn}, about groups like these"
    return drawn if np.bincount(codes).max() == 1 else f"{drawn}, about the items of this one group"
