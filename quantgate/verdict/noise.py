"""The noise floor: how much two runs of the same weights differ (an A/A run with other batches and another order).

A margin below it would judge the arithmetic of the machine, not the subject.
"""

from __future__ import annotations

import math

from quantgate.verdict.comparators.table import comparator_of
from quantgate.verdict.comparison import Comparison
from quantgate.verdict.intervals import normal_quantile


def noise_floor(again: Comparison, of_items: int = 0) -> float:
    """Largest difference that re-running the same weights makes plausible, in the metric's unit.

    ``again`` compares two runs of the reference. |difference| + normal quantile · standard error; 0 when both runs
    agree on every item. Unlike the verdict's interval this speaks of these very items, which are asked again, so an
    A/A run without any difference has no noise. NaN (which no margin clears) when the comparison is undefined.

    ``of_items``: items of the whole benchmark, when ``again`` holds a part of them. Two runs of the same weights are
    exchangeable: their true difference is 0, and what is seen shrinks with the root of the number of items.
    """
    if again.undefined or again.n_items < 2:
        return 0.0 if _all_the_same(again) else math.nan
    size = abs(again.shift) + normal_quantile(again.confidence) * again.spread.se
    size *= math.sqrt(again.n_items / max(of_items, again.n_items))
    return comparator_of(again.metric).in_units(size, again.reference)


def _all_the_same(again: Comparison) -> bool:
    """Scores that never vary (a KL divergence of 0 everywhere) leave an interval undefined, but not the noise."""
    return again.n_items > 0 and again.items_worse == again.items_better == 0 and math.isfinite(again.delta)
