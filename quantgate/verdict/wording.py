"""Sentences for people: a comparison and a margin in the words of a release manager."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from quantgate.verdict.comparators.table import comparator_of
from quantgate.verdict.comparison import ABOUT, Comparison

FEW_DF: Final = 7.0  # degrees of freedom below which groups widen an interval by a fifth


@dataclass(frozen=True, slots=True)
class Wording:
    """Words about one comparison; ``share_of``: the reference's value that amounts are shown as a share of, if any."""

    comparison: Comparison
    share_of: float | None = None

    @property
    def harm_bounds(self) -> tuple[float, float]:
        """Interval of how much worse the subject is, in the metric's unit."""
        low, high = self.comparison.ci_low, self.comparison.ci_high
        return (-high, -low) if self.comparison.metric.higher_is_better else (low, high)

    def value(self, value: float) -> str:
        """A value of the metric: accuracies in percent."""
        return comparator_of(self.comparison.metric).words.value(self.comparison.metric, value)

    def amount(self, difference: float) -> str:
        """A difference: points for accuracies, percent of the reference for relative margins."""
        if self.share_of:
            return f"{100 * difference / abs(self.share_of):.3g}%"
        return comparator_of(self.comparison.metric).words.amount(self.comparison.metric, difference)

    def passed(self, margin: float) -> str:
        """Why this passes."""
        _, high = self.harm_bounds
        worse = "not worse at all" if high <= 0 else f"at most {self.amount(high)} worse"
        return f"{self._change}; with {self._sure} confidence it is {worse} (allowed: {self.amount(margin)})"

    def regressed(self, margin: float) -> str:
        """Why this is a regression."""
        worse = f"at least {self.amount(self.harm_bounds[0])} worse"
        return f"{self._change}; with {self._sure} confidence it is {worse} (allowed: {self.amount(margin)})"

    def open(self, margin: float, detectable: float, items: float) -> str:
        """Why nothing can be said yet, and what would help."""
        low, high = self.harm_bounds
        first = f"{self.amount(-low)} better" if low < 0 else f"{self.amount(low)} worse"
        more = "more items would hardly decide, it lies on the margin"
        if math.isfinite(items):
            more = f"about {items:,.0f} items would decide if it goes on like this"
        return (
            f"{self._change}; with {self._sure} confidence it is anything from {first} to {self.amount(high)} worse "
            f"(allowed: {self.amount(margin)}); {self.comparison.n_items} items can show a difference of "
            f"{self.amount(detectable)}, {more}"
        )

    def hidden(self, margin: float, stake: float, items: float) -> str:
        """Why this is open although all that was seen is inside the margin, and what would help."""
        high = self.harm_bounds[1]
        n, confidence = self.comparison.n_items, self.comparison.confidence
        share = -math.expm1(math.log(1 - confidence) / n)
        more = f"about {items:,.0f} items would show it" if math.isfinite(items) else "no number of items would show it"
        return (
            f"{self._change}, but rare damage could hide: {n} items can all miss what befalls {100 * share:.2g}% of "
            f"items, and at up to {stake:.3g} {self.comparison.metric.score_unit}an item it may be "
            f"{self.amount(high)} worse (allowed: {self.amount(margin)}); {more}"
        )

    @property
    def counted(self) -> str:
        """Which items count otherwise than by a score of their own on both sides; empty when none does."""
        failed, repeated = self.comparison.n_failed, self.comparison.n_repeated
        lost = f"; without a score of the subject, counted as lost: {failed}" if failed else ""
        blind = self.comparison.metric.blind
        unseen = f"; it does not see {blind}" if blind else ""
        return self._about + unseen + lost + (f"; repeats of other items, not counted: {repeated}" if repeated else "")

    @property
    def _about(self) -> str:
        """What the sentence holds for, where that is not simply items like these."""
        _, found, about = self.comparison.statement.partition(ABOUT)
        few = ""
        if self.comparison.spread.clustered and self.comparison.spread.df < FEW_DF:
            few = f", of which {self.comparison.n_groups} are few: more groups would tell more, not more items in them"
        return f"; it speaks of {about.partition(';')[0]}{few}" if found else ""

    @property
    def _sure(self) -> str:
        return f"{100 * self.comparison.confidence:g}%"

    @property
    def _change(self) -> str:
        name, start, end = self.comparison.metric.name, self.comparison.reference, self.comparison.value
        if start == end:
            return f"{name} stayed at {self.value(start)}"
        return f"{name} {'rose' if end > start else 'fell'} from {self.value(start)} to {self.value(end)}"
