"""The task protocol: one benchmark under one protocol.

A task turns rows of a data source into items, an item into requests, and the responses to those requests into one
outcome. It never sees a model. Everything is kept per item, because comparisons are paired by item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACC_NORM as ACC_NORM  # what the author of a task needs, in one place
from quantgate.core.metrics import ACCURACY as ACCURACY
from quantgate.core.metrics import EXACT_MATCH as EXACT_MATCH
from quantgate.core.metrics import KLD_MEAN as KLD_MEAN
from quantgate.core.metrics import PERPLEXITY as PERPLEXITY
from quantgate.core.metrics import Metric
from quantgate.core.requests import Request, Response

if TYPE_CHECKING:
    from quantgate.tasks.data import DataSource
    from quantgate.tasks.prompts import Prompts

Kind = TypeVar("Kind")


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
class Placed(Protocol):
    """A task over one configuration of a data set that has others: the data may have those, and not this one."""

    @property
    def place(self) -> tuple[str, str]:
        """Data set and configuration."""

    def has_rows(self, data: DataSource) -> bool:
        """Whether ``data`` has what is asked."""


@runtime_checkable
class Carrying(Protocol):
    """A task that may bring its rows or its text along, instead of reading the run's data."""

    @property
    def carries(self) -> str:
        """What records say about them; empty where it reads the run's data."""

    def quoted(self, item: Item) -> str:
        """What of ``item`` a report may show; empty where whoever wrote the task did not allow it."""


@runtime_checkable
class Followed(Protocol):
    """A task whose items are made of what the reference answered to another one, which it is asked before."""

    @property
    def first(self) -> Any:
        """That task."""

    def behind(self, asked: Sequence[tuple[Item, Sequence[Any], Sequence[Response]]], prompts: Prompts) -> list[Item]:
        """The items, given every item of the first task with its requests and the reference's responses."""


@runtime_checkable
class InTurns(Protocol):
    """A task that asks on, behind what the model itself answered."""

    def next_turn(self, item: Item, responses: Sequence[Response], prompts: Prompts) -> list[Request]:
        """The second requests of ``item``; none where there is nothing more to ask. `Task.score` gets all responses."""


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
