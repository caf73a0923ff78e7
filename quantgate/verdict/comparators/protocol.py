"""The seam of comparators: everything that depends on how a metric's value comes of its items' scores.

A kind of metric (`Metric.kind`) has one comparator. It makes the interval, says what a margin means on the scale of the
scores, gives p-values, sample sizes and words. Pairing, verdicts and reports ask it and know no kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.verdict.comparison import Comparison, Pair
from quantgate.verdict.intervals import Codes, Floats


class Words(Protocol):
    """How values of one kind of metric are spelled."""

    @property
    def no_number(self) -> str:
        """What is said of a value that is not finite, as the end of a sentence."""

    def value(self, metric: Metric, value: float) -> str:
        """A value of the metric."""

    def amount(self, metric: Metric, difference: float) -> str:
        """A difference of two."""


class Comparator(Protocol):
    """One kind of metric. Differences are subject - reference; harm is how much worse, whatever the direction."""

    kind: str
    """The `Metric.kind` it compares."""
    counts_at_worst: bool
    """Whether an item that only the subject could not answer can count at the metric's worst score."""
    stops_early: bool
    """Whether bets on the scores decide, so that a case may stop when its verdict is certain."""
    worst_change: float | None
    """By how much every metric of the kind can get worse; None where that hangs on the metric."""
    words: Words
    """Values and differences in words."""

    def unfit(self, scores: Floats) -> str:
        """Why these scores are none of the kind, before the metric's name; empty when they are."""

    def unvaried(self, plain: Comparison, before: Floats, after: Floats) -> str:
        """Why no interval can be made of finite scores ``[items]``; empty when one can."""

    def completed(
        self, plain: Comparison, pairs: Sequence[Pair], before: Floats, after: Floats, codes: Codes
    ) -> Comparison:
        """``plain`` with interval, p-value and statement. ``codes``: group of each pair."""

    def relative(self, comparison: Comparison, share: float) -> Comparison:
        """The interval for a margin of ``share`` of the reference's value, which is an estimate too."""

    def on_scores(self, difference: float, reference: float) -> float:
        """A difference in the metric's unit on the scale of the scores."""

    def in_units(self, size: float, reference: float) -> float:
        """The inverse of `on_scores` for a harm."""

    def p_values(self, comparison: Comparison, margin: float) -> tuple[float, float]:
        """One-sided p-values of "at least as bad as the margin" and of "within it"; they agree with the interval."""

    def root_of_items(self, comparison: Comparison, margin: float, with_power: float) -> float:
        """Square root of the items that decide in such a share of runs (``with_power``: its normal quantile)."""

    def fewest(self, metric: Metric, kind: str, amount: float, confidence: float) -> float:
        """Items below which not even an unchanged model passes a margin of ``kind`` (absolute, relative)."""

    def beats(self, metric: Metric, reference: float, n: int, chance: float, significance: float) -> bool:
        """Whether the reference's value on ``n`` items is better than ``chance``."""

    def unchanged(self, comparison: Comparison) -> str:
        """Why equal scores mean that nothing was quantized; empty when they do not."""

    def turns(self, reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome]) -> Mapping[str, float]:
        """Counts beside the metric: which answers turned, by kind."""
