"""Which items a subject is asked first, after how many to look, and the test that may stop there.

Two ways: at random with bets (``sequential``), or guided by the reference's outcomes (``guided``). Both follow from the
evidence alone, so that a verdict can be drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from quantgate.core.errors import ProvenanceError
from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.verdict import guided
from quantgate.verdict.comparison import Comparison
from quantgate.verdict.intervals import Floats
from quantgate.verdict.paired import at_worst, relative
from quantgate.verdict.sequential import SequentialTest, looks, visiting_order

# The engine is quick with many items at a time, so looks are far apart: half as many items again each time.
FIRST_LOOK: Final = 64
LOOK_GROWTH: Final = 1.5
_BISECTIONS: Final = 16
_PRIOR_ITEMS: Final = 20.0  # that the usual curve counts for beside what earlier methods showed in a cell


@dataclass(frozen=True)
class Guide:
    """What a guided draw follows beside the reference's outcomes: a seed, and how often answers turn in each cell."""

    seed: int
    curve: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.curve) != guided.CELLS or not all(0 <= share <= 1 for share in self.curve):
            raise ValueError(f"a guide's curve holds {guided.CELLS} shares between 0 and 1")


@dataclass(frozen=True)
class Visit:
    """Places of the items in the order in which they are asked, and after how many of them to look."""

    order: list[int]
    looks: list[int]


class EarlyTest(Protocol):
    """A test of a case of which not all items were asked."""

    def applied(self, comparison: Comparison) -> Comparison:
        """``comparison`` of the items asked, with an interval that holds whenever one stops."""
        ...

    def p_values(self) -> tuple[float, float]:
        """Of "at least as bad as the margin" and of "within it", valid whenever one stops."""
        ...


@dataclass(frozen=True)
class Bets:
    """Items in random order, and bets on them: on subject - ``ratio`` · reference against the test's margin.

    A ``ratio`` other than 1 is that of a relative margin; ``reference``: the reference's value on the whole benchmark,
    of which the margin is then a share.
    """

    test: SequentialTest
    differences: Floats
    ratio: float = 1.0
    reference: float = 0.0

    def applied(self, comparison: Comparison) -> Comparison:
        """See :class:`EarlyTest`."""
        if self.ratio == 1:
            return self.test.applied(comparison, self.differences)
        moved = (self.ratio - 1) * self.reference
        own = relative(comparison, abs(1 - self.ratio))
        grown = self.reference / own.reference if own.reference else 1.0  # from the items seen to the whole benchmark
        own = replace(own, ci_low=own.ci_low * grown - moved, ci_high=own.ci_high * grown - moved,
                      delta=own.delta * grown - moved)  # fmt: skip
        found = self.test.applied(own, self._scaled, self._scale)
        return replace(
            found, ci_low=found.ci_low + moved, ci_high=found.ci_high + moved, delta=comparison.delta, relative=False
        )

    def p_values(self) -> tuple[float, float]:
        """See :class:`EarlyTest`."""
        return self.test.p_values(self._scaled)

    @property
    def _scale(self) -> float:
        return max(1.0, self.ratio)  # where lower is better; bets need differences between -1 and 1

    @property
    def _scaled(self) -> Floats:
        return self.differences / self._scale


@dataclass(frozen=True)
class GuidedTest:
    """Looks at items that were drawn with unequal probabilities. ``asked``: how many of ``n_total`` items;
    ``reference``: its value on all of them.
    """

    seen: tuple[guided.Look, ...]
    margin: float
    alpha: float
    higher_is_better: bool
    asked: int
    n_total: int
    reference: float

    def applied(self, comparison: Comparison) -> Comparison:
        """See :class:`EarlyTest`: the values are those of the whole benchmark, as the draw estimates them."""
        last, limit = self.seen[-1], self._limits(self.alpha)[-1]
        low, high = last.value - limit * last.se_regressed, last.value + limit * last.se_pass
        sign = -1.0 if self.higher_is_better else 1.0
        bounds = sorted((sign * low, sign * high))
        statement = (
            "estimate of the value on this very benchmark, from items drawn by what the reference's outcomes tell; it "
            f"speaks of no items beyond it; {self.asked} of {self.n_total} items used"
        )
        return replace(
            comparison,
            reference=self.reference,
            value=self.reference + sign * last.value,
            delta=sign * last.value,
            shift=sign * last.value,
            ci_low=bounds[0],
            ci_high=bounds[1],
            seen_harm=last.value,
            stake=0.0,
            statement=statement,
        )

    def p_values(self) -> tuple[float, float]:
        """See :class:`EarlyTest`: the smallest error at which some look would have stopped."""
        for_pass = [(self.margin - each.value) / each.se_pass for each in self.seen]
        for_regressed = [(each.value - self.margin) / each.se_regressed for each in self.seen]
        return self._smallest(for_pass), self._smallest(for_regressed)

    def _limits(self, alpha: float) -> list[float]:
        return guided.boundaries([each.information for each in self.seen], self.margin, alpha)

    def _smallest(self, statistics: Sequence[float]) -> float:
        """By bisection on the log of the error; 0.5 where even that would not have stopped."""
        low, high = np.log(1e-9), np.log(0.5)
        if statistics[-1] >= self._limits(self.alpha)[-1]:  # as the interval says, to the last digit
            high = np.log(self.alpha)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            limits = self._limits(float(np.exp(middle)))
            stopped = any(each >= limit for each, limit in zip(statistics, limits, strict=True))
            low, high = (low, middle) if stopped else (middle, high)
        return float(np.exp(high))


