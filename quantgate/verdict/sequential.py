"""Stop as soon as the verdict is certain, at an error rate that holds whenever one stops.

Items are visited in a seeded random order. At every look two bets run against the margin: one wins if the subject is
better than the margin, the other if it is worse. The capital of a bet on something false is a non-negative martingale,
so by Ville's inequality it ever reaches 1/α with probability at most α, however often one looks (Waudby-Smith and
Ramdas 2024, JRSS B 86:1, "Estimating means of bounded random variables by betting"). The stake is not tuned: the
capital is split once over a fixed grid of stakes (method of mixtures), so what counts is which items were seen.

``population``: what the error rate speaks about.
- ``beyond``: the population the benchmark's items were drawn from, as in the fixed verdict (the default).
- ``benchmark``: the value the full benchmark would give, sampling without replacement. It decides a little earlier
  near the end, but says less: at the last item it is certain of the benchmark, not of the model.

Differences must lie in -1..1: 0/1 outcomes, probabilities. Perplexity and KL divergence have no bound, so there is no
such test for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np
from scipy import special

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.core.records import Verdict
from quantgate.verdict import intervals
from quantgate.verdict.comparators.table import comparator_of
from quantgate.verdict.comparison import Comparison
from quantgate.verdict.intervals import Codes, Floats
from quantgate.verdict.paired import at_worst
from quantgate.verdict.policy import Rule

Population: TypeAlias = Literal["beyond", "benchmark"]
# Shares of the largest stake that cannot go broke; halved every second step, down to about 1%.
_STAKES: Final = 0.98 * 2.0 ** (-np.arange(14) / 2)
_BISECTIONS: Final = 50


def can_stop_early(metric: Metric, rule: Rule) -> bool:
    """Whether a case may be stopped early: 0/1 scores, and no companion number that needs all items."""
    return comparator_of(metric).stops_early and not rule.companions


def visiting_order(n: int, seed: int) -> list[int]:
    """The seeded random order in which ``n`` items are visited."""
    return [int(index) for index in np.random.default_rng(seed).permutation(n)]


def looks(n: int, first: int = 32, growth: float = 1.05) -> Iterator[int]:
    """After how many items to look: from ``first``, 5% more each time, and at the end."""
    at = float(first)
    last = 0
    while at < n:
        if int(at) > last:
            last = int(at)
            yield last
        at *= growth
    yield n


@dataclass(frozen=True, slots=True)
class SequentialTest:
    """The bets for one case. ``margin``: how much worse is allowed, on the scale of the scores.

    ``confidence`` is two-sided as everywhere: each side errs with probability (1 - confidence) / 2 over all looks
    together. ``n_total``: items of the full benchmark.
    """

    margin: float
    confidence: float
    n_total: int
    higher_is_better: bool = True
    population: Population = "beyond"

    def look(self, differences: Floats, codes: Codes | None = None) -> Verdict:
        """``pass``, ``regressed`` or ``inconclusive`` (go on) after the items seen so far, in visiting order.

        Where groups count (``intervals.groups_count``), bets on single items are not enough: the cluster-robust
        interval must lie on the same side of the margin.
        """
        harm = self._harm(differences)
        if self._capital(harm, self.margin, 1.0) >= self._goal and self._groups_agree(harm, codes, 1.0):
            return "pass"
        if self._capital(harm, self.margin, -1.0) >= self._goal and self._groups_agree(harm, codes, -1.0):
            return "regressed"
        return "inconclusive"

    def p_values(self, differences: Floats) -> tuple[float, float]:
        """Of "at least as bad as the margin" and of "within it": 1 / capital, valid whenever one stops (Ville)."""
        harm = self._harm(differences)
        for_pass, for_regressed = (math.exp(-max(0.0, self._capital(harm, self.margin, sign))) for sign in (1.0, -1.0))
        return for_pass, for_regressed

    def interval(self, differences: Floats) -> tuple[float, float]:
        """Confidence sequence for the mean difference: where neither bet has reached its goal."""
        harm = self._harm(differences)
        high, low = (self._edge(harm, sign) for sign in (1.0, -1.0))
        return (-high, -low) if self.higher_is_better else (low, high)

    def applied(self, comparison: Comparison, differences: Floats, scale: float = 1.0) -> Comparison:
        """``comparison`` of the items seen so far with the interval of the confidence sequence; for 0/1 and ``mean``.

        ``scale``: what the differences were divided by, to lie between -1 and 1.

        Where groups count it is widened to the stricter cluster-robust interval, so it can be judged at any look.
        """
        low, high = (scale * bound for bound in self.interval(differences))
        if comparison.spread.clustered:
            longer = intervals.t_quantile(_stricter(self.confidence), comparison.spread.df) / comparison.quantile
            low = min(low, comparison.delta - longer * (comparison.delta - comparison.ci_low))
            high = max(high, comparison.delta + longer * (comparison.ci_high - comparison.delta))
        saved = self.n_total - comparison.n_items
        statement = (
            f"betting confidence sequence over the {self.population_name}; {comparison.n_items} of {self.n_total} "
            f"items used, {saved} saved"
        )
        return replace(comparison, ci_low=low, ci_high=high, statement=statement)

    @property
    def population_name(self) -> str:
        """The population in words."""
        return "items beyond the benchmark" if self.population == "beyond" else "full benchmark"

    @property
    def _goal(self) -> float:
        return -math.log((1 - self.confidence) / 2)

    def _harm(self, differences: Floats) -> Floats:
        if not (np.abs(differences) <= 1).all():
            raise ValueError("a sequential test needs differences between -1 and 1")
        return -differences if self.higher_is_better else differences

    def _capital(self, harm: Floats, margin: float, sign: float) -> float:
        """Log capital of the bet that the mean harm lies below (``sign`` 1) or above (-1) ``margin``."""
        if self.population == "beyond":
            values, counts = np.unique(harm, return_counts=True)
            return float(log_capital(values, counts.astype(np.float64), margin, sign))
        return _capital_without_replacement(harm, self.n_total, margin, sign)

    def _edge(self, harm: Floats, sign: float) -> float:
        """The margin at which the bet just reaches its goal: the bound of the interval on that side."""
        inside, outside = (float(harm.mean()) if harm.size else 0.0), sign
        if self._capital(harm, outside, sign) < self._goal:
            return outside
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            reached = self._capital(harm, middle, sign) >= self._goal
            inside, outside = (inside, middle) if reached else (middle, outside)
        return outside

    def _groups_agree(self, harm: Floats, codes: Codes | None, sign: float) -> bool:
        if codes is None or not intervals.groups_count(codes):
            return True
        found = intervals.spread(harm, codes)
        below, above = found.arms(intervals.t_quantile(_stricter(self.confidence), found.df))
        bound = float(harm.mean()) + (above if sign > 0 else -below) * found.se
        return bound <= self.margin if sign > 0 else bound > self.margin


def _stricter(confidence: float) -> float:
    """The confidence asked of the cluster-robust interval at a look: a fifth of the error (95% becomes 99%).

    That interval has no guarantee over many looks. The groups' own deviations hardly change from look to look, so a
    fifth keeps the whole within bounds (see benchmarks/verdict_calibration.py).
    """
    return 1 - (1 - confidence) / 5


def log_capital(values: Floats, counts: Floats, margin: float, sign: float) -> Floats:
    """Log capital of the mixture of bets after seeing ``values`` so many times; ``counts`` may have leading axes.

    A stake s turns a capital of 1 into 1 + s·sign·(margin - value); the largest stake is where a total loss begins.
    """
    stakes = _STAKES / max(1 - sign * margin, 1e-9)
    growth = np.log1p(stakes[:, None] * (sign * (margin - values)))
    log: Floats = special.logsumexp(counts @ growth.T, axis=-1) - math.log(_STAKES.size)
    return log


def _capital_without_replacement(harm: Floats, n_total: int, margin: float, sign: float) -> float:
    """As ``log_capital``, when ``harm`` are the first of ``n_total`` values whose mean is ``margin``.

    What is left of them must then have the mean (n_total·margin - sum so far) / (items left), which the bet is on.
    """
    seen = np.arange(min(harm.size + 1, n_total))
    needed = (n_total * margin - np.concatenate([[0.0], np.cumsum(harm)])[: seen.size]) / (n_total - seen)
    if (sign * needed > 1).any():  # no values in -1..1 could still make up that mean: the claim is certain
        return math.inf
    left = needed[: harm.size]
    stakes = np.minimum(_STAKES[:, None] / max(1 - sign * margin, 1e-9), 0.98 / np.maximum(1 - sign * left, 1e-9))
    logs = np.log1p(stakes * (sign * (left - harm))).sum(axis=1)
    return float(special.logsumexp(logs) - math.log(_STAKES.size))


def score_differences(
    reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome], metric: Metric, ratio: float = 1.0
) -> tuple[Floats, Codes]:
    """Subject - ``ratio`` · reference and group numbers of the pairs, in the order of ``subject`` (the visit)."""
    before = {outcome.item_id: outcome for outcome in reference}
    pairs = [(before[each.item_id], at_worst(before[each.item_id], each, metric)) for each in subject]
    scored = [(old, new) for old, new in pairs if old.score is not None and new.score is not None]
    differences = np.array([float(new.score or 0.0) - ratio * float(old.score or 0.0) for old, new in scored])
    names = np.array([new.group for _, new in scored], dtype=str)
    return differences, np.unique(names, return_inverse=True)[1].astype(np.intp)
