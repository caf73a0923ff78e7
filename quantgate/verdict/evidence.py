"""All that a verdict rests on, and the one function that draws it.

The suite judges a case by ``conclude``; ``quantgate verify`` calls it again on what a run wrote down. So a report can
be checked by anybody, without a model, from the outcomes of the items.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY, Metric
from quantgate.tasks.table import TASKS
from quantgate.verdict.companions import COMPANIONS, companion_means, compare_companion, items_for_companion
from quantgate.verdict.comparators.table import comparator_of
from quantgate.verdict.comparison import Comparison
from quantgate.verdict.judge import Judgement, judge, judge_companions, judge_counted, with_companions
from quantgate.verdict.paired import compare, relative
from quantgate.verdict.policy import Floor, Margin, Rule
from quantgate.verdict.sequential import SequentialTest, score_differences
from quantgate.verdict.visit import Bets, EarlyTest, Guide, guided_test

_ENOUGH_TO_DIFFER: Final = 4


@dataclass(frozen=True)
class Evidence:
    """One case before its verdict.

    ``reference`` holds the whole benchmark, ``subject`` the items that were asked, in the order of the visit when
    ``sequential``. ``noise``: the floor that two runs of the same weights showed, in the metric's unit. ``problems``,
    ``identical_weights`` and ``chance`` are explained in ``judge``. ``counted``: both sides are one number, known
    and not estimated. ``guide``: what a draw that was not at random followed. ``reservation``: why nothing but
    ``inconclusive`` may be said; empty when there is no reason.
    """

    rule: Rule
    reference: tuple[ItemOutcome, ...]
    subject: tuple[ItemOutcome, ...]
    problems: tuple[str, ...] = ()
    identical_weights: bool = False
    chance: float | None = None
    noise: float = 0.0
    sequential: bool = False
    counted: bool = False
    reservation: str = ""
    guide: Guide | None = None

    @property
    def stopped(self) -> bool:
        """Whether items were left out because the verdict was certain (or, in between, not yet asked)."""
        return self.sequential and len(self.subject) < len(self.reference)

    @property
    def partial(self) -> bool:
        """Whether items were left out for the reason that stands in ``reservation``."""
        return bool(self.reservation) and not self.counted and len(self.subject) < len(self.reference)

    @property
    def paired_reference(self) -> tuple[ItemOutcome, ...]:
        """The reference's outcomes of the items the subject was asked."""
        if not (self.stopped or self.partial):
            return self.reference  # a subject that lacks items must not hide it: ``compare`` refuses the pair
        asked = {outcome.item_id for outcome in self.subject}
        return tuple(outcome for outcome in self.reference if outcome.item_id in asked)


@dataclass(frozen=True)
class Conclusion:
    """The comparison, what is said about it, and the numbers beside the metric."""

    comparison: Comparison
    judgement: Judgement
    companions: Mapping[str, float]

    def with_companions(self, further: Mapping[str, float]) -> Conclusion:
        """The conclusion with further numbers beside the metric."""
        return replace(self, companions={**self.companions, **further})


def conclude(evidence: Evidence) -> Conclusion:
    """Compare and judge; the same evidence always gives the same conclusion.

    A run that was stopped early is judged by its bets. One that went on to the last item gets the fixed verdict: both
    together err in at most twice the one-sided level (5%, measured 3.3%: benchmarks/verdict_calibration.py).

    Raises:
        ProvenanceError: the two sides do not hold the same items.
    """
    if evidence.counted:
        return _counted(evidence)
    rule = evidence.rule
    reference = evidence.paired_reference
    comparison = compare(reference, evidence.subject, rule.metric, rule.confidence)
    companions = _companions(reference, evidence.subject, comparison)
    whole, early = None, None
    if rule.margin.kind == "relative" and not evidence.stopped:
        comparison = relative(comparison, rule.margin.amount)
    if (evidence.stopped or evidence.partial) and not comparison.undefined:
        scored = [outcome for outcome in evidence.reference if outcome.score is not None]
        whole = replace(comparison, reference=rule.metric.of(scored), n_items=len(scored))
    if evidence.stopped and whole is not None:
        early = early_test(evidence, whole)
        comparison = early.applied(comparison)
        companions = {} if evidence.guide else companions  # means over a weighed draw are no means of the benchmark
    same = [] if evidence.identical_weights else _same_answers(reference, evidence.subject)
    judgement = judge(
        comparison,
        rule,
        problems=(*evidence.problems, *same),
        identical_weights=evidence.identical_weights,
        noise=evidence.noise,
        chance=evidence.chance,
        whole=whole,
    )
    if judgement.verdict == "invalid":
        return Conclusion(comparison, judgement, companions)
    if early is not None:
        judgement = _anytime(evidence, early, comparison, judgement)
    else:
        judgement = with_companions(judgement, judge_companions(reference, evidence.subject, rule))
    if evidence.reservation:
        judgement = replace(
            judgement, verdict="inconclusive", reason=evidence.reservation, p_pass=math.nan, p_regressed=math.nan
        )
    return Conclusion(comparison, judgement, companions)


