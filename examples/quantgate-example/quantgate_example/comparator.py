"""A comparator: how results of one kind of metric are compared. This one trusts the range of scores alone."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from quantgate.verdict.comparators.means import Mean
from quantgate.verdict.comparison import Comparison, Pair
from quantgate.verdict.intervals import Codes, Floats


class Bounded(Mean):
    """Means of scores from 0 to 1 by Hoeffding's inequality: valid for every distribution, and wide.

    A difference of two such scores spans 2, so half the interval is sqrt(2 ln(2 / error) / items).
    """

    kind = "bounded"

    def unfit(self, scores: Floats) -> str:
        """Scores outside the range."""
        return "" if np.all((scores >= 0) & (scores <= 1)) else "outside 0 to 1 for the metric"

    def completed(
        self, plain: Comparison, pairs: Sequence[Pair], before: Floats, after: Floats, codes: Codes
    ) -> Comparison:
        """All but the interval is a mean's; nothing is added for what was not drawn, which the inequality covers."""
        found = super().completed(plain, pairs, before, after, codes)
        if found.undefined:
            return found
        items = found.n_items / found.spread.design_effect
        half = math.sqrt(2 * math.log(2 / (1 - found.confidence)) / items)
        low, high = found.shift - half, found.shift + half
        return replace(
            found,
            ci_low=low,
            ci_high=high,
            stake=0.0,
            seen_harm=-low if found.metric.higher_is_better else high,
            statement=f"Hoeffding's inequality on {items:.4g} independent items",
        )


COMPARATOR = Bounded()
