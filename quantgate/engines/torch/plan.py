"""From the prefix tree to batches: which tokens are read together, and which key/value prefixes are kept.

A *trunk* is a stretch of the tree that much hangs on (a few-shot preamble): it is read once and its keys and values are
kept. What hangs on a trunk is cut into *items* (a question with all its options); items are packed side by side into
*rows* of about the same length, and rows, also of different trunks, into batches under a token budget. Inside a row
every token sees its ancestors only, so packing never changes an answer beyond rounding.

The plan depends on nothing but the tree and the limits: reference and subject get the same shapes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from quantgate.engines.torch.tree import PrefixTree

_PADDING: Final = 0.1  # of a batch's tokens; a batch with more is closed early
ROOT: Final = -1  # the trunk of length 0 that everything hangs on


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a batch.

    Attributes:
        batch: tokens read in one forward pass, padding included.
        context: tokens of keys and values held during one forward pass (prefix and row, over all rows).
        row: length rows are filled up to; longer items stand alone in their row.
        item: the largest subtree that is packed as a whole (its attention cost is quadratic).
        saving: tokens of repeated reading that justify a trunk of its own.
        branching: whether the model can read several branches in one row (4D masks and free positions).
        in_place: whether rows read their prefix where it lies, so that it is held once for all of them.
    """

    batch: int = 4096
    context: int = 32768
    row: int = 128
    item: int = 768
    saving: int = 128
    branching: bool = True
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch.

    Attributes:
        trunk: number of the trunk whose keys and values precede the row, or ``ROOT``.
        ids: tree ids of the tokens, in preorder per item.
        last: for each token the last slot of the row (inclusive) that descends from it.
        keep: number under which the row itself is kept as a trunk, or ``ROOT`` for not at all.
    """

    trunk: int
    ids: tuple[int, ...]
    last: tuple[int, ...]
    keep: int = ROOT

    @property
    def is_chain(self) -> bool:
        """Whether every token descends from all tokens before it."""
        return all(last == len(self.ids) - 1 for last in self.last)


@dataclass(slots=True)
class Batch:
    """Rows read in one forward pass; the trunks in ``drop`` are not needed after it."""

    rows: tuple[Row, ...]
    drop: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Item:
    """A subtree (``start..stop``) with the tokens between it and its trunk repeated before it."""

    lead: tuple[int, ...]
    start: int
    stop: int

    def __len__(self) -> int:
        return len(self.lead) + self.stop - self.start


@dataclass(slots=True)
class _Trunk:
    number: int
    parent: int
    ids: tuple[int, ...]
    length: int  # with everything before it
    items: list[_Item] = field(default_factory=list)
    trunks: list[_Trunk] = field(default_factory=list)


class Plan:
    """Batches in the order they must run. ``lengths[n]`` is the number of tokens up to the end of trunk ``n``."""

    def __init__(self, tree: PrefixTree, limits: Limits) -> None:
        self.tree, self.limits = tree, limits
        self.lengths: dict[int, int] = {ROOT: 0}
        self.batches: list[Batch] = []
        root = _Trunk(ROOT, ROOT, (), 0)
        self._grow(root, tree.branches(0, len(tree)))
        self._emit([root])
        self._schedule(root.trunks)

    @property
    def tokens_read(self) -> int:
        """Tokens forwarded, without padding."""
        return sum(len(row.ids) for batch in self.batches for row in batch.rows)

    def _grow(self, root: _Trunk, starts: Iterable[int]) -> None:
        """Hang everything below ``starts`` on ``root``: as items, or as further trunks."""
        todo: list[tuple[_Trunk, tuple[int, ...], int]] = [(root, (), start) for start in starts]
        todo.reverse()
        while todo:
            trunk, lead, start = todo.pop()
            stop, run_end = self.tree.end[start], self.tree.run_end(start)
            if self._fits(len(lead) + stop - start, chain=run_end == stop):
                trunk.items.append(_Item(lead, start, stop))
                continue
            if len(lead) + run_end - start > self.limits.batch:  # too long for one pass: read it piece by piece
                cut = start + self.limits.batch - len(lead)
                todo.append((self._sprout(trunk, (*lead, *range(start, cut))), (), cut))
                continue
            own = (*lead, *range(start, run_end))
            branches = self.tree.branches(run_end, stop)
            if len(own) * (len(branches) - 1) >= self.limits.saving:
                trunk, own = self._sprout(trunk, own), ()
            todo.extend((trunk, own, branch) for branch in reversed(branches))

    def _fits(self, size: int, *, chain: bool) -> bool:
        if chain:
            return size <= self.limits.batch
        return self.limits.branching and size <= min(self.limits.item, self.limits.batch)

    def _sprout(self, parent: _Trunk, ids: tuple[int, ...]) -> _Trunk:
        number = len(self.lengths) - 1
        trunk = _Trunk(number, parent.number, ids, parent.length + len(ids))
        self.lengths[number] = trunk.length
        parent.trunks.append(trunk)
        return trunk

    def _schedule(self, trunks: Sequence[_Trunk]) -> None:
        """Read trunks of one level in waves that fit a batch, each followed by everything that hangs on it."""
        for wave in self._waves(trunks):
            rows = [_row(trunk.parent, [_Item(trunk.ids, 0, 0)], self.tree, keep=trunk.number) for trunk in wave]
            self.batches.extend(self._batches(rows))
            self._emit(wave)
            self._schedule([below for trunk in wave for below in trunk.trunks])
            self.batches[-1].drop.extend(trunk.number for trunk in wave)

    def _waves(self, trunks: Sequence[_Trunk]) -> Iterator[list[_Trunk]]:
        wave: list[_Trunk] = []
        for trunk in sorted(trunks, key=lambda trunk: -len(trunk.ids)):
            if wave and len(wave[0].ids) * (len(wave) + 1) > self.limits.batch:
                yield wave
                wave = []
            wave.append(trunk)
        if wave:
            yield wave

    def _emit(self, trunks: Iterable[_Trunk]) -> None:
        """Batches of the items of these trunks, the longest rows first."""
        rows: list[Row] = []
        for trunk in trunks:
            bins = _pack(trunk.items, self.limits.row) if self.limits.branching else [[item] for item in trunk.items]
            rows.extend(_row(trunk.number, items, self.tree) for items in bins)
        if self.limits.branching:
            rows.sort(key=lambda row: -len(row.ids))
        self.batches.extend(self._batches(rows))

    def _batches(self, rows: Iterable[Row]) -> Iterator[Batch]:
        batch: list[Row] = []
        width = padding = 0
        for row in rows:
            new_width = max(width, len(row.ids))
            count = len(batch) + 1
            held = count * new_width + self._prefixes([*batch, row])
            full = count * new_width > self.limits.batch or held > self.limits.context
            # Without free positions all rows of a batch must start at the same one.
            foreign = not self.limits.branching and batch and batch[0].trunk != row.trunk
            padding += max(0, width - len(row.ids))
            if batch and (full or foreign or padding > self.limits.batch * _PADDING):
                yield _by_trunk(batch)
                batch, new_width, padding = [], len(row.ids), 0
            batch.append(row)
            width = new_width
        if batch:
            yield _by_trunk(batch)

    def _prefixes(self, rows: Sequence[Row]) -> int:
        """Tokens of keys and values held before these rows in one forward pass."""
        if self.limits.in_place:
            return sum(self.lengths[trunk] for trunk in {row.trunk for row in rows})
        return len(rows) * max(self.lengths[row.trunk] for row in rows)


def _by_trunk(rows: Sequence[Row]) -> Batch:
    """Rows of one trunk side by side: they attend to it together."""
    return Batch(tuple(sorted(rows, key=lambda row: row.trunk)))


def _row(trunk: int, items: Sequence[_Item], tree: PrefixTree, keep: int = ROOT) -> Row:
    ids: list[int] = []
    last: list[int] = []
    for item in items:
        base = len(ids)
        final = base + len(item) - 1
        ids.extend(item.lead)
        last.extend([final] * len(item.lead))
        shift = base + len(item.lead) - item.start
        ids.extend(range(item.start, item.stop))
        last.extend(end - 1 + shift for end in tree.end[item.start : item.stop])
    return Row(trunk, tuple(ids), tuple(last), keep)


def _pack(items: Sequence[_Item], capacity: int) -> list[list[_Item]]:
    """Best-fit decreasing: the longest items first, each into the fullest row that still has room."""
    rows: list[list[_Item]] = []
    by_room: dict[int, list[int]] = defaultdict(list)
    for item in sorted(items, key=lambda item: -len(item)):
        room = next((room for room in range(len(item), capacity + 1) if by_room.get(room)), None)
        if room is None:
            rows.append([item])
            by_room[capacity - len(item)].append(len(rows) - 1)
        else:
            at = by_room[room].pop()
            rows[at].append(item)
            by_room[room - len(item)].append(at)
    return rows
