"""The verdict on one comparison, and the record of the case.

``pass``: the worst-side bound of the interval is proven to lie inside the margin. ``regressed``: the whole interval
lies beyond it. ``inconclusive``: neither, or fewer items than the policy asks for: more items would help.
``invalid``: nothing was really compared, and more items would not help: foreign or broken data, too many items
without a score, a reference that cannot lose, a subject that is the reference.

Every comparison is written so that NaN fails it: a pass needs a proven ``<=``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantgate.core.items import REPEATED, ItemOutcome
from quantgate.core.records import Verdict
from quantgate.core.words import counted
from quantgate.verdict.companions import compare_companion
from quantgate.verdict.comparators.table import comparator_of
from quantgate.verdict.comparison import Comparison
from quantgate.verdict.paired import relative
from quantgate.verdict.policy import Floor, Rule
from quantgate.verdict.power import detectable, hidden_alone, items_to_decide, items_to_rule_out, p_values
from quantgate.verdict.wording import Wording


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its reason in one sentence and the margin in the metric's unit (NaN when there is none).

    ``p_pass``/``p_regressed``: p-values of the two claims, for the decision over all cases of a run.
    ``detectable``: smallest difference this sample tells; ``items_needed``: items that would decide (inconclusive
    only, else NaN; infinite when the difference sits on the margin).
    """

    verdict: Verdict
    reason: str
    margin: float = math.nan
    p_pass: float = math.nan
    p_regressed: float = math.nan
    detectable: float = math.nan
    items_needed: float = math.nan


def judge(
    comparison: Comparison,
    rule: Rule,
    *,
    problems: Sequence[str] = (),
    identical_weights: bool = False,
    noise: float = 0.0,
    chance: float | None = None,
    whole: Comparison | None = None,
) -> Judgement:
    """The verdict on ``comparison`` under ``rule``.

    ``problems``: what does not match between the two sides (digests, versions), one phrase each. ``identical_weights``:
    the subject's weights equal the reference's. ``noise``: the difference two runs of the same weights show, in the
    metric's unit (see ``noise.noise_floor``). ``chance``: what a model that reads no question scores on these items;
    the policy's floor is never below it, unless the policy asks for none.
    ``whole``: the reference on the full benchmark, where ``comparison`` speaks of a part: margin and floor are its.
    """
    if comparison.metric.name != rule.metric.name or comparison.confidence != rule.confidence:
        raise ValueError(
            f"rule for {rule.metric.name} at {rule.confidence} does not fit a comparison of "
            f"{comparison.metric.name} at {comparison.confidence}"
        )
    if rule.margin.kind == "relative" and whole is None:
        comparison = relative(comparison, rule.margin.amount)
    whole = whole or comparison
    margin = rule.margin.in_units(whole.reference)
    floor = _floor(rule, chance)
    invalid = (
        _foreign(problems, identical_weights)
        or _unusable(comparison, rule)
        or _hopeless(whole, floor)
        or _bad_margin(whole, rule, margin, noise, floor)
    )
    if invalid:
        return Judgement("invalid", invalid, margin)
    return _decide(comparison, rule, margin, whole.reference)


def _floor(rule: Rule, chance: float | None) -> Floor | None:
    """What the reference must beat: the policy's floor, or what guessing on these very items scores if that is more."""
    if chance is None or (rule.floor is None and "floor" in rule.sources):
        return rule.floor
    given = rule.floor or Floor(chance)
    return replace(given, chance=max(given.chance, chance))


def _foreign(problems: Sequence[str], identical_weights: bool) -> str:
    if problems:
        return f"reference and subject do not belong together: {'; '.join(problems)}"
    if identical_weights:
        return "the subject's weights equal the reference's: nothing was quantized"
    return ""


def _unusable(comparison: Comparison, rule: Rule) -> str:
    """Why no verdict can come from these scores, or an empty string."""
    if comparison.undefined:
        return f"nothing to judge: {comparison.undefined}"
    if missing := _missing(comparison, rule):
        return missing
    if unchanged := comparator_of(comparison.metric).unchanged(comparison):
        return unchanged
    numbers = (comparison.reference, comparison.value, comparison.ci_low, comparison.ci_high)
    if not all(map(math.isfinite, numbers)):
        return "the difference or its interval is not a finite number"
    return ""


def _missing(comparison: Comparison, rule: Rule) -> str:
    """Why too many items, or the wrong ones, have no score, or an empty string."""
    total = comparison.n_items + comparison.n_unscored
    if lost := comparison.n_missing("subject"):
        reasons = _counted(comparison.unscored, "subject")
        return (
            f"{lost} of {total} items have a score of the reference alone ({reasons}), and {comparison.metric.name} "
            "has no worst score at which they could count: the rest may not speak for them"
        )
    # one item of which nothing could be asked of either side is no share of a small benchmark
    single = comparison.n_unscored == comparison.n_missing("both") == 1
    if not single and not comparison.n_unscored / total <= rule.max_unscored:
        return (
            f"{comparison.n_unscored} of {total} items have no score ({_counted(comparison.unscored)}), and the policy "
            f"allows {rule.max_unscored:.0%}: the rest may not speak for them"
        )
    if not comparison.n_failed / total <= rule.max_unscored:
        return (
            f"{comparison.n_failed} of {total} items have no score of the subject ({_counted(comparison.failed)}), and "
            f"the policy allows {rule.max_unscored:.0%}: it does not give answers that can be compared"
        )
    return ""


def _counted(reasons: Mapping[str, int], side: str = "") -> str:
    """``3 x reason; 2 x other reason``, of one side where one is named; repeats are nothing that is missing."""
    named = ((reason, count) for reason, count in reasons.items() if reason.startswith(side))
    return "; ".join(f"{count} x {reason}" for reason, count in named if not reason.endswith(REPEATED))


