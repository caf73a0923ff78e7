"""What a sample can show: p-values against a margin, the smallest detectable difference, the items that would decide.

Everything is worked out on the scale of the scores, as harm: how much worse the subject is, whatever the metric's
direction. For perplexity that scale is the mean loss, where the margin is ln(1 + margin / reference).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from quantgate.verdict.intervals import constrained_variance, normal_quantile, sure_effect, tango_statistic, upper_tail
from quantgate.verdict.paired import Comparison
from quantgate.verdict.policy import Rule
from quantgate.verdict.relative import deviations, statistic_at
from quantgate.verdict.unseen import items_to_show

POWER: Final = 0.8
_TOO_MANY: Final = 1e7


@dataclass(frozen=True, slots=True)
class Harm:
    """How much worse the subject is on the scale of the scores: estimate, interval, and the margin on that scale."""

    point: float
    low: float
    high: float
    margin: float

    @property
    def half_width(self) -> float:
        """Half the interval; on the scale of the scores it is (nearly) symmetric."""
        return (self.high - self.low) / 2


def harm(comparison: Comparison, margin: float) -> Harm:
    """The comparison seen as harm, with ``margin`` given in the metric's unit."""
    sign = -1.0 if comparison.metric.higher_is_better else 1.0
    bounds = (comparison.ci_low, comparison.ci_high)
    if comparison.metric.kind == "exp_mean":
        bounds = (
            _log_ratio(comparison.ci_low, comparison.reference),
            _log_ratio(comparison.ci_high, comparison.reference),
        )
        margin = _log_ratio(margin, comparison.reference)
    low, high = sorted(sign * bound for bound in bounds)
    return Harm(sign * comparison.shift, low, high, margin)


def _log_ratio(difference: float, reference: float) -> float:
    return math.log1p(difference / reference) if difference > -reference else -math.inf


def p_values(comparison: Comparison, margin: float) -> tuple[float, float]:
    """One-sided p-values: of "at least as bad as the margin" (small: pass) and of "within it" (small: regressed).

    They agree with the interval: a verdict at confidence c has p <= (1 - c) / 2. NaN where the comparison is undefined.
    """
    if comparison.undefined:
        return math.nan, math.nan
    df = comparison.spread.df
    if comparison.metric.kind == "binary":
        judged = statistic_at if comparison.relative else _binary_statistic
        statistic = judged(comparison, margin)
        worse, better = (arm / comparison.quantile for arm in _arms(comparison))
        return upper_tail(statistic / worse, df), upper_tail(-statistic / better, df)
    seen = harm(comparison, margin)
    # The arm towards the margin is the one that decides, and the arms differ for skewed scores.
    arm = seen.high - seen.point if seen.margin >= seen.point else seen.point - seen.low
    distance = seen.margin - seen.point
    statistic = distance / arm * comparison.quantile if arm > 0 else math.copysign(math.inf, distance)
    return upper_tail(statistic, df), upper_tail(-statistic, df)


def _arms(comparison: Comparison) -> tuple[float, float]:
    """Critical values towards the worse and the better side."""
    below, above = comparison.spread.arms(comparison.quantile)
    return (below, above) if comparison.metric.higher_is_better else (above, below)


def _binary_statistic(comparison: Comparison, margin: float) -> float:
    """Tango's statistic at a loss of ``margin``."""
    scale = 1 / comparison.spread.design_effect
    worse, better, n = (np.asarray(count * scale) for count in _counts(comparison))
    # More than everything cannot be lost.
    return float(tango_statistic(worse, better, n, np.asarray(-min(margin, 1.0))))


def _counts(comparison: Comparison) -> tuple[float, float, float]:
    return float(comparison.items_worse), float(comparison.items_better), float(comparison.n_items)


def detectable(comparison: Comparison, power: float = POWER) -> float:
    """The smallest true difference this sample tells from none in ``power`` of runs, in the metric's unit.

    (critical value + normal quantile of ``power``) · standard error; NaN where the comparison is undefined.
    """
    if comparison.undefined:
        return math.nan
    seen = harm(comparison, 0.0)
    size = seen.half_width * (1 + float(special.ndtri(power)) / comparison.quantile)
    if comparison.metric.kind == "exp_mean":
        return comparison.reference * math.expm1(size) if size < 700 else math.inf
    return size


