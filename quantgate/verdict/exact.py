"""Exact and resampling tests on paired outcomes.

- McNemar's exact test (McNemar 1947; one-sided as in Kübler et al. 2026): given that a pair is discordant, right->wrong
  and wrong->right are equally likely under "not worse".
- Paired bootstrap (Efron 1979; Koehn 2004 for BLEU) for metrics of a corpus that are no mean over items.

All p-values are one-sided, for the alternative that the subject is worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from quantgate.verdict.intervals import Codes, Floats


def mcnemar_worse(worse: int, better: int) -> float:
    """P(at least ``worse`` of the discordant pairs got worse | both directions equally likely); 1 without any."""
    if worse < 0 or better < 0:
        raise ValueError(f"counts of pairs cannot be negative: {worse}, {better}")
    return 1.0 if worse == 0 else float(special.bdtrc(worse - 1, worse + better, 0.5))


def beats_chance(right: int, n: int, chance: float) -> float:
    """Exact binomial p-value of "no better than chance": P(at least ``right`` of ``n``); 1 when nothing is right."""
    return 1.0 if right == 0 else float(special.bdtrc(right - 1, n, chance))


@dataclass(frozen=True)
class Resampling:
    """``rounds`` of draws by ``rng``, and the two-sided ``confidence`` of the interval made of them."""

    rng: np.random.Generator
    rounds: int = 2000
    confidence: float = 0.95


def bootstrap_difference(
    reference: Floats,
    subject: Floats,
    value: Callable[[Floats], float],
    codes: Codes,
    how: Resampling,
    ratio: float = 1.0,
) -> tuple[float, float, float]:
    """Subject - ``ratio`` · reference, lower and upper bound of a corpus metric, by resampling whole groups of pairs.

    ``reference`` and ``subject`` hold a row of additive counts per item (for BLEU: n-gram matches, totals, lengths);
    ``value`` maps the summed counts to the metric. The interval is the basic bootstrap's, 2·difference - quantiles.
    All three are NaN when there are fewer than two groups or the metric is not finite for some sample.
    """
    n_groups = int(codes.max()) + 1 if codes.size else 0
    if n_groups < 2:
        return math.nan, math.nan, math.nan
    before, after = (_group_sums(rows, codes, n_groups) for rows in (reference, subject))
    difference = value(after.sum(axis=0)) - ratio * value(before.sum(axis=0))
    draws = np.empty(how.rounds)
    for i in range(how.rounds):
        weights = np.bincount(how.rng.integers(0, n_groups, n_groups), minlength=n_groups).astype(np.float64)
        draws[i] = value(weights @ after) - ratio * value(weights @ before)
    if not (math.isfinite(difference) and np.isfinite(draws).all()):
        return math.nan, math.nan, math.nan
    low, high = np.quantile(draws, [0.5 - how.confidence / 2, 0.5 + how.confidence / 2])
    return difference, 2 * difference - float(high), 2 * difference - float(low)


def _group_sums(rows: Floats, codes: Codes, n_groups: int) -> Floats:
    sums = np.zeros((n_groups, rows.shape[1]))
    np.add.at(sums, codes, rows)
    return sums
