"""What a sample can show: p-values against a margin, the smallest detectable difference, the items that would decide.

Everything is worked out on the scale of the scores, as harm: how much worse the subject is, whatever the metric's
direction. For perplexity that scale is the mean loss, where the margin is ln(1 + margin / reference).
"""

from __future__ import annotations

import math
from typing import Final

from scipy import special

from quantgate.verdict.comparators.binary import errors
from quantgate.verdict.comparators.shared import Harm, harm_of
from quantgate.verdict.comparators.table import comparator_of
from quantgate.verdict.comparison import Comparison
from quantgate.verdict.intervals import normal_quantile, sure_effect
from quantgate.verdict.policy import Rule
from quantgate.verdict.unseen import items_to_show

POWER: Final = 0.8
_TOO_MANY: Final = 1e7


def harm(comparison: Comparison, margin: float) -> Harm:
    """The comparison seen as harm, with ``margin`` given in the metric's unit."""
    return harm_of(comparison, margin, comparator_of(comparison.metric).on_scores)


def p_values(comparison: Comparison, margin: float) -> tuple[float, float]:
    """One-sided p-values: of "at least as bad as the margin" (small: pass) and of "within it" (small: regressed).

    They agree with the interval: a verdict at confidence c has p <= (1 - c) / 2. NaN where the comparison is undefined.
    """
    if comparison.undefined:
        return math.nan, math.nan
    return comparator_of(comparison.metric).p_values(comparison, margin)


def detectable(comparison: Comparison, power: float = POWER) -> float:
    """The smallest true difference this sample tells from none in ``power`` of runs, in the metric's unit.

    (critical value + normal quantile of ``power``) · standard error; NaN where the comparison is undefined.
    """
    if comparison.undefined:
        return math.nan
    seen = harm(comparison, 0.0)
    size = seen.half_width * (1 + float(special.ndtri(power)) / comparison.quantile)
    return comparator_of(comparison.metric).in_units(size, comparison.reference)


def items_to_decide(comparison: Comparison, margin: float, power: float = POWER) -> float:
    """Items with which the verdict would be pass or regressed in ``power`` of runs, if things go on as in this sample.

    Infinite when the difference lies so close to the margin that more than ten million would be needed. NaN where the
    comparison is undefined.
    """
    if comparison.undefined:
        return math.nan
    root = comparator_of(comparison.metric).root_of_items(comparison, margin, float(special.ndtri(power)))
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
    few = comparator_of(metric).fewest(metric, margin.kind, margin.amount, rule.confidence)
    return max(float(rule.min_items), _whole(few))


def hidden_alone(comparison: Comparison, margin: float) -> bool:
    """Whether it would pass by what was seen: only items that were not drawn leave it open."""
    return comparison.stake > 0 and comparison.seen_harm <= harm(comparison, margin).margin


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
    null, own = errors(*_shares(discordance, difference), margin)
    wanted = normal_quantile(confidence) * null + float(special.ndtri(power)) * own
    return max(1, math.ceil((wanted / (margin + difference)) ** 2))


def power_for_margin(
    n: int, margin: float, discordance: float, difference: float = 0.0, confidence: float = 0.95
) -> float:
    """P(pass) with ``n`` items of a 0/1 task, by the normal approximation."""
    null, own = errors(*_shares(discordance, difference), margin)
    beyond = (margin + difference) * math.sqrt(n) - normal_quantile(confidence) * null
    return float(special.ndtr(beyond / own)) if own > 0 else float(beyond >= 0)


def _shares(discordance: float, difference: float) -> tuple[float, float]:
    """P(right->wrong), P(wrong->right)."""
    if not abs(difference) <= discordance <= 1:
        raise ValueError(f"a difference of {difference} needs at least as many items that turn, found {discordance}")
    return (discordance - difference) / 2, (discordance + difference) / 2
