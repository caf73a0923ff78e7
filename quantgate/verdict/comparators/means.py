"""``mean`` and ``exp_mean``: values that are a mean of the items' scores, and what such a mean is the logarithm of.

A paired t interval; with groups that count, on the CR2 cluster-robust variance; along the text where items are
neighbours. Then room is made for what no sample of this size could show (:mod:`quantgate.verdict.unseen`). A perplexity
is compared on the paired loss differences, then ``reference · (exp(loss difference) - 1)``: the reference's value on
these items is known, not estimated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.verdict import intervals
from quantgate.verdict.comparators.protocol import Words
from quantgate.verdict.comparators.shared import Harm, harm_of, statement, t_test, worst_side
from quantgate.verdict.comparison import Comparison, Pair
from quantgate.verdict.intervals import Codes, Floats, Spread, upper_tail
from quantgate.verdict.unseen import items_to_show, stakes, widened

_OVERFLOW: Final = 700.0  # exp of more is no float64


@dataclass(frozen=True)
class Digits:
    """A few digits, and the metric's unit."""

    no_number: str = "is no finite number"

    def value(self, metric: Metric, value: float) -> str:
        """Four digits."""
        return f"{value:.4g} {metric.unit}" if metric.unit else f"{value:.4g}"

    def amount(self, metric: Metric, difference: float) -> str:
        """Three digits."""
        return f"{difference:.3g} {metric.unit}" if metric.unit else f"{difference:.3g}"


