"""Which subjects nobody should ship: those that another one beats on cost and on quality at once.

Paper A (Jin et al. 2024, section 5): at about the same memory a larger model in few bits beats a smaller one in 16.
A subject is dominated when another costs no more and is no worse, and one of the two strictly. Points are estimates: a
front says nothing about differences smaller than their intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from quantgate.core.records import Result

REFERENCE: Final = "16-bit"


def is_reference(name: str) -> bool:
    """Whether a subject of this name is a 16-bit model: the run's, or one named (``small:16-bit``)."""
    return name.rpartition(":")[2].strip() == REFERENCE


def with_references(results: Sequence[Result]) -> list[Result]:
    """Of a run with several models: the results, and each 16-bit model as a subject. Else the results as they are."""
    if not any(result.model for result in results):
        return list(results)
    found: dict[tuple[str, str], Result] = {}
    for each in results:
        plain = replace(each, method=REFERENCE, calibration="", value=each.reference, companions={})
        found.setdefault((each.model, each.task), plain)
    return [*results, *found.values()]


@dataclass(frozen=True, slots=True)
class Point:
    """One subject: ``cost`` (bytes, or seconds per token: less is better) and ``quality`` (more is better)."""

    name: str
    cost: float
    quality: float

    def dominates(self, other: Point) -> bool:
        """Whether nobody would choose ``other``; NaN dominates nothing."""
        no_worse = self.cost <= other.cost and self.quality >= other.quality
        return no_worse and (self.cost < other.cost or self.quality > other.quality)


@dataclass(frozen=True, slots=True)
class Front:
    """``cost`` and ``quality``: what the axes are. ``front``: names by rising cost. ``dominated``: name -> the cheapest
    subject that beats it.
    """

    cost: str
    quality: str
    points: tuple[Point, ...]
    front: tuple[str, ...]
    dominated: Mapping[str, str]

    def lines(self) -> list[str]:
        """The front and everything it beats, in words."""
        first = f"{self.quality} against {self.cost}: {', '.join(self.front)} on the front"
        return [first, *(f"{name} is dominated by {by}" for name, by in self.dominated.items())]

    def as_record(self) -> dict[str, Any]:
        """Plain dict for report.json."""
        return asdict(self)


def pareto(points: Sequence[Point], cost: str, quality: str) -> Front:
    """The front of ``points``; those with an undefined axis are left out."""
    usable = sorted(
        (point for point in points if math.isfinite(point.cost) and math.isfinite(point.quality)),
        key=lambda point: (point.cost, -point.quality, point.name),
    )
    beaten: dict[str, str] = {}
    for point in usable:
        better = [other for other in usable if other.dominates(point)]
        if better:
            beaten[point.name] = better[0].name
    front = tuple(point.name for point in usable if point.name not in beaten)
    return Front(cost, quality, tuple(usable), front, beaten)


def quality_points(results: Sequence[Result], costs: Mapping[str, float]) -> tuple[str, list[Point]]:
    """What quality means for these results, and a point for each method with a cost and all tasks (the reference too).

    Quality is the mean over the tasks with a 0/1 score; without one, perplexity (its negative logarithm, mean over the
    tasks). Only tasks that every method with a cost was judged on enter, so that nobody is better by a missing task.
    """
    usable = [result for result in results if result.about in costs and math.isfinite(result.value)]
    for words, chosen in (("mean score", _scores(usable)), ("-ln perplexity", _losses(usable))):
        methods = {result.about for result in chosen}
        by_task: dict[str, set[str]] = {}
        for result in chosen:
            by_task.setdefault(result.task, set()).add(result.about)
        tasks = sorted(task for task, judged in by_task.items() if judged == methods)
        if tasks:
            shared = [result for result in chosen if result.task in tasks]
            return f"{words} of {', '.join(tasks)}", _points(shared, sorted(methods), costs)
    return "", []


def _scores(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.metric in ("acc", "exact_match")]


def _losses(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.metric == "ppl"]


def _points(results: Sequence[Result], methods: Sequence[str], costs: Mapping[str, float]) -> list[Point]:
    points = []
    for method in methods:
        mine = [result for result in results if result.about == method]
        points.append(Point(method, costs[method], _mean([(result.value, result.metric) for result in mine])))
    if REFERENCE in costs and not any(map(is_reference, methods)):
        first = {result.task: (result.reference, result.metric) for result in results}
        points.append(Point(REFERENCE, costs[REFERENCE], _mean(list(first.values()))))
    return points


def _mean(values: Sequence[tuple[float, str]]) -> float:
    return math.fsum(-math.log(value) if metric == "ppl" else value for value, metric in values) / len(values)


def fronts(results: Sequence[Result]) -> list[Front]:
    """Quality against bytes and against time per token, as far as the results have both for two methods or more.

    A method whose speed was only simulated has no time.
    """
    found = []
    results = with_references(results)
    benchmarks = [result for result in results if result.dimension != "efficiency"]
    for task, cost, power in (("weight_bytes", "GiB of weights", 1), ("decode_speed", "seconds per token", -1)):
        measured = [result for result in results if result.task == task and result.verdict != "invalid"]
        real = [result for result in measured if not result.companions.get("simulated")]
        costs = {result.about: result.value**power for result in real}
        if len(costs) < 2:
            continue
        if not any(map(is_reference, costs)):
            costs[REFERENCE] = real[0].reference ** power
        quality, points = quality_points(benchmarks, costs)
        if points:
            found.append(pareto(points, cost, quality))
    return found
