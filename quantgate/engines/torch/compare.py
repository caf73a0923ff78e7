"""Ways to read positions of a text: their losses alone, and what is kept of, or compared with, distributions there.

Each takes some positions of Rolling requests at a time and gives their `Scores`; what else it found of a request it
hands out, or writes, when the request is done.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from quantgate.core.errors import DataError
from quantgate.engines.torch.fidelity import TopK, TopKReader, TopKWriter, divergence, take_top_k
from quantgate.engines.torch.head import ROWS_BYTES, Head, Scores, States, first_argmax, scores
from quantgate.engines.torch.kept import KeptReader, KeptWriter
from quantgate.engines.torch.states import StatesReader, StatesWriter

T = TypeVar("T", bound=Any)


@dataclass(frozen=True, slots=True)
class Position:
    """Value ``offset`` of request ``index``: log p(token) after one place of the tree."""

    index: int
    offset: int
    token: int


@dataclass(frozen=True, slots=True)
class Compared:
    """Per position of one request; see `RollingResponse`. Empty where nothing was compared."""

    kld: tuple[float, ...] = ()
    same_top: tuple[int, ...] = ()
    kld_bound: tuple[float, ...] = ()


class Way(Protocol):
    """How positions of Rolling requests are read."""

    @property
    def positions(self) -> int:
        """How many at a time."""
        ...

    def begin(self, index: int, n: int) -> None:
        """Request ``index`` has ``n`` positions. Raises DataError when it cannot be compared."""
        ...

    def read(self, hidden: Tensor, wanted: Sequence[Position]) -> Scores:
        """The head's inputs [n, hidden] at n positions, each with the token asked there."""
        ...

    def finish(self, index: int) -> Compared:
        """All positions of the request were read."""
        ...


def way_of(
    head: Head, keep: TopKWriter | StatesWriter | None, against: TopKReader | StatesReader | None, device: torch.device
) -> Way | None:
    """How Rolling requests are read; None where only losses are wanted."""
    if isinstance(keep, TopKWriter):
        return _KeepTopK(head, keep)
    if isinstance(keep, StatesWriter):
        return _KeepStates(head, keep)
    if isinstance(against, TopKReader):
        return _AgainstTopK(head, against)
    return None if against is None else _AgainstStates(head, against, device)


class _Keep(Generic[T]):
    """Collects records of single positions until the request is written."""

    def __init__(self, head: Head, writer: KeptWriter[T]) -> None:
        self.head, self.positions, self.writer = head, head.positions, writer
        self.parts: dict[int, list[tuple[list[int], T]]] = defaultdict(list)

    def begin(self, index: int, n: int) -> None:
        """See `Way`."""

    def keep(self, wanted: Sequence[Position], taken: T) -> None:
        """Hold the positions of a record by their requests."""
        for index, places in _by_request(wanted).items():
            part = taken[_run_of(places)]
            self.parts[index].append(([wanted[place].offset for place in places], part))

    def finish(self, index: int) -> Compared:
        """See `Way`."""
        parts = self.parts.pop(index)
        whole = type(parts[0][1]).joined([part for _, part in parts])
        offsets = torch.tensor([offset for mine, _ in parts for offset in mine])
        self.writer.write(index, whole[offsets.argsort().to(whole.top.device)])
        return Compared()


class _KeepStates(_Keep[States]):
    """The head's inputs themselves."""

    def read(self, hidden: Tensor, wanted: Sequence[Position]) -> Scores:
        """See `Way`."""
        found = scores(self.head, hidden, *_asked(wanted))
        self.keep(wanted, States(hidden, found.top.int(), found.logsum))
        return found


class _KeepTopK(_Keep[TopK]):
    """The largest of whole rows, and draws of the rest."""

    def __init__(self, head: Head, writer: TopKWriter) -> None:
        super().__init__(head, writer)
        self.positions, self.k, self.draws = _rows(head), writer.k, writer.draws

    def read(self, hidden: Tensor, wanted: Sequence[Position]) -> Scores:
        """See `Way`."""
        found, logprobs = _whole(self.head, hidden, wanted)
        self.keep(wanted, take_top_k(logprobs, self.k, self.draws, [position.offset for position in wanted]))
        return found