def _counted(evidence: Evidence) -> Conclusion:
    """One number on each side that is known: no interval, and p-values of 0 or 1."""
    rule = evidence.rule
    plain = compare(evidence.reference, evidence.subject, rule.metric, rule.confidence)
    delta = plain.value - plain.reference
    comparison = replace(plain, undefined="", delta=delta, ci_low=delta, ci_high=delta, shift=delta)
    judgement = judge_counted(
        comparison, rule, problems=evidence.problems, identical_weights=evidence.identical_weights
    )
    return Conclusion(comparison, judgement, {})


def _same_answers(reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome]) -> list[str]:
    """Says so when all continuous numbers beside the scores are the reference's to the last bit.

    Quantization moves every one of them. A checkpoint whose loader quietly serves the 16-bit model does not. Shares and
    counts (ROUGE, constraints met) are equal by chance, and so is a probability that has reached an end of its range.
    """
    before = {outcome.item_id: outcome.companions for outcome in reference}
    pairs = [(before[o.item_id], o.companions) for o in subject if o.companions and before.get(o.item_id)]
    names = [name for name, companion in COMPANIONS.items() if companion.continuous]
    both = [(name, old[name], new[name]) for old, new in pairs for name in names if name in old and name in new]
    ends = {name: (COMPANIONS[name].metric.best, COMPANIONS[name].metric.worst) for name in names}
    telling = sum(before not in ends[name] for name, before, _ in both)
    if telling < _ENOUGH_TO_DIFFER or any(old != new for _, old, new in both):
        return []
    used = ", ".join(sorted({name for name, *_ in both}))
    return [f"all {len(pairs)} answers equal the reference's to the last bit ({used})"]


def _bets(evidence: Evidence, whole: Comparison) -> Bets:
    """The bets of a case; an absolute margin is fixed before the first item is seen.

    A relative one is not: the reference's value is an estimate too. There the bets are on subject - (1 - share) ·
    reference, item by item, against 0.
    """
    rule, margin, ratio = evidence.rule, evidence.rule.margin.amount, 1.0
    if rule.margin.kind == "relative":
        ratio, margin = (1 - margin if rule.metric.higher_is_better else 1 + margin), 0.0
    differences = score_differences(evidence.reference, evidence.subject, rule.metric, ratio)[0]
    test = SequentialTest(margin, rule.confidence, len(evidence.reference), rule.metric.higher_is_better)
    return Bets(test, differences, ratio, whole.reference)


def early_test(evidence: Evidence, whole: Comparison) -> EarlyTest:
    """The test of a case of which not all items were asked."""
    rule = evidence.rule
    if evidence.guide is None:
        return _bets(evidence, whole)
    return guided_test(
        evidence.reference, evidence.subject, evidence.guide, rule.metric,
        margin=rule.margin.in_units(whole.reference), confidence=rule.confidence, min_items=rule.min_items,
    )  # fmt: skip


def _anytime(evidence: Evidence, early: EarlyTest, comparison: Comparison, judgement: Judgement) -> Judgement:
    """The judgement with p-values that hold although the run chose when to stop."""
    p_pass, p_regressed = early.p_values()
    if comparison.spread.clustered and evidence.guide is None:
        p_pass, p_regressed = max(p_pass, judgement.p_pass), max(p_regressed, judgement.p_regressed)
    saved = len(evidence.reference) - len(evidence.subject)
    told = f"stopped after {len(evidence.subject)} of {len(evidence.reference)} items, {saved} saved"
    if evidence.guide:
        told += "; drawn by what the reference's outcomes tell, so this speaks of these benchmark items alone"
    return replace(judgement, p_pass=p_pass, p_regressed=p_regressed, reason=f"{judgement.reason}; {told}")