class Mean:
    """Any real score; the value is its mean. Other comparators of real scores build on it."""

    kind: str = "mean"
    counts_at_worst: bool = True
    stops_early: bool = False
    worst_change: float | None = None
    words: Words = Digits()

    def unfit(self, scores: Floats) -> str:
        """See `Comparator`: every number is one."""
        del scores
        return ""

    def unvaried(self, plain: Comparison, before: Floats, after: Floats) -> str:
        """See `Comparator`."""
        if plain.n_items < 2:
            return "one item has no spread: an interval needs at least two"
        if not np.ptp(np.concatenate([before, after])) and plain.metric.range is None:
            same = f"{before[0] + 0.0:g}"
            return f"every score of the reference and of the subject is {same}: nothing differs, nothing varies"
        return ""

    def completed(
        self, plain: Comparison, pairs: Sequence[Pair], before: Floats, after: Floats, codes: Codes
    ) -> Comparison:
        """See `Comparator`."""
        del pairs
        return self._with_interval(replace(plain, sides=(before, after, codes)), before, after, codes)

    def relative(self, comparison: Comparison, share: float) -> Comparison:
        """The interval of subject - (1 - share) · reference (1 + share where lower is better), moved.

        So that a margin of ``share`` · reference lies on it where 0 lay.
        """
        if not 0 < share < math.inf:
            return comparison
        ratio = 1 - share if comparison.metric.higher_is_better else 1 + share
        found = self._against(comparison, ratio)
        if found.undefined:
            return found
        moved = (ratio - 1) * comparison.reference
        return replace(
            found,
            ci_low=found.ci_low + moved,
            ci_high=found.ci_high + moved,
            shift=comparison.shift,
            seen_harm=found.seen_harm + abs(moved),
            p_worse=comparison.p_worse,
            relative=True,
            statement=f"subject less {ratio:.4g} of the reference: {found.statement}",
        )

    def on_scores(self, difference: float, reference: float) -> float:
        """The same."""
        del reference
        return difference

    def in_units(self, size: float, reference: float) -> float:
        """The same."""
        del reference
        return size

    def p_values(self, comparison: Comparison, margin: float) -> tuple[float, float]:
        """By the arm of the interval towards the margin: it decides, and arms differ for skewed scores."""
        seen = self._harm(comparison, margin)
        arm = seen.high - seen.point if seen.margin >= seen.point else seen.point - seen.low
        distance = seen.margin - seen.point
        statistic = distance / arm * comparison.quantile if arm > 0 else math.copysign(math.inf, distance)
        df = comparison.spread.df
        return upper_tail(statistic, df), upper_tail(-statistic, df)

    def root_of_items(self, comparison: Comparison, margin: float, with_power: float) -> float:
        """The arm shrinks with the root of the items."""
        seen, quantile = self._harm(comparison, margin), comparison.quantile
        distance = abs(seen.margin - seen.point)
        arm = comparison.seen_harm - seen.point if seen.margin >= seen.point else seen.point - seen.low
        wanted = math.sqrt(comparison.n_items) * (quantile + with_power) * arm / quantile
        return wanted / distance if distance > 0 else math.inf

    def fewest(self, metric: Metric, kind: str, amount: float, confidence: float) -> float:
        """What an interval leaves open is the stake of what was not drawn."""
        allowed = self._allowed(kind, amount)
        stake = metric.range if metric.stake is None else metric.stake
        if allowed is None or stake is None or not stake > allowed:
            return 1.0
        return items_to_show(0.0, 0.0, 1, stake, allowed, 1 - confidence, 1.0)

    def beats(self, metric: Metric, reference: float, n: int, chance: float, significance: float) -> bool:
        """By its value."""
        del n, significance
        return reference > chance if metric.higher_is_better else reference < chance

    def unchanged(self, comparison: Comparison) -> str:
        """Equal scores may be chance."""
        del comparison
        return ""

    def turns(self, reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome]) -> Mapping[str, float]:
        """None: such answers do not turn."""
        del reference, subject
        return {}

    def _harm(self, comparison: Comparison, margin: float) -> Harm:
        return harm_of(comparison, margin, self.on_scores)

    def _allowed(self, kind: str, amount: float) -> float | None:
        """A margin on the scale of the scores where it does not hang on the reference's value."""
        return amount if kind == "absolute" else None

    def _against(self, comparison: Comparison, ratio: float) -> Comparison:
        """The comparison of the subject with ``ratio`` times the reference."""
        assert comparison.sides is not None
        before, after, codes = comparison.sides
        return self._with_interval(comparison, ratio * before, after, codes)

    def _bounds(self, plain: Comparison, low: float, high: float) -> tuple[float, float]:
        """The interval of the mean difference in the metric's unit."""
        del plain
        return low, high

    def _with_interval(self, plain: Comparison, before: Floats, after: Floats, codes: Codes) -> Comparison:
        differences, metric = after - before, plain.metric
        found = self._spread(metric, differences, codes)
        low, high = intervals.mean_interval(differences, found, intervals.t_quantile(plain.confidence, found.df))
        seen, room = worst_side(metric, low, high), stakes(metric, before, after)
        low, high = widened(differences, (low, high), room, 1 - plain.confidence, intervals.sure_effect(found))
        low, high = self._bounds(plain, low, high)
        shift, stake = float(differences.mean()), room[0] if metric.higher_is_better else room[1]
        return replace(
            plain,
            ci_low=low,
            ci_high=high,
            shift=shift,
            spread=found,
            seen_harm=seen,
            stake=stake,
            p_worse=t_test(plain, shift, found),
            statement=statement("paired t interval", plain, found, codes, stake, along=metric.serial),
        )

    def _spread(self, metric: Metric, differences: Floats, codes: Codes) -> Spread:
        """Over groups where they count, else along the text where items are neighbours, else over items."""
        if metric.serial and not intervals.groups_count(codes):
            return intervals.serial_spread(differences)
        return intervals.spread(differences, codes)


class ExpMean(Mean):
    """The value is exp of the mean score: a perplexity, which is compared by its ratio anyway."""

    kind = "exp_mean"
    words: Words = Digits("is too large for a number")

    def relative(self, comparison: Comparison, share: float) -> Comparison:
        """As it is: the reference's value drops out of a ratio."""
        del share
        return comparison

    def on_scores(self, difference: float, reference: float) -> float:
        """Difference of the mean losses."""
        return math.log1p(difference / reference) if difference > -reference else -math.inf

    def in_units(self, size: float, reference: float) -> float:
        """Difference in value when the mean loss differs by ``size``; infinite where a float ends."""
        return reference * math.expm1(size) if size < _OVERFLOW else math.inf

    def unchanged(self, comparison: Comparison) -> str:
        """Quantization moves every loss."""
        if comparison.items_worse or comparison.items_better:
            return ""
        return f"all {comparison.n_items} losses are exactly the reference's: nothing was quantized"

    def _allowed(self, kind: str, amount: float) -> float | None:
        return math.log1p(amount) if kind == "relative" else None

    def _bounds(self, plain: Comparison, low: float, high: float) -> tuple[float, float]:
        return self.in_units(low, plain.reference), self.in_units(high, plain.reference)
