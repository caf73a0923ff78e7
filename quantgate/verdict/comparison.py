"""What a paired comparison holds, whichever comparator made it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from quantgate.core.items import REPEATED, ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.verdict import intervals
from quantgate.verdict.intervals import Codes, Floats, Spread

Pair: TypeAlias = tuple[ItemOutcome, ItemOutcome]
Sides: TypeAlias = tuple[Floats, Floats, Codes]
"""Where scores are not 0/1: what the reference and the subject scored (of a corpus: the facts), and the groups."""
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
    (`quantgate.verdict.paired.relative`); ``sides``: what that needs.
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