def _companions(
    reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome], comparison: Comparison
) -> dict[str, float]:
    """Means beside the metric, flips by kind, and how many items a companion needs for one of the metric's."""
    found = companion_means(subject)
    found |= comparator_of(comparison.metric).turns(reference, subject)
    for name in COMPANIONS:
        if name in found and comparison.metric.name != name and not comparison.undefined:
            stake = comparison.metric.stake
            other = compare_companion(reference, subject, name, comparison.confidence, stake)
            ratio = math.nan if other.undefined else items_for_companion(comparison, other)
            found |= {f"{name}_reference": other.reference} | ({} if math.isnan(ratio) else {f"{name}_items": ratio})
    return found


# --- on disk --------------------------------------------------------------------------------------------------------


def outcomes_to_json(outcomes: Sequence[ItemOutcome]) -> list[list[Any]]:
    """One short list an item: its fields in their order."""
    return [[o.item_id, o.group, o.score, o.answer, dict(o.companions), o.unscored, list(o.facts)] for o in outcomes]


def outcomes_from_json(content: Sequence[Sequence[Any]]) -> tuple[ItemOutcome, ...]:
    """Inverse of :func:`outcomes_to_json`. Raises ValueError or TypeError on any other content."""
    names = [field.name for field in fields(ItemOutcome)]
    named = (dict(zip(names, each, strict=True)) for each in content)
    return tuple(ItemOutcome(**each | {"facts": tuple(each["facts"])}) for each in named)


def digest_outcomes(outcomes: Sequence[ItemOutcome]) -> str:
    """sha256 of what came out, item by item: any change by hand shows."""
    lines = (json.dumps(each, sort_keys=True, ensure_ascii=False) for each in outcomes_to_json(outcomes))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def rule_to_json(rule: Rule) -> dict[str, Any]:
    """Plain-JSON form of a rule; the formula of a corpus metric is named by its task."""
    content = asdict(replace(rule, metric=ACCURACY))
    metric = rule.metric
    names = ("name", "higher_is_better", "kind", "unit", "best", "worst", "stake", "serial", "blind")
    return content | {"metric": {name: getattr(metric, name) for name in names}}


def rule_from_json(content: Mapping[str, Any]) -> Rule:
    """Inverse of :func:`rule_to_json`. Raises KeyError or TypeError on any other content."""
    given = dict(content)
    given["metric"] = _metric(given["task"], given["metric"])
    given["margin"] = Margin(**given["margin"])
    given["floor"] = Floor(**given["floor"]) if given["floor"] is not None else None
    given["allow"] = tuple(given["allow"])
    given["companions"] = {name: Margin(**each) for name, each in given["companions"].items()}
    return Rule(**given)


def _metric(task: str, given: Mapping[str, Any]) -> Metric:
    """The task's own metric where it is known. Only a larger stake may be told: short segments have more to lose."""
    if task not in TASKS:
        return Metric(**given)
    metric = TASKS[task].metric
    if metric.stake is None or given.get("stake") is None:
        return metric
    return replace(metric, stake=max(metric.stake, float(given["stake"])))


def evidence_to_json(evidence: Evidence) -> dict[str, Any]:
    """Plain-JSON form of the evidence; floats survive exactly."""
    return {
        "rule": rule_to_json(evidence.rule),
        "reference": outcomes_to_json(evidence.reference),
        "subject": outcomes_to_json(evidence.subject),
        "problems": list(evidence.problems),
        "identical_weights": evidence.identical_weights,
        "chance": evidence.chance,
        "noise": evidence.noise,
        "sequential": evidence.sequential,
        "counted": evidence.counted,
        "reservation": evidence.reservation,
        **({"guide": asdict(evidence.guide)} if evidence.guide else {}),
    }


def _guide_from_json(content: Mapping[str, Any] | None) -> Guide | None:
    return Guide(content["seed"], tuple(content["curve"])) if content else None


def evidence_from_json(content: Mapping[str, Any]) -> Evidence:
    """Inverse of :func:`evidence_to_json`. Raises KeyError, TypeError or ValueError on any other content."""
    return Evidence(
        rule=rule_from_json(content["rule"]),
        reference=outcomes_from_json(content["reference"]),
        subject=outcomes_from_json(content["subject"]),
        problems=tuple(content["problems"]),
        identical_weights=content["identical_weights"],
        chance=content["chance"],
        noise=content["noise"],
        sequential=content["sequential"],
        counted=content.get("counted", False),
        reservation=content.get("reservation", ""),
        guide=_guide_from_json(content.get("guide")),
    )
