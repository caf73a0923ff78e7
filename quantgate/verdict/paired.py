"""Compare a subject with its reference item by item.

Items are paired strictly by id. The result states a difference with its interval; where a difference is undefined it
says why and holds NaN, never 0.

Which interval:
- ``binary`` scores: Tango's score interval; with groups that count, on counts divided by the design effect and with
  Student's t on the effective number of groups less one.
- ``mean`` scores: paired t interval; with groups that count, on the CR2 cluster-robust variance. Then room is made for
  what no sample of this size could show (:mod:`quantgate.verdict.unseen`).
- ``corpus`` metrics (BLEU, bias scores): paired bootstrap of the summed facts, over groups that count or over items.
- ``exp_mean`` scores (perplexity): as ``mean`` on the paired loss differences, then
  ``reference · (exp(loss difference) - 1)``. The reference's value on these items is known, not estimated.

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
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np

from quantgate.core.errors import ProvenanceError
from quantgate.core.items import REPEATED, ItemOutcome, facts_of
from quantgate.core.metrics import Metric
from quantgate.core.words import counted
from quantgate.verdict import intervals
from quantgate.verdict.corpus import corpus_interval
from quantgate.verdict.exact import mcnemar_worse
from quantgate.verdict.intervals import Codes, Floats, Spread
from quantgate.verdict.unseen import stakes, widened

Pair: TypeAlias = tuple[ItemOutcome, ItemOutcome]
Sides: TypeAlias = tuple[Floats, Floats, Codes]
"""Where scores are not 0/1: what the reference and the subject scored (of a corpus: the facts), and the groups."""
_SHOWN_IDS: Final = 3
ABOUT: Final = ", about "  # in a statement: behind it stands what the interval speaks of


@dataclass(frozen=True, slots=True)
class Comparison:
    """The paired difference between subject and reference.

    ``delta`` = ``value`` - ``reference`` in the metric's own unit, with its two-sided interval ``ci_low``..``ci_high``
    at ``confidence``. ``items_worse``/``items_better``: paired items whose score moved, in the metric's direction;
    for 0/1 scores these are right->wrong and wrong->right. ``flips``: items whose answer changed. ``unscored``: reason
    -> items it took out of the pairs, the reason led by the side (``reference``, ``subject``, ``both``). ``failed``:
    reason -> pairs in which the subject has no score of its own and counts as the worst.
    ``p_worse``: one-sided p-value of "not worse at all" (exact McNemar for independent 0/1 scores, else t).
    ``shift`` and ``spread``: the mean difference and its spread on the scale of the scores (the loss for perplexity).
    ``seen_harm``: how much worse it is at most by what was seen alone, and ``stake``: what an unseen item may lose
    beside that (0: nothing), both on the scale of the scores. ``relative``: the interval is made for a relative margin
    (:mod:`quantgate.verdict.relative`); ``sides``: what that needs.
    ``undefined``: why there is no difference to judge; empty when there is one. Numbers without meaning are NaN.
    """

    metric: Metric
    confidence: float
    n_items: int
    n_groups: int
    reference: float
    value: float
    delta: float
    ci_low: float
    ci_high: float
    items_worse: int
    items_better: int
    flips: int
    unscored: Mapping[str, int]
    p_worse: float = math.nan
    shift: float = math.nan
    spread: Spread = field(default_factory=lambda: Spread(math.nan, math.nan, 1.0, False))
    statement: str = ""
    undefined: str = ""
    seen_harm: float = math.nan
    stake: float = 0.0
    relative: bool = False
    failed: Mapping[str, int] = field(default_factory=dict)
    sides: Sides | None = field(default=None, repr=False, compare=False)

    @property
    def quantile(self) -> float:
        """The two-sided critical value the interval was made with."""
        return intervals.t_quantile(self.confidence, self.spread.df)

    @property
    def n_unscored(self) -> int:
        """Items that are in the data but not among the pairs, less those that would tell nothing new."""
        return sum(self.unscored.values()) - self.n_repeated

    @property
    def n_repeated(self) -> int:
        """Items that ask the same as another one."""
        return self.unscored.get(f"both: {REPEATED}", 0)

    @property
    def n_failed(self) -> int:
        """Pairs in which the subject counts as the worst."""
        return sum(self.failed.values())

    def n_missing(self, side: str) -> int:
        """Unscored items whose score is missing on ``side`` (``reference``, ``subject`` or ``both``), repeats aside."""
        found = sum(count for reason, count in self.unscored.items() if reason.startswith(f"{side}: "))
        return found - (self.n_repeated if side == "both" else 0)


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
    if metric.kind == "corpus":
        facts = [facts_of([pair[side] for pair in pairs]) for side in (0, 1)]
        return _with_corpus_interval(replace(plain, sides=(facts[0], facts[1], codes)))
    return _with_interval(plain if metric.kind == "binary" else replace(plain, sides=(before, after, codes)), before,
                          after, codes)  # fmt: skip


def against_share(comparison: Comparison, share: float) -> Comparison:
    """``comparison`` of a mean or corpus metric, judged against a share of the reference's value.

    Of the claim "at most ``share`` worse" the reference's value is no known number, but as much an estimate as the
    subject's. The interval is that of subject - (1 - share) · reference (1 + share where lower is better), moved so
    that a margin of ``share`` · reference lies on it where 0 lay.
    """
    assert comparison.sides is not None
    before, after, codes = comparison.sides
    ratio = 1 - share if comparison.metric.higher_is_better else 1 + share
    if comparison.metric.kind == "corpus":
        found = _with_corpus_interval(comparison, ratio)
    else:
        found = _with_interval(comparison, ratio * before, after, codes)
    if found.undefined:
        return found
    moved = (ratio - 1) * comparison.reference
    return replace(
        found,
        ci_low=found.ci_low + moved,
        ci_high=found.ci_high + moved,
        shift=comparison.shift,
        seen_harm=found.seen_harm + abs(moved),
        p_worse=comparison.p_worse,
        relative=True,
        statement=f"subject less {ratio:.4g} of the reference: {found.statement}",
    )


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
    if before.unscored or not after.unscored or metric.worst is None or metric.kind == "corpus":
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
    for side, scores in (("reference", before), ("subject", after)):
        broken = int(np.sum(~np.isfinite(scores)))
        if broken:
            return f"{broken} of {scores.size} scores of the {side} are not finite numbers"
        if plain.metric.kind == "binary" and not np.isin(scores, (0.0, 1.0)).all():
            return f"scores of the {side} other than 0 and 1 for the 0/1 metric {plain.metric.name}"
    for side, value in (("reference", plain.reference), ("subject", plain.value)):
        if not math.isfinite(value):
            what = "is too large for a number" if plain.metric.kind == "exp_mean" else "is no finite number"
            return f"{plain.metric.name} of the {side} {what}"
    if plain.metric.kind == "binary":
        return ""
    if plain.n_items < 2:
        return "one item has no spread: an interval needs at least two"
    if plain.metric.kind == "corpus":
        return ""  # what varies there are the facts, not the scores
    if not np.ptp(np.concatenate([before, after])) and plain.metric.range is None:
        return (
            f"every score of the reference and of the subject is {before[0] + 0.0:g}: nothing differs, nothing varies"
        )
    return ""


def _with_interval(plain: Comparison, before: Floats, after: Floats, codes: Codes) -> Comparison:
    """Add interval, p-value and statement; ``plain`` is known to be defined."""
    differences, binary = after - before, plain.metric.kind == "binary"
    found = _spread(plain.metric, differences, codes)
    quantile = intervals.t_quantile(plain.confidence, found.df)
    if binary:
        low, high = intervals.binary_interval(differences, found, quantile)
    else:
        low, high = intervals.mean_interval(differences, found, quantile)
    seen, room = _worst_side(plain.metric, low, high), (0.0, 0.0)
    if not binary:  # for 0/1 scores Tango's interval is what the sample could show
        room = stakes(plain.metric, before, after)
        low, high = widened(differences, (low, high), room, 1 - plain.confidence, intervals.sure_effect(found))
    if plain.metric.kind == "exp_mean":
        low, high = (_ratio_to_value(plain.reference, bound) for bound in (low, high))
    return replace(
        plain,
        ci_low=low,
        ci_high=high,
        shift=float(differences.mean()),
        spread=found,
        seen_harm=seen,
        stake=room[0] if plain.metric.higher_is_better else room[1],
        p_worse=_p_worse(plain, float(differences.mean()), found),
        statement=_statement(plain, found, codes, room[0] if plain.metric.higher_is_better else room[1]),
    )


def _with_corpus_interval(plain: Comparison, ratio: float = 1.0) -> Comparison:
    """As ``_with_interval`` for a value that is no mean, of subject - ``ratio`` · reference: a paired bootstrap."""
    assert plain.metric.aggregate is not None
    assert plain.sides is not None
    before, after, codes = plain.sides
    delta = plain.value - ratio * plain.reference
    if np.ptp(np.concatenate([before, after]), axis=0).max() == 0:
        return replace(plain, undefined="every item has the same facts on both sides: nothing differs, nothing varies")
    found = corpus_interval(before, after, plain.metric.aggregate, codes, plain.confidence, ratio=ratio)
    if not math.isfinite(found.high - found.low):
        return replace(plain, undefined=f"{plain.metric.name} has no finite value on some resamples of the items")
    if found.high == found.low:
        return replace(plain, undefined=f"{plain.metric.name} never varies over resamples: too few items count for it")
    comparison = replace(
        plain,
        ci_low=found.low,
        ci_high=found.high,
        shift=plain.delta,
        spread=found.spread,
        seen_harm=_worst_side(plain.metric, delta - found.half, delta + found.half),
        stake=found.stake,
    )
    return replace(comparison, p_worse=_p_worse(plain, plain.delta, found.spread), statement=found.statement)


def _spread(metric: Metric, differences: Floats, codes: Codes) -> Spread:
    """Over groups where they count, else along the text where items are neighbours, else over items."""
    if metric.kind == "binary":
        return intervals.binary_spread(differences, codes)
    if metric.serial and not intervals.groups_count(codes):
        return intervals.serial_spread(differences)
    return intervals.spread(differences, codes)


def _worst_side(metric: Metric, low: float, high: float) -> float:
    """The harm at the worse end of an interval."""
    return -low if metric.higher_is_better else high


def _ratio_to_value(reference: float, loss_difference: float) -> float:
    """Difference in value when the mean loss differs by ``loss_difference``; infinite where a float ends."""
    return reference * math.expm1(loss_difference) if loss_difference < 700 else math.inf


def _p_worse(plain: Comparison, shift: float, found: Spread) -> float:
    if plain.metric.kind == "binary" and not found.clustered:
        return mcnemar_worse(plain.items_worse, plain.items_better)
    if not found.se > 0:
        return math.nan if shift else 1.0
    harm = -shift if plain.metric.higher_is_better else shift
    return intervals.upper_tail(harm / found.se, found.df)


def _statement(plain: Comparison, found: Spread, codes: Codes, stake: float) -> str:
    """How the interval was made and what it speaks about, in one line."""
    name = "Tango's score interval" if plain.metric.kind == "binary" else "paired t interval"
    room = f"; an item not seen may lose {stake:.3g}" if stake > 0 else ""
    sure = f"design effect {found.design_effect:.2f}, {found.df:.1f} degrees of freedom"
    if found.clustered:
        return f"{name}, clustered by {plain.n_groups} groups ({sure}){ABOUT}groups like these{room}"
    if plain.metric.serial and plain.metric.kind != "binary":
        return f"{name} along the text ({sure}){ABOUT}text like this{room}"
    if np.bincount(codes).max() > 1:
        return f"{name} per item{ABOUT}the items of this one group{room}"
    return f"{name}, independent items{room}"