def _hopeless(comparison: Comparison, floor: Floor | None) -> str:
    """Why this reference has nothing to lose, or an empty string."""
    if floor is None:
        return ""
    words = Wording(comparison)
    reference, n = comparison.reference, comparison.n_items
    says = (
        f"the reference itself is at chance ({words.value(reference)} on {n} items, chance {words.value(floor.chance)})"
    )
    comparator = comparator_of(comparison.metric)
    beaten = comparator.beats(comparison.metric, reference, n, floor.chance, floor.significance)
    return "" if beaten else f"{says}: it has nothing to lose, so nothing can be shown"


def _bad_margin(comparison: Comparison, rule: Rule, margin: float, noise: float, floor: Floor | None) -> str:
    """Why no verdict can rest on this margin, or an empty string."""
    words = Wording(comparison, comparison.reference if rule.margin.kind == "relative" else None)
    if not (math.isfinite(margin) and margin >= 0):
        return f"the margin {margin} is not a finite number of at least 0"
    if rule.margin.kind == "relative" and comparison.reference == 0:
        return "a relative margin means nothing, because the reference's value is 0"
    if not noise <= margin:
        return (
            f"the margin {words.amount(margin)} lies below the noise: the same weights run twice differ by "
            f"{words.amount(noise)}"
        )
    if comparison.metric.higher_is_better and floor is not None and not margin < comparison.reference - floor.chance:
        return (
            f"the margin {words.amount(margin)} is all that the reference has above chance "
            f"({words.value(comparison.reference)} against {words.value(floor.chance)}): even guessing would pass"
        )
    return ""


def _decide(comparison: Comparison, rule: Rule, margin: float, reference: float) -> Judgement:
    """Verdict of a comparison that is fit to be judged; ``reference``: its value on the whole benchmark."""
    words = Wording(comparison, reference if rule.margin.kind == "relative" else None)
    low, high = words.harm_bounds
    p_pass, p_regressed = p_values(comparison, margin)
    told = detectable(comparison)
    if comparison.n_items < rule.min_items:
        scored = counted(comparison.n_items, "item was", "items were")
        reason = f"only {scored} scored, and the policy asks for {rule.min_items}{words.counted}"
        return Judgement("inconclusive", reason, margin, p_pass, p_regressed, told, float(rule.min_items))
    if high <= margin:
        return Judgement("pass", words.passed(margin) + words.counted, margin, p_pass, p_regressed, told)
    if low > margin:
        return Judgement("regressed", words.regressed(margin) + words.counted, margin, p_pass, p_regressed, told)
    needed = items_to_decide(comparison, margin)
    if hidden_alone(comparison, margin):
        needed = items_to_rule_out(comparison, margin)
        reason = words.hidden(margin, comparison.stake, needed) + words.counted
    else:
        reason = words.open(margin, told, needed) + words.counted
    return Judgement("inconclusive", reason, margin, p_pass, p_regressed, told, needed)


def judge_counted(
    comparison: Comparison, rule: Rule, *, problems: Sequence[str] = (), identical_weights: bool = False
) -> Judgement:
    """The verdict on a number that is known and not estimated: no interval, and p-values that are 0 or 1."""
    margin = rule.margin.in_units(comparison.reference)
    invalid = _foreign(problems, identical_weights)
    if invalid:
        return Judgement("invalid", invalid, margin)
    before, after = comparison.reference, comparison.value
    if not (math.isfinite(before) and math.isfinite(after) and before > 0 and after > 0):
        return Judgement("invalid", f"{before} against {after}: nothing that could be counted", margin)
    reason = (
        f"the weights take {after:.4g} GiB instead of {before:.4g} ({100 * (after / before - 1):+.1f}%; "
        f"allowed: {100 * margin / before:.3g}% more)"
    )
    if comparison.delta <= margin:
        return Judgement("pass", reason, margin, p_pass=0.0, p_regressed=1.0)
    return Judgement("regressed", reason, margin, p_pass=1.0, p_regressed=0.0)


_WORST_FIRST: tuple[Verdict, ...] = ("invalid", "regressed", "inconclusive", "pass")


def judge_companions(
    reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome], rule: Rule
) -> dict[str, Judgement]:
    """The judgement of every companion number that ``rule`` gives a margin, by name."""
    found = {}
    for name, margin in rule.companions.items():
        comparison = compare_companion(reference, subject, name, rule.confidence, rule.metric.stake)
        own = replace(rule, metric=comparison.metric, margin=margin, floor=None, companions={}, stake=None)
        found[name] = judge(comparison, own)
    return found


def with_companions(main: Judgement, companions: Mapping[str, Judgement]) -> Judgement:
    """The case's judgement when companion numbers have margins too: the worst verdict, with the reason that led to it.

    The margin stays that of the task's own metric. The p-values are those of the joint claims: "all within their
    margins" is as sure as its least sure part, "one of them is not" is Bonferroni's.
    """
    if not companions:
        return main
    verdict, reason = main.verdict, main.reason
    claims = [main, *companions.values()]
    p_pass = float(np.max([each.p_pass for each in claims]))  # NaN stays NaN
    p_regressed = float(np.minimum(len(claims) * np.min([each.p_regressed for each in claims]), 1.0))
    for name, each in companions.items():
        if _WORST_FIRST.index(each.verdict) < _WORST_FIRST.index(verdict):
            verdict, reason = each.verdict, f"{name}: {each.reason}"
    return replace(main, verdict=verdict, reason=reason, p_pass=p_pass, p_regressed=p_regressed)