def items_to_decide(comparison: Comparison, margin: float, power: float = POWER) -> float:
    """Items with which the verdict would be pass or regressed in ``power`` of runs, if things go on as in this sample.

    Infinite when the difference lies so close to the margin that more than ten million would be needed. NaN where the
    comparison is undefined.
    """
    if comparison.undefined:
        return math.nan
    quantile, with_power = comparison.quantile, float(special.ndtri(power))
    if comparison.relative and comparison.metric.kind == "binary":
        distance, null, own = deviations(comparison, margin)
        wanted = math.sqrt(comparison.spread.design_effect) * (quantile * null + with_power * own)
    elif comparison.metric.kind == "binary":
        worse, better, n = _counts(comparison)
        distance = abs(min(margin, 1.0) + (better - worse) / n)
        null, own = _errors(worse / n, better / n, margin)
        wanted = math.sqrt(comparison.spread.design_effect) * (quantile * null + with_power * own)
    else:
        seen = harm(comparison, margin)
        distance = abs(seen.margin - seen.point)
        arm = comparison.seen_harm - seen.point if seen.margin >= seen.point else seen.point - seen.low
        wanted = math.sqrt(comparison.n_items) * (quantile + with_power) * arm / quantile
    root = wanted / distance if distance > 0 else math.inf
    return max(_whole(root * root), items_to_rule_out(comparison, margin))


def items_to_rule_out(comparison: Comparison, margin: float) -> float:
    """Items with which rare damage could no longer hide beside what was seen; 1 where none is allowed for.

    Infinite where more than ten million would be needed.
    """
    seen = harm(comparison, margin)
    if not comparison.stake > seen.margin or seen.margin < seen.point:
        return 1.0
    effect, level = sure_effect(comparison.spread), 1 - comparison.confidence
    arm = max(0.0, comparison.seen_harm - seen.point)
    return items_to_show(seen.point, arm, comparison.n_items, comparison.stake, seen.margin, level, effect)


def fewest_items(rule: Rule) -> float:
    """Items below which nobody passes ``rule``, not even a model whose every score is the reference's.

    What an interval leaves open then is what was not drawn: of 0/1 scores Tango's q² / (n + q²), of others the stake.
    ``min_items`` where the margin hangs on the reference's value; infinite where more than ten million would be needed.
    """
    metric, margin = rule.metric, rule.margin
    few = 1.0
    if metric.kind == "binary" and margin.kind == "absolute":
        square = normal_quantile(rule.confidence) ** 2
        few = _whole(square * (1 / margin.amount - 1) * (1 - 1e-12)) if margin.amount > 0 else math.inf
    elif metric.kind in ("mean", "exp_mean") and (metric.kind == "exp_mean") == (margin.kind == "relative"):
        allowed = math.log1p(margin.amount) if metric.kind == "exp_mean" else margin.amount
        stake = metric.range if metric.stake is None else metric.stake
        if stake is not None and stake > allowed:
            few = items_to_show(0.0, 0.0, 1, stake, allowed, 1 - rule.confidence, 1.0)
    return max(float(rule.min_items), few)


def hidden_alone(comparison: Comparison, margin: float) -> bool:
    """Whether it would pass by what was seen: only items that were not drawn leave it open."""
    return comparison.stake > 0 and comparison.seen_harm <= harm(comparison, margin).margin


def _errors(p_worse: float, p_better: float, margin: float) -> tuple[float, float]:
    """Standard deviation of one item's difference in -1, 0, 1: as it would be on the margin, and as it is."""
    shares = (np.asarray(share) for share in (p_worse, p_better, 1.0, -min(margin, 1.0)))
    own = p_worse + p_better - (p_better - p_worse) ** 2
    return math.sqrt(max(float(constrained_variance(*shares)), 0.0)), math.sqrt(max(own, 0.0))


def _whole(items: float) -> float:
    return float(max(1, math.ceil(items))) if items <= _TOO_MANY else math.inf


def items_for_margin(
    margin: float, discordance: float, difference: float = 0.0, confidence: float = 0.95, power: float = POWER
) -> int:
    """Items of a 0/1 task that prove a true ``difference`` to be inside ``margin`` (Nam 1997, Biometrics 53:1422).

    ``discordance``: share of items that turn either way; ``difference``: subject minus reference, above -margin.
    The score test's own variance counts where the margin is large beside the discordance: two answers in a hundred
    that turn do not prove 10 points with 16 items.
    """
    if not difference > -margin:
        raise ValueError(f"a true difference of {difference} is not inside the margin {margin}")
    null, own = _errors(*_shares(discordance, difference), margin)
    wanted = normal_quantile(confidence) * null + float(special.ndtri(power)) * own
    return max(1, math.ceil((wanted / (margin + difference)) ** 2))


def power_for_margin(
    n: int, margin: float, discordance: float, difference: float = 0.0, confidence: float = 0.95
) -> float:
    """P(pass) with ``n`` items of a 0/1 task, by the normal approximation."""
    null, own = _errors(*_shares(discordance, difference), margin)
    beyond = (margin + difference) * math.sqrt(n) - normal_quantile(confidence) * null
    return float(special.ndtr(beyond / own)) if own > 0 else float(beyond >= 0)


def _shares(discordance: float, difference: float) -> tuple[float, float]:
    """P(right->wrong), P(wrong->right)."""
    if not abs(difference) <= discordance <= 1:
        raise ValueError(f"a difference of {difference} needs at least as many items that turn, found {discordance}")
    return (discordance - difference) / 2, (discordance + difference) / 2