class _Against(Generic[T]):
    """Collects divergences, and where the likeliest tokens agree."""

    def __init__(self, head: Head, reader: KeptReader[T]) -> None:
        self.head, self.positions, self.reader = head, head.positions, reader
        self.values: dict[int, Tensor] = {}

    def begin(self, index: int, n: int) -> None:
        """See `Way`."""
        found = len(self.reader.read(index).top)
        if found != n:
            raise DataError(
                f"fidelity file of request {index}",
                f"holds {found} positions",
                expected=f"{n}",
                hint="it belongs to other text: score the reference again",
            )
        self.values[index] = torch.zeros(3, n, dtype=torch.float64)

    def reference(self, wanted: Sequence[Position], device: torch.device) -> T:
        """What was kept of the same positions."""
        parts, order = [], []
        for index, places in _by_request(wanted).items():
            parts.append(self.reader.read(index)[torch.tensor([wanted[place].offset for place in places])])
            order += places
        joined = type(parts[0]).joined(parts)
        kept: T = (joined if order == sorted(order) else joined[torch.tensor(order).argsort()]).to(device)
        return kept

    def compare(self, wanted: Sequence[Position], kld: Tensor, bound: Tensor, same: Tensor) -> None:
        """Hold float64 [n] divergences and bool [n] agreements by their requests."""
        found = torch.stack([kld, bound, same.double()]).cpu()
        for index, places in _by_request(wanted).items():
            self.values[index][:, [wanted[place].offset for place in places]] = found[:, places]

    def finish(self, index: int) -> Compared:
        """See `Way`."""
        kld, bound, same = self.values.pop(index)
        return Compared(tuple(kld.tolist()), tuple(map(int, same.tolist())), tuple(bound.tolist()))


class _AgainstStates(_Against[States]):
    """Exactly, by both heads."""

    def __init__(self, head: Head, reader: StatesReader, device: torch.device) -> None:
        super().__init__(head, reader)
        self.other = reader.head(head, device)

    def read(self, hidden: Tensor, wanted: Sequence[Position]) -> Scores:
        """See `Way`."""
        states = self.reference(wanted, hidden.device)
        found = scores(self.head, hidden, *_asked(wanted), (self.other, states))
        assert found.divergence is not None
        self.compare(wanted, found.divergence, found.divergence, found.top == states.top)
        return found


class _AgainstTopK(_Against[TopK]):
    """By what is left of the reference's whole rows."""

    def __init__(self, head: Head, reader: TopKReader) -> None:
        super().__init__(head, reader)
        self.positions = _rows(head)

    def read(self, hidden: Tensor, wanted: Sequence[Position]) -> Scores:
        """See `Way`."""
        found, logprobs = _whole(self.head, hidden, wanted)
        reference = self.reference(wanted, hidden.device)
        kld, bound = divergence(reference, logprobs)
        self.compare(wanted, kld, bound, found.top == reference.top)
        return found


def _whole(head: Head, hidden: Tensor, wanted: Sequence[Position]) -> tuple[Scores, Tensor]:
    """Scores, and log-probabilities float32 [n, vocabulary]."""
    logits = head.logits(hidden, 0, head.vocabulary).float()
    rows, tokens = (each.to(logits.device) for each in _asked(wanted))
    asked, top, largest = logits[rows, tokens], first_argmax(logits), logits.amax(-1)
    logits = logits - largest[:, None]
    logsum = logits.exp().sum(-1).log_()
    return Scores(top, largest.double() + logsum, asked), logits.sub_(logsum[:, None])


def _asked(wanted: Sequence[Position]) -> tuple[Tensor, Tensor]:
    return torch.arange(len(wanted)), torch.tensor([position.token for position in wanted])


def _rows(head: Head) -> int:
    """How many whole rows to read at a time."""
    return max(1, ROWS_BYTES // (4 * head.vocabulary))


def _by_request(wanted: Sequence[Position]) -> dict[int, list[int]]:
    """Places of the positions of each request."""
    found: dict[int, list[int]] = defaultdict(list)
    for place, position in enumerate(wanted):
        found[position.index].append(place)
    return found


def _run_of(places: list[int]) -> slice | Tensor:
    """A slice where the places follow each other, as they mostly do: whole distributions are then not copied."""
    run = slice(places[0], places[-1] + 1)
    return run if places == list(range(run.start, run.stop)) else torch.tensor(places)
