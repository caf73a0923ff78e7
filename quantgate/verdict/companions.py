"""Numbers beside a task's metric that move earlier than it does.

An accuracy changes only when an answer flips. The probability mass on the right option moves with every weight, so the
same items show a smaller loss; the KL divergence and the share of equal top tokens show damage that no question asks
about. A policy may give any of them a margin of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import GUESSING, PROB_RIGHT, Metric
from quantgate.verdict.comparison import Comparison
from quantgate.verdict.paired import companion_outcomes, compare


@dataclass(frozen=True, slots=True)
class Companion:
    """A companion number: its metric, what it adds, and the reference's value where that is fixed by definition.

    ``continuous``: whether it moves with every weight, so that equal values to the last bit prove equal models. Shares
    and counts are equal by chance. ``per_token``: whether it is a mean over the item's tokens in nats, so that it has
    at stake what the metric of the text has.
    """

    metric: Metric
    meaning: str
    of_reference: float | None = None
    continuous: bool = False
    per_token: bool = False


_RIGHT: Final = (
    "probability of the right option among the options: every item contributes, not only those that flip; it does not "
    "see answers that flip at the boundary between two options, so it stands beside the accuracy and never for it"
)
_LOSS: Final = "mean loss per token: perplexity without the exponential"
_SUMMARY: Final = "another measure of the same summary: F-measure over "
_TAIL: Final = "99th percentile of the KL divergence (an estimate too): sees rare, large damage that a mean hides"

COMPANIONS: Final[Mapping[str, Companion]] = {
    "prob_right": Companion(PROB_RIGHT, _RIGHT, continuous=True),
    "nll": Companion(
        Metric("nll", False, "mean", "nats", stake=GUESSING, serial=True), _LOSS, continuous=True, per_token=True
    ),
    "rouge2": Companion(Metric("rouge2", True, "mean", best=1.0, worst=0.0), f"{_SUMMARY}pairs of words"),
    "rougeL": Companion(
        Metric("rougeL", True, "mean", best=1.0, worst=0.0), f"{_SUMMARY}the longest common subsequence of words"
    ),
    "ssr": Companion(
        Metric("ssr", True, "mean", best=1.0, worst=0.0),
        "mean share of constraints met: half-kept instructions count half",
    ),
    "csl": Companion(
        Metric("csl", True, "mean", "levels", best=5.0, worst=0.0), "levels in a row that meet all their constraints"
    ),
    "kld_mean": Companion(
        Metric("kld_mean", False, "mean", "nats", stake=GUESSING, serial=True),
        "mean KL divergence from the reference's token probabilities, an estimate within 1% unless the task is exact: "
        "sees damage that no question asks about",
        0.0,
        per_token=True,
    ),
    "kld_bound": Companion(
        Metric("kld_bound", False, "mean", "nats", stake=GUESSING, serial=True),
        "what the mean KL divergence certainly reaches: all tokens but the reference's likeliest as one",
        0.0,
        per_token=True,
    ),
    "kld_p99": Companion(Metric("kld_p99", False, "mean", "nats", stake=GUESSING, serial=True), _TAIL, 0.0),
    "same_top_p": Companion(
        Metric("same_top_p", True, "mean", best=1.0, worst=0.0, serial=True),
        "share of tokens with the reference's first choice: what greedy decoding would notice",
        1.0,
    ),
}


def compare_companion(
    reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome], name: str, confidence: float,
    stake: float | None = None,
) -> Comparison:  # fmt: skip
    """The paired comparison of one companion number; items without it count as unscored.

    ``stake``: what the task's own metric has at stake; it replaces that of a companion that is a mean over tokens.
    """
    companion = COMPANIONS[name]
    after = companion_outcomes(subject, name)
    metric = companion.metric
    if companion.per_token and stake is not None:
        metric = replace(metric, stake=stake)
    if not any(name in outcome.companions for outcome in subject):
        metric = replace(metric, worst=None)  # the task has no such number: that is no failure of the subject
    if companion.of_reference is None:
        before = companion_outcomes(reference, name)
    else:
        before = [_fixed(outcome, companion.of_reference) for outcome in reference]
    return compare(before, after, metric, confidence)


def _fixed(outcome: ItemOutcome, value: float) -> ItemOutcome:
    return outcome if outcome.unscored else replace(outcome, score=value)


def companion_means(outcomes: Sequence[ItemOutcome]) -> dict[str, float]:
    """Mean of every companion number over the scored items that have it; for the record, not for a verdict."""
    values: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.score is not None:
            for name, value in outcome.companions.items():
                values.setdefault(name, []).append(value)
    return {name: math.fsum(each) / len(each) for name, each in sorted(values.items())}


def items_for_companion(of_metric: Comparison, of_companion: Comparison) -> float:
    """How many items the companion needs for one item of the metric, at the same certainty.

    Both differences are put in units of their own standard error per item; the squared ratio is the ratio of sample
    sizes. NaN when a difference is zero or undefined: then neither size means anything.
    """
    signals = [
        abs(each.shift) / (each.spread.se * math.sqrt(each.n_items))
        for each in (of_metric, of_companion)
        if each.n_items and each.spread.se > 0
    ]
    if len(signals) < 2 or not np.isfinite(signals).all() or min(signals) == 0:
        return math.nan
    return (signals[0] / signals[1]) ** 2
