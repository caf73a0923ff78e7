"""``corpus``: values that are no mean of scores but come of all items' facts (BLEU, entity F1, bias scores).

A paired bootstrap of the summed facts, over groups that count or over items (:mod:`quantgate.verdict.corpus`). An
item's score then only tells which items moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from quantgate.core.items import facts_of
from quantgate.core.metrics import Metric
from quantgate.verdict.comparators.means import Mean
from quantgate.verdict.comparators.shared import t_test, worst_side
from quantgate.verdict.comparison import Comparison, Pair
from quantgate.verdict.corpus import corpus_interval
from quantgate.verdict.intervals import Codes, Floats


class Corpus(Mean):
    """Facts of all items, summed, then ``Metric.aggregate``."""

    kind = "corpus"
    counts_at_worst = False

    def unvaried(self, plain: Comparison, before: Floats, after: Floats) -> str:
        """What varies are the facts, not the scores."""
        del before, after
        return "one item has no spread: an interval needs at least two" if plain.n_items < 2 else ""

    def completed(
        self, plain: Comparison, pairs: Sequence[Pair], before: Floats, after: Floats, codes: Codes
    ) -> Comparison:
        """See `Comparator`."""
        del before, after
        facts = [facts_of([pair[side] for pair in pairs]) for side in (0, 1)]
        return self._against(replace(plain, sides=(facts[0], facts[1], codes)), 1.0)

    def fewest(self, metric: Metric, kind: str, amount: float, confidence: float) -> float:
        """Not known beforehand."""
        del metric, kind, amount, confidence
        return 1.0

    def _against(self, comparison: Comparison, ratio: float) -> Comparison:
        plain, metric = comparison, comparison.metric
        assert metric.aggregate is not None
        assert plain.sides is not None
        before, after, codes = plain.sides
        delta = plain.value - ratio * plain.reference
        if np.ptp(np.concatenate([before, after]), axis=0).max() == 0:
            why = "every item has the same facts on both sides: nothing differs, nothing varies"
            return replace(plain, undefined=why)
        found = corpus_interval(before, after, metric.aggregate, codes, plain.confidence, ratio=ratio)
        if not math.isfinite(found.high - found.low):
            return replace(plain, undefined=f"{metric.name} has no finite value on some resamples of the items")
        if found.high == found.low:
            return replace(plain, undefined=f"{metric.name} never varies over resamples: too few items count for it")
        return replace(
            plain,
            ci_low=found.low,
            ci_high=found.high,
            shift=plain.delta,
            spread=found.spread,
            seen_harm=worst_side(metric, delta - found.half, delta + found.half),
            stake=found.stake,
            p_worse=t_test(plain, plain.delta, found.spread),
            statement=found.statement,
        )
