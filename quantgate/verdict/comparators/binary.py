"""``binary``: scores of 0 and 1.

Tango's score interval; with groups that count, on counts divided by the design effect and with Student's t on the
effective number of groups less one. For a relative margin Nam and Blackwelder's of the ratio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.verdict import intervals
from quantgate.verdict.comparators.means import Mean
from quantgate.verdict.comparators.protocol import Words
from quantgate.verdict.comparators.ratio import counts, deviations, ratio_interval, statistic_at
from quantgate.verdict.comparators.shared import statement, t_test, worst_side
from quantgate.verdict.comparison import Comparison, Pair
from quantgate.verdict.exact import beats_chance, mcnemar_worse
from quantgate.verdict.intervals import (
    Codes,
    Floats,
    constrained_variance,
    normal_quantile,
    tango_statistic,
    upper_tail,
)
from quantgate.verdict.turns import calls

_NAME = "Tango's score interval"


@dataclass(frozen=True)
class Percent:
    """Shares of a hundred."""

    no_number: str = "is no finite number"

    def value(self, metric: Metric, value: float) -> str:
        """In percent."""
        del metric
        return f"{100 * value:.1f}%"

    def amount(self, metric: Metric, difference: float) -> str:
        """In points."""
        del metric
        return f"{100 * difference:.2f} points"


class Binary(Mean):
    """Right or wrong."""

    kind = "binary"
    stops_early = True
    worst_change: float | None = 1.0
    words: Words = Percent()

    def unfit(self, scores: Floats) -> str:
        """See `Comparator`."""
        return "" if np.isin(scores, (0.0, 1.0)).all() else "other than 0 and 1 for the 0/1 metric"

    def unvaried(self, plain: Comparison, before: Floats, after: Floats) -> str:
        """Tango's interval needs no spread."""
        del plain, before, after
        return ""

    def completed(
        self, plain: Comparison, pairs: Sequence[Pair], before: Floats, after: Floats, codes: Codes
    ) -> Comparison:
        """See `Comparator`. Nothing is added for what was not drawn: Tango's interval is what the sample could show."""
        del pairs
        differences = after - before
        found = intervals.binary_spread(differences, codes)
        low, high = intervals.binary_interval(differences, found, intervals.t_quantile(plain.confidence, found.df))
        shift = float(differences.mean())
        exact = mcnemar_worse(plain.items_worse, plain.items_better)
        return replace(
            plain,
            ci_low=low,
            ci_high=high,
            shift=shift,
            spread=found,
            seen_harm=worst_side(plain.metric, low, high),
            p_worse=t_test(plain, shift, found) if found.clustered else exact,
            statement=statement(_NAME, plain, found, codes, 0.0, along=False),
        )

    def relative(self, comparison: Comparison, share: float) -> Comparison:
        """The interval of the ratio, as a difference from the reference's value here: (ratio - 1) · reference."""
        del share
        if not comparison.reference > 0:
            return comparison
        both, lost, won, n = counts(comparison)
        # Only what the reference answers tells about the ratio: with few such items the normal quantile is too short.
        df = min(comparison.spread.df, max(1.0, both + lost - 1))
        comparison = replace(comparison, spread=replace(comparison.spread, df=df))
        low, high = ratio_interval(both, lost, won, n, comparison.spread.arms(comparison.quantile))
        low, high = ((bound - 1) * comparison.reference for bound in (low, min(high, 1 / comparison.reference)))
        told = comparison.statement.replace(_NAME, "Nam and Blackwelder's score interval of the ratio")
        return replace(comparison, ci_low=low, ci_high=high, relative=True, statement=told)

    def p_values(self, comparison: Comparison, margin: float) -> tuple[float, float]:
        """By the score test whose inversion is the interval."""
        statistic = (statistic_at if comparison.relative else _tango)(comparison, margin)
        below, above = comparison.spread.arms(comparison.quantile)
        arms = (below, above) if comparison.metric.higher_is_better else (above, below)
        worse, better = (arm / comparison.quantile for arm in arms)
        df = comparison.spread.df
        return upper_tail(statistic / worse, df), upper_tail(-statistic / better, df)

    def root_of_items(self, comparison: Comparison, margin: float, with_power: float) -> float:
        """By the errors of the score test: on the margin, and as it is."""
        if comparison.relative:
            distance, null, own = deviations(comparison, margin)
        else:
            worse, better, n = _turned(comparison)
            distance = abs(min(margin, 1.0) + (better - worse) / n)
            null, own = errors(worse / n, better / n, margin)
        effect = math.sqrt(comparison.spread.design_effect)
        wanted = effect * (comparison.quantile * null + with_power * own)
        return wanted / distance if distance > 0 else math.inf

    def fewest(self, metric: Metric, kind: str, amount: float, confidence: float) -> float:
        """Tango's q² / (n + q²) of an unchanged model."""
        del metric
        if kind != "absolute":
            return 1.0
        return normal_quantile(confidence) ** 2 * (1 / amount - 1) * (1 - 1e-12) if amount > 0 else math.inf

    def beats(self, metric: Metric, reference: float, n: int, chance: float, significance: float) -> bool:
        """By an exact binomial test."""
        right = round((reference if metric.higher_is_better else 1 - reference) * n)
        guessed = chance if metric.higher_is_better else 1 - chance
        return beats_chance(right, n, guessed) <= significance

    def turns(self, reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome]) -> Mapping[str, float]:
        """Right to wrong, wrong to right, and from one wrong answer to another."""
        return {name: float(count) for name, count in calls(reference, subject).items()}


def errors(p_worse: float, p_better: float, margin: float) -> tuple[float, float]:
    """Standard deviation of one item's difference in -1, 0, 1: as it would be on the margin, and as it is."""
    shares = (np.asarray(share) for share in (p_worse, p_better, 1.0, -min(margin, 1.0)))
    own = p_worse + p_better - (p_better - p_worse) ** 2
    return math.sqrt(max(float(constrained_variance(*shares)), 0.0)), math.sqrt(max(own, 0.0))


def _turned(comparison: Comparison) -> tuple[float, float, float]:
    return float(comparison.items_worse), float(comparison.items_better), float(comparison.n_items)


def _tango(comparison: Comparison, margin: float) -> float:
    """Tango's statistic at a loss of ``margin``."""
    scale = 1 / comparison.spread.design_effect
    worse, better, n = (np.asarray(count * scale) for count in _turned(comparison))
    # More than everything cannot be lost.
    return float(tango_statistic(worse, better, n, np.asarray(-min(margin, 1.0))))
