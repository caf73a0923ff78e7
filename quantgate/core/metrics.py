"""How item scores become one number, and what is known about such scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from quantgate.core.items import ItemOutcome, facts_of


def _exp(mean: float) -> float:
    return math.exp(mean) if mean < 700 else math.inf  # exp overflows a float64 above 709


@dataclass(frozen=True, slots=True)
class Scale:
    """What a kind of metric says of its items' scores.

    ``either``: they are 0 or 1, wrong or right. ``summed``: the value comes from the items' facts, which the scores do
    not tell. ``unit``: what a score is counted in, where it is not the value's own. ``shown``: mean score -> value.
    """

    either: bool = False
    summed: bool = False
    unit: str = ""
    shown: Callable[[float], float] = float


SCALES: Final = {"binary": Scale(either=True), "exp_mean": Scale(unit="nats", shown=_exp), "corpus": Scale(summed=True)}
"""By `Metric.kind`."""


def scale_of(kind: str) -> Scale:
    """That of a kind; one that has no row here is the mean of its scores."""
    return SCALES.get(kind, Scale())


@dataclass(frozen=True, slots=True)
class Metric:
    """How item scores become one number, and how two such numbers are compared.

    ``kind``: ``binary`` (scores 0/1), ``mean`` (any real score), ``exp_mean`` (value = exp(mean score): perplexity;
    differences are taken on the mean and shown as value differences), ``corpus`` (value = ``aggregate`` of the summed
    facts: BLEU; an item's score then only tells which items moved).

    ``best``, ``worst``: what an item can score at most and at least, None where there is no bound; 0/1 scores have
    theirs by their kind. ``stake``: how much worse an item that was not drawn may have got at most, on the scale of the
    scores, where no bounds say it (docs/verdicts.md, "Rare damage"); 0 where items are one measurement repeated, None
    where nobody said: then the largest score seen. ``serial``: items are neighbours in a running text.
    ``blind``: damage that it cannot see, as the end of "it does not see ..."; it then stands for no other metric, and
    every sentence about it says so.
    """

    name: str
    higher_is_better: bool
    kind: str
    unit: str = ""
    aggregate: Callable[[npt.NDArray[np.float64]], float] | None = None
    best: float | None = None
    worst: float | None = None
    stake: float | None = None
    serial: bool = False
    blind: str = ""

    def __post_init__(self) -> None:
        if self.scale.summed != (self.aggregate is not None):
            raise ValueError(f"metric {self.name}: an aggregate belongs to the kind 'corpus', and to no other")
        if self.scale.either:
            object.__setattr__(self, "best", float(self.higher_is_better))
            object.__setattr__(self, "worst", float(not self.higher_is_better))

    @property
    def scale(self) -> Scale:
        """What its kind says of scores."""
        return scale_of(self.kind)

    @property
    def range(self) -> float | None:
        """How far apart two scores can be; None without bounds."""
        return None if self.best is None or self.worst is None else abs(self.best - self.worst)

    @property
    def score_unit(self) -> str:
        """What an item's score is counted in, with a space behind it; empty where it has no unit."""
        unit = self.scale.unit or self.unit
        return f"{unit} " if unit else ""

    def of(self, outcomes: Sequence[ItemOutcome]) -> float:
        """The metric over scored items, of whatever kind; NaN when there are none."""
        if self.aggregate is None:
            return self.value([outcome.score for outcome in outcomes if outcome.score is not None])
        return self.aggregate(facts_of(outcomes).sum(axis=0)) if outcomes else math.nan

    def value(self, scores: Sequence[float]) -> float:
        """The metric over ``scores``; NaN when there are none, and for a corpus metric, which scores do not tell."""
        if not scores or self.scale.summed:
            return math.nan
        return self.scale.shown(math.fsum(scores) / len(scores))


ACCURACY = Metric("acc", True, "binary")
ACC_NORM = Metric("acc_norm", True, "binary")
EXACT_MATCH = Metric("exact_match", True, "binary")
PASS_AT_1 = Metric("pass_at_1", True, "binary")
PROB_RIGHT = Metric(
    "prob_right", True, "mean", best=1.0, worst=0.0,
    blind="answers that flip at the boundary between two options, so it is no proxy for an accuracy",
)  # fmt: skip
"""Probability of the right option among the options."""
GUESSING: Final = 10.0
"""Nats: how much a text loses at most that matters. A guess among 32,000 tokens is 10.4 away from certainty."""
BLOCK: Final = 512
"""Tokens of running text that break together. In a segment that was not drawn one block may be guessed, so the mean of
a longer segment has less at stake, and a verdict needs as much text however it is cut."""
PERPLEXITY = Metric("ppl", False, "exp_mean", stake=GUESSING, serial=True)
SAME_TOP = Metric("same_top_p", True, "mean", best=1.0, worst=0.0)
"""Share of places at which both models hold the same token likeliest."""
KLD_MEAN = Metric("kld_mean", False, "mean", "nats", stake=GUESSING, serial=True)
