"""Outcomes for the tests of this room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy import optimize

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY, Metric
from quantgate.verdict.comparison import Comparison
from quantgate.verdict.paired import compare
from quantgate.verdict.policy import Margin, Rule


def outcomes(scores: Sequence[float | None], groups: Sequence[str] | None = None) -> list[ItemOutcome]:
    """An outcome per score; None is an item without a score."""
    return [
        ItemOutcome(
            f"item/{i}",
            groups[i] if groups else f"item/{i}",
            None if score is None else float(score),
            answer=str(score),
            unscored="no answer found" if score is None else "",
        )
        for i, score in enumerate(scores)
    ]


def zeros_and_ones(worse: int, better: int, n: int, right: int | None = None) -> Comparison:
    """A 0/1 comparison of ``n`` items; ``right``: items right on both sides (default: all the rest)."""
    rest = n - worse - better
    right = rest if right is None else right
    before = [1] * worse + [0] * better + [1] * right + [0] * (rest - right)
    after = [0] * worse + [1] * better + [1] * right + [0] * (rest - right)
    return compare(outcomes(before), outcomes(after), ACCURACY, 0.95)


def rule(margin: float = 0.02, metric: Metric = ACCURACY, kind: Any = "absolute", **settings: Any) -> Rule:
    """A rule that asks nothing but the margin, unless ``settings`` say more."""
    return Rule("task", "method", metric, Margin(kind, margin), **settings)


def variance_by_search(worse: float, better: float, n: float, difference: float) -> float:
    """Tango's constrained variance of ``better - worse``, with the likelihood maximised by search, not by formula."""

    def minus_log_likelihood(p_worse: float) -> float:
        p_better = p_worse + difference
        cells = ((worse, p_worse), (better, p_better), (n - worse - better, 1 - p_worse - p_better))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    found = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    )
    return n * (2 * float(found.x) + difference * (1 - difference))
