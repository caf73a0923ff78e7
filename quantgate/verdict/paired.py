"""Compare a subject with its reference item by item.

Items are paired strictly by id. The result states a difference with its interval; where a difference is undefined it
says why and holds NaN, never 0.

Which interval, which p-values and which words: what the metric's kind says (`quantgate.verdict.comparators`).

Which items: an item that only the subject could not answer is one it lost, and counts at the worst score its metric
has (``failed``). Left out, the very items that broke it would spare it. Where there is no worst score (a loss) it stays
without one, and no verdict comes of it (``judge``). What the reference could not answer is no pair.

Groups count when there are two at least and one of them holds two items; the interval then speaks of groups like these,
which with few of them is little. Items of one group alone speak of it only. Segments of a text are neighbours: their
interval is taken along the text. ``statement`` says which.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from quantgate.core.errors import ProvenanceError
from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.core.words import counted
from quantgate.verdict.comparators.table import comparator_of
from quantgate.verdict.comparison import Comparison, Pair
from quantgate.verdict.intervals import Codes, Floats

_SHOWN_IDS: Final = 3


def compare(
    reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome], metric: Metric, confidence: float
) -> Comparison:
    """The paired comparison of two runs over the same items; the order of the outcomes does not matter.

    Raises ProvenanceError when the two runs do not hold the same items, each once, in the same groups: then they do
    not belong together and no number may come out.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence {confidence!r} must lie between 0.5 and 1")
    pairs, unscored, failed = _pair(reference, subject, metric)
    if not pairs:
        return _empty(metric, confidence, unscored)
    before, after = _scores(pair[0] for pair in pairs), _scores(pair[1] for pair in pairs)
    codes = np.unique(np.array([pair[0].group for pair in pairs]), return_inverse=True)[1].astype(np.intp)
    plain = replace(_counted(pairs, before, after, codes, metric, confidence, unscored), failed=failed)
    undefined = _undefined(before, after, plain)
    if undefined:
        return replace(plain, undefined=undefined)
    return comparator_of(metric).completed(plain, pairs, before, after, codes)


def relative(comparison: Comparison, share: float) -> Comparison:
    """``comparison`` with an interval made for a margin of ``share`` of the reference's value, which is an estimate.

    A difference from the reference's value as before, so that a relative margin lies on it where it lies on the claim.
    """
    if comparison.undefined or comparison.relative:
        return comparison
    return comparator_of(comparison.metric).relative(comparison, share)


def zero_reference(subject: Sequence[ItemOutcome]) -> list[ItemOutcome]:
    """Reference outcomes for scores that are distances from the reference (KL divergence): 0 for every item."""
    return [ItemOutcome(outcome.item_id, outcome.group, 0.0) for outcome in subject]


def companion_outcomes(outcomes: Sequence[ItemOutcome], name: str) -> list[ItemOutcome]:
    """The outcomes with the companion number ``name`` as their score, ready for ``compare``.

    An item without that companion is unscored, with a reason that says so.
    """
    missing = f"no companion number '{name}'"
    return [_with_score(outcome, outcome.companions.get(name), missing) for outcome in outcomes]


def _with_score(outcome: ItemOutcome, score: float | None, missing: str) -> ItemOutcome:
    if outcome.unscored or score is not None:
        score = None if outcome.unscored else score
        return replace(outcome, score=score)
    return replace(outcome, score=None, unscored=missing)


def at_worst(before: ItemOutcome, after: ItemOutcome, metric: Metric) -> ItemOutcome:
    """The subject's outcome as it counts: the worst score where only the reference has one and a worst exists."""
    if before.unscored or not after.unscored or metric.worst is None or not comparator_of(metric).counts_at_worst:
        return after
    return replace(after, score=metric.worst, unscored="")


def _pair(
    reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome], metric: Metric
) -> tuple[list[Pair], dict[str, int], dict[str, int]]:
    before, after = _by_id(reference, "reference"), _by_id(subject, "subject")
    _same_items(before, after)
    pairs: list[Pair] = []
    unscored: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    # Sorted, so that floating-point sums do not depend on the order in which outcomes arrive; neighbours of a text by
    # their numbers.
    for item_id in sorted(before, key=_place if metric.serial else str):
        old, new = before[item_id], after[item_id]
        counts = at_worst(old, new, metric)
        if counts is not new:
            failed[new.unscored] += 1
        reason = _unscored_reason(old, counts)
        if reason:
            unscored[reason] += 1
        else:
            pairs.append((old, counts))
    return pairs, dict(sorted(unscored.items())), dict(sorted(failed.items()))


