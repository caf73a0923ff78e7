"""Split documents among clients, for studies of private shards: evenly, by label with a Dirichlet draw, by metadata."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from quantgate.core.errors import DataError


def iid(count: int, clients: int, seed: int) -> list[list[int]]:
    """Numbers 0..count-1 in ``clients`` shards of nearly equal size, at random."""
    _check(count, clients)
    order = np.random.default_rng(seed).permutation(count)
    return [sorted(map(int, part)) for part in np.array_split(order, clients)]


def dirichlet(labels: Sequence[Hashable], clients: int, alpha: float, seed: int) -> list[list[int]]:
    """Of every label, shares drawn from Dirichlet(alpha, ..., alpha): the smaller alpha, the more clients differ.

    Raises:
        DataError: no clients, fewer documents than clients, or an alpha that is not above 0.
    """
    _check(len(labels), clients)
    if not alpha > 0:
        raise DataError("splitter", f"alpha {alpha}", expected="a number above 0")
    generator = np.random.default_rng(seed)
    shards: list[list[int]] = [[] for _ in range(clients)]
    for label in dict.fromkeys(labels):
        mine = generator.permutation([number for number, each in enumerate(labels) if each == label])
        bounds = np.round(np.cumsum(generator.dirichlet([alpha] * clients)) * len(mine)).astype(int)
        for shard, part in zip(shards, np.split(mine, bounds[:-1]), strict=True):
            shard.extend(map(int, part))
    return [sorted(shard) for shard in shards]


def by_metadata(values: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """A shard for every value, in the order in which they come first."""
    shards: dict[Hashable, list[int]] = {}
    for number, value in enumerate(values):
        shards.setdefault(value, []).append(number)
    return shards


def skew(labels: Sequence[Hashable], shards: Sequence[Sequence[int]]) -> float:
    """Mean total variation distance of the shards' labels from all labels, 0 (alike) to 1; empty ones are left out."""
    names = list(dict.fromkeys(labels))
    whole = np.array([sum(each == name for each in labels) for name in names]) / len(labels)
    found = []
    for shard in shards:
        if shard:
            mine = np.array([sum(labels[number] == name for number in shard) for name in names]) / len(shard)
            found.append(float(np.abs(mine - whole).sum() / 2))
    return float(np.mean(found)) if found else 0.0


def _check(count: int, clients: int) -> None:
    if not 0 < clients <= count:
        raise DataError("splitter", f"{clients} clients for {count} documents", expected="at least one document each")