def visit(reference: Sequence[ItemOutcome], guide: Guide | None, seed: int, min_items: int) -> Visit:
    """The visit of a case; without a ``guide`` in a random order by ``seed``."""
    if guide is None:
        order = visiting_order(len(reference), seed)
        return Visit(order, list(looks(len(order), first=max(FIRST_LOOK, min_items), growth=LOOK_GROWTH)))
    places, draw = _draw(reference, guide)
    entered = np.argsort(draw.enters, kind="stable")
    order = [places[index] for index in entered]
    rest = [place for place in range(len(reference)) if place not in set(places)]  # the reference could not answer
    counts = [int((draw.enters <= each).sum()) for each in draw.thresholds(min_items)[:-1]]
    early = sorted({count for count in counts if 0 < count < len(order)})
    return Visit([*order, *rest], [*early, len(reference)])


def guided_test(
    reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome], guide: Guide, metric: Metric, *,
    margin: float, confidence: float, min_items: int,
) -> GuidedTest:  # fmt: skip
    """The test of what was asked so far.

    Raises:
        ProvenanceError: the subject's items are not those that the guide draws.
    """
    places, draw = _draw(reference, guide)
    scored = [reference[place] for place in places]
    after = {outcome.item_id: outcome for outcome in subject}
    found: list[guided.Look] = []
    harm = np.zeros(len(scored))
    for index, before in enumerate(scored):
        if before.item_id in after:
            score = at_worst(before, after[before.item_id], metric).score
            harm[index] = (score or 0.0) - (before.score or 0.0)
    harm = -harm if metric.higher_is_better else harm
    for threshold in draw.thresholds(min_items):
        drawn = np.flatnonzero(draw.enters <= threshold)
        if 0 < drawn.size <= len(subject):
            found.append(guided.look(draw, harm, threshold, margin))
            asked = {scored[index].item_id for index in drawn}
        if drawn.size >= len(subject):
            break
    if not found or asked != after.keys():
        raise ProvenanceError(
            "outcomes of the subject",
            f"{len(subject)} items that are not those of a look of the guided draw",
            expected="the items that seed, curve and the reference's outcomes draw",
        )
    return GuidedTest(
        tuple(found), margin, (1 - confidence) / 2, metric.higher_is_better, len(subject), len(reference),
        metric.of(scored),
    )  # fmt: skip


def curve_of(reference: Sequence[ItemOutcome], subjects: Sequence[Sequence[ItemOutcome]]) -> tuple[float, ...]:
    """How often answers turn by cell: what earlier methods showed on these items, and the usual curve."""
    scored = [outcome for outcome in reference if outcome.score is not None]
    cell = dict(zip((outcome.item_id for outcome in scored), guided.cells(scored), strict=True))
    before = {outcome.item_id: outcome.score for outcome in scored}
    turned, asked = np.zeros(guided.CELLS), np.zeros(guided.CELLS)
    for outcome in (each for subject in subjects for each in subject):
        if outcome.score is not None and outcome.item_id in cell:
            asked[cell[outcome.item_id]] += 1
            turned[cell[outcome.item_id]] += outcome.score != before[outcome.item_id]
    usual = np.array(guided.default_curve())
    return tuple(float(each) for each in (turned + _PRIOR_ITEMS * usual) / (asked + _PRIOR_ITEMS))


def _draw(reference: Sequence[ItemOutcome], guide: Guide) -> tuple[list[int], guided.Draw]:
    """Places of the items that the reference could answer, and the draw among them."""
    places = [place for place, outcome in enumerate(reference) if outcome.score is not None]
    cell = guided.cells([reference[place] for place in places])
    return places, guided.Draw.of(cell, guide.curve, guide.seed)