def _place(item_id: str) -> list[str | int]:
    """Sort key that counts: segment 2 comes before segment 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", item_id)]


def _unscored_reason(before: ItemOutcome, after: ItemOutcome) -> str:
    if before.unscored and after.unscored:
        return f"both: {before.unscored}"
    if before.unscored:
        return f"reference: {before.unscored}"
    return f"subject: {after.unscored}" if after.unscored else ""


def _by_id(outcomes: Sequence[ItemOutcome], side: str) -> dict[str, ItemOutcome]:
    found = {outcome.item_id: outcome for outcome in outcomes}
    if len(found) != len(outcomes):
        twice = [item_id for item_id, count in Counter(o.item_id for o in outcomes).items() if count > 1]
        raise ProvenanceError(
            f"outcomes of the {side}",
            f"{len(twice)} item ids occur more than once ({_some(twice)})",
            expected="every item once",
            hint="look for duplicated rows in the data",
        )
    return found


def _same_items(before: Mapping[str, ItemOutcome], after: Mapping[str, ItemOutcome]) -> None:
    missing, extra = before.keys() - after.keys(), after.keys() - before.keys()
    if missing or extra:
        parts = [f"{_items(missing, 'of the reference ')} missing ({_some(missing)})"] if missing else []
        parts += [f"{_items(extra)} not in the reference ({_some(extra)})"] if extra else []
        raise ProvenanceError(
            "outcomes of the subject",
            " and ".join(parts),
            expected=f"the reference's {len(before)} items, no more and no fewer",
            hint="score both models on the same data with the same --limit and --seed",
        )
    moved = [item_id for item_id, outcome in before.items() if after[item_id].group != outcome.group]
    if moved:
        raise ProvenanceError(
            "outcomes of the subject",
            f"{_items(moved)} of another group than in the reference ({_some(moved)})",
            expected="the same items in the same groups",
            hint="score both models with the same version of the task",
        )


def _items(names: Collection[str], which: str = "") -> str:
    return counted(len(names), f"item {which}is", f"items {which}are")


def _some(ids: Iterable[str]) -> str:
    shown = sorted(ids)
    return ", ".join(shown[:_SHOWN_IDS]) + (", ..." if len(shown) > _SHOWN_IDS else "")


def _scores(outcomes: Iterable[ItemOutcome]) -> Floats:
    return np.array([outcome.score for outcome in outcomes], dtype=np.float64)


def _empty(metric: Metric, confidence: float, unscored: Mapping[str, int]) -> Comparison:
    nan = math.nan
    reasons = "; ".join(f"{count} x {reason}" for reason, count in unscored.items())
    undefined = f"no item was scored on both sides ({reasons})" if reasons else "there are no items"
    return Comparison(
        metric, confidence, 0, 0, nan, nan, nan, nan, nan, 0, 0, 0, unscored=unscored, undefined=undefined
    )


def _counted(
    pairs: Sequence[Pair],
    before: Floats,
    after: Floats,
    codes: Codes,
    metric: Metric,
    confidence: float,
    unscored: Mapping[str, int],
) -> Comparison:
    """What can be said by counting: the values, who moved, and no interval yet."""
    fell, rose = int(np.sum(after < before)), int(np.sum(after > before))
    start, value = (metric.of([pair[side] for pair in pairs]) for side in (0, 1))
    return Comparison(
        metric=metric,
        confidence=confidence,
        n_items=len(pairs),
        n_groups=int(codes.max()) + 1,
        reference=start,
        value=value,
        delta=value - start,
        ci_low=math.nan,
        ci_high=math.nan,
        items_worse=fell if metric.higher_is_better else rose,
        items_better=rose if metric.higher_is_better else fell,
        flips=sum(old.answer != new.answer for old, new in pairs),
        unscored=unscored,
    )


def _undefined(before: Floats, after: Floats, plain: Comparison) -> str:
    """Why no difference can be stated, or an empty string."""
    comparator = comparator_of(plain.metric)
    for side, scores in (("reference", before), ("subject", after)):
        broken = int(np.sum(~np.isfinite(scores)))
        if broken:
            return f"{broken} of {scores.size} scores of the {side} are not finite numbers"
        if unfit := comparator.unfit(scores):
            return f"scores of the {side} {unfit} {plain.metric.name}"
    for side, value in (("reference", plain.reference), ("subject", plain.value)):
        if not math.isfinite(value):
            return f"{plain.metric.name} of the {side} {comparator.words.no_number}"
    return comparator.unvaried(plain, before, after)
