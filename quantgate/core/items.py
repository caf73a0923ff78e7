"""Questions and what came of them, kept one by one because comparisons are paired by item."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

REPEATED: Final = "it asks the same as an earlier item"
"""Why an item is not asked that would tell nothing new; such items count neither as pairs nor as missing."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a task.

    ``id`` is stable across runs (``<config>/<split>/<row>``); ``group`` is the cluster within which items are not
    independent (subject, document); ``row`` is the row as the hub has it; ``shots`` the few-shot examples.
    """

    id: str
    group: str
    row: Mapping[str, Any]
    shots: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What came out for one item: a score, or the reason why there is none (never both, never neither).

    ``score``: the item's contribution to the metric (0/1 for accuracy, mean loss for perplexity, ...).
    ``answer``: what the model chose, for flips. ``companions``: further numbers such as the probability mass on the
    right option. ``facts``: the item's additive counts for a metric of a whole corpus (n-gram matches for BLEU); the
    same number of them for every scored item, empty for all other metrics.
    """

    item_id: str
    group: str
    score: float | None
    answer: str = ""
    companions: Mapping[str, float] = field(default_factory=dict)
    unscored: str = ""
    facts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if (self.score is None) != bool(self.unscored):
            raise ValueError(f"item {self.item_id}: needs a score or a reason for having none, not both or neither")


def facts_of(outcomes: Sequence[ItemOutcome]) -> npt.NDArray[np.float64]:
    """Facts of scored items, float64 [items, facts]. Raises ValueError when they are not equally many for all."""
    return np.array([outcome.facts for outcome in outcomes], dtype=np.float64)


def digest_items(items: Sequence[Item]) -> str:
    """sha256 over ids, rows and few-shot examples: which data a result speaks about."""
    digest = hashlib.sha256()
    for item in items:
        content = [item.id, item.group, dict(item.row), [dict(shot) for shot in item.shots]]
        digest.update(json.dumps(content, sort_keys=True, ensure_ascii=False).encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()


def splits_note(items: Sequence[Item]) -> str:
    """`` (generated 8, test 8)`` when the items come from several splits, else an empty string.

    Scores over rows that a data directory made anew must not be read as those of the published ones.
    """
    counts = Counter(item.id.split("/")[-2] for item in items if item.id.count("/") == 2)
    return f" ({', '.join(f'{split} {count}' for split, count in sorted(counts.items()))})" if len(counts) > 1 else ""
