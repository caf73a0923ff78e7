"""The task protocol: one benchmark under one protocol.

A task turns rows of a data source into items, an item into requests, and the responses to those requests into one
outcome. It never sees a model. Everything is kept per item, because comparisons are paired by item.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from quantgate.scoring.requests import Request, Response

if TYPE_CHECKING:
    from quantgate.tasks.data import DataSource
    from quantgate.tasks.prompts import Prompts

Kind = TypeVar("Kind")
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
    """

    name: str
    higher_is_better: bool
    kind: Literal["binary", "mean", "exp_mean", "corpus"]
    unit: str = ""
    aggregate: Callable[[npt.NDArray[np.float64]], float] | None = None
    best: float | None = None
    worst: float | None = None
    stake: float | None = None
    serial: bool = False

    def __post_init__(self) -> None:
        if (self.kind == "corpus") != (self.aggregate is not None):
            raise ValueError(f"metric {self.name}: an aggregate belongs to the kind 'corpus', and to no other")
        if self.kind == "binary":
            object.__setattr__(self, "best", float(self.higher_is_better))
            object.__setattr__(self, "worst", float(not self.higher_is_better))

    @property
    def range(self) -> float | None:
        """How far apart two scores can be; None without bounds."""
        return None if self.best is None or self.worst is None else abs(self.best - self.worst)

    @property
    def score_unit(self) -> str:
        """What an item's score is counted in, with a space behind it; empty where it has no unit."""
        if self.kind == "exp_mean":
            return "nats "
        return f"{self.unit} " if self.unit else ""

    def of(self, outcomes: Sequence[ItemOutcome]) -> float:
        """The metric over scored items, of whatever kind; NaN when there are none."""
        if self.aggregate is None:
            return self.value([outcome.score for outcome in outcomes if outcome.score is not None])
        return self.aggregate(facts_of(outcomes).sum(axis=0)) if outcomes else math.nan

    def value(self, scores: Sequence[float]) -> float:
        """The metric over ``scores``; NaN when there are none, and for a corpus metric, which scores do not tell."""
        if not scores or self.kind == "corpus":
            return math.nan
        mean = math.fsum(scores) / len(scores)
        if self.kind != "exp_mean":
            return mean
        return math.exp(mean) if mean < 700 else math.inf  # exp overflows a float64 above 709


def facts_of(outcomes: Sequence[ItemOutcome]) -> npt.NDArray[np.float64]:
    """Facts of scored items, float64 [items, facts]. Raises ValueError when they are not equally many for all."""
    return np.array([outcome.facts for outcome in outcomes], dtype=np.float64)


ACCURACY = Metric("acc", True, "binary")
ACC_NORM = Metric("acc_norm", True, "binary")
EXACT_MATCH = Metric("exact_match", True, "binary")
GUESSING: Final = 10.0
"""Nats: how much a text loses at most that matters. A guess among 32,000 tokens is 10.4 away from certainty."""
PERPLEXITY = Metric("ppl", False, "exp_mean", stake=GUESSING, serial=True)
KLD_MEAN = Metric("kld_mean", False, "mean", "nats", stake=GUESSING, serial=True)


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user asked of every task: ``limit`` items at most, drawn with ``seed``."""

    limit: int | None = None
    seed: int = 1234


class Task(Protocol):
    """One benchmark under one protocol. Implementations are frozen dataclasses: their fields are their settings."""

    @property
    def id(self) -> str:
        """Name in case ids and ``--tasks``; letters, digits and ``_``."""

    @property
    def dimension(self) -> str:
        """``knowledge``, ``alignment`` or ``fidelity``: the file in evals/ and the marker."""

    @property
    def protocol(self) -> str:
        """One line that pins how it is asked and scored; part of the provenance, with ``version``."""

    @property
    def version(self) -> int:
        """Counts up whenever the same answers could yield another score."""

    @property
    def metric(self) -> Metric:
        """What the items' scores mean."""

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """The items to ask, in a fixed order. Raises DataError on missing or malformed data."""

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """What to ask the model about ``item``."""

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """The outcome of ``item`` given the responses to its requests, in order."""


@runtime_checkable
class Summarized(Protocol):
    """A task whose record holds further numbers over all items, such as averages over groups; no verdict uses them."""

    def summary(self, outcomes: Sequence[ItemOutcome]) -> Mapping[str, float]:
        """Name -> value over the scored ones of ``outcomes``."""


@runtime_checkable
class Shortening(Protocol):
    """A task that leaves out part of an item where the model's context has no room for all of it."""

    def shortened(self, item: Item, prompts: Prompts) -> str:
        """What of ``item`` its requests leave out, in few words for the record; empty when nothing."""


@runtime_checkable
class Specific(Protocol):
    """A task whose protocol depends on what was found: how much text there is, which split, what the tokenizer adds."""

    def as_asked(self, items: Sequence[Item], prompts: Prompts) -> str:
        """What its protocol leaves open, for the record; empty when nothing."""


@runtime_checkable
class Guessable(Protocol):
    """A task whose right answers can be said without reading the question: letters, words, numbers, short texts."""

    def golds(self, item: Item) -> Collection[str]:
        """What scores on ``item``, in the terms in which a model could always say the same."""


def best_constant(task: Task, items: Sequence[Item]) -> float | None:
    """What always saying the same answer scores on ``items`` at best (the most frequent letter, word or text).

    None when the task has no such answers, its scores have no bound, or no answer is right twice.
    """
    if not isinstance(task, Guessable) or task.metric.best is None:
        return None
    golds = ({" ".join(each.casefold().split()) for each in task.golds(item)} for item in items)
    most = max(Counter(gold for each in golds for gold in each).values(), default=0)
    return task.metric.best * most / len(items) if most > 1 else None


@runtime_checkable
class FewShot(Protocol):
    """A task that may be asked behind solved examples, which come from a split that is never scored."""

    @property
    def shots(self) -> int | None:
        """How many examples; None where it is asked in a form that takes none."""

    def examples(self, data: DataSource) -> Mapping[str, tuple[Mapping[str, Any], ...]]:
        """The examples by configuration. Raises DataError where one holds fewer than `shots`."""


@runtime_checkable
class Choosy(Protocol):
    """A task some of whose items nobody could score, so that asking them would be a waste."""

    def unscorable(self, item: Item) -> str:
        """Why no answer to ``item`` could be scored; empty when one can."""


def only(responses: Sequence[Response], kind: type[Kind]) -> Kind:
    """The single response of an item that asked for one. Raises TypeError when it is of another kind."""
    [response] = responses
    if not isinstance(response, kind):
        raise TypeError(f"got a {type(response).__name__}, asked for a {kind.__name__}")
    return response


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
