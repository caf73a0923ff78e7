"""How a case, or all cases of a subject, went from run to run: as a picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from quantgate.core.records import Result
from quantgate.reports import shapes
from quantgate.reports.report import Report
from quantgate.verdict.family import MethodDecision

_HIGH: Final = 72
_STEP: Final = 34
_LEAST, _MOST = -0.5, 2.0  # of the margin: what a trend shows; what lies outside is drawn at the edge


@dataclass(frozen=True)
class Point:
    """A loss in units of the margin with its interval, and what was said of it."""

    low: float
    at: float
    high: float
    verdict: str


def of_case(cells: Sequence[Result | None]) -> Markup:
    """A case in several runs."""
    return picture([_of_result(cell) for cell in cells])


def of_subjects(reports: Sequence[Report]) -> list[tuple[str, Markup]]:
    """Every subject with a picture of its pooled loss over the runs; without those that no run can say a loss of."""
    known = [{each.method: each for each in report.derived.decisions} for report in reports]
    names = dict.fromkeys(name for decisions in known for name in decisions)
    drawn = [(name, picture([_of_decision(each.get(name)) for each in known])) for name in names]
    return [(name, shown) for name, shown in drawn if shown]


def _of_result(result: Result | None) -> Point | None:
    if result is None or not result.margin > 0:
        return None
    sign = -1.0 if result.higher_is_better else 1.0
    low, high = sorted(sign * end / result.margin for end in (result.ci_low, result.ci_high))
    return _sound(Point(low, sign * result.delta / result.margin, high, result.verdict))


def _of_decision(decision: MethodDecision | None) -> Point | None:
    if decision is None:
        return None
    pooled = decision.pooled
    return _sound(Point(pooled.low, pooled.share, pooled.high, decision.verdict))


def _sound(point: Point) -> Point | None:
    return point if all(map(math.isfinite, (point.low, point.at, point.high))) else None


def picture(points: Sequence[Point | None]) -> Markup:
    """Runs from left to right, the loss upwards: the thin line is the reference, the thick one all that is allowed.

    A gap is a run without such a case. Empty where fewer than two runs have one.
    """
    there = [(at, point) for at, point in enumerate(points) if point is not None]
    if len(there) < 2:
        return Markup("")
    width = _STEP * len(points)
    parts = [shapes.line(0, _y(level), width, _y(level), kind) for level, kind in ((0, "zero"), (1, "margin"))]
    for (at, one), (then, other) in itertools.pairwise(there):
        if then == at + 1:
            parts.append(shapes.line(_x(at), _y(one.at), _x(then), _y(other.at), "step"))
    for at, point in there:
        parts.append(shapes.line(_x(at), _y(point.low), _x(at), _y(point.high), f"bar {point.verdict}"))
        dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" class="dot {}"/>')
        parts.append(dot.format(_x(at), _y(point.at), point.verdict))
    told = "; ".join(
        f"run {at + 1}: {point.verdict}, {100 * point.at:.0f}% of what is allowed, between {100 * point.low:.0f}% and "
        f"{100 * point.high:.0f}%"
        for at, point in there
    )
    return shapes.svg(width, _HIGH, f"loss from run to run: {told}", parts, "trend")


def _x(at: int) -> float:
    return _STEP * (at + 0.5)


def _y(share: float) -> float:
    return _HIGH - 6 - (min(max(share, _LEAST), _MOST) - _LEAST) / (_MOST - _LEAST) * (_HIGH - 12)
