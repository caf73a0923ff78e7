"""Choosing items and few-shot examples: the same for every task, seeded, and never from the split under test."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import TypeVar

from quantgate.core.errors import DataError
from quantgate.core.items import Item
from quantgate.core.words import counted
from quantgate.tasks.base import Selection, Task
from quantgate.tasks.data import DataSource, Fields, Row

Kind = TypeVar("Kind")


def limited(items: list[Item], limit: int | None, seed: int) -> list[Item]:
    """At most ``limit`` items, spread evenly over the groups by a seeded draw, in their original order.

    The first N rows would be the first subject only; a draw per group keeps a small run representative.
    """
    if limit is None or limit >= len(items):
        return items
    by_group: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        by_group.setdefault(item.group, []).append(index)
    generator = random.Random(seed)
    queues = [generator.sample(indices, len(indices)) for indices in by_group.values()]
    generator.shuffle(queues)
    chosen: list[int] = []
    while len(chosen) < limit:
        for queue in queues:
            if queue and len(chosen) < limit:
                chosen.append(queue.pop())
    return [items[index] for index in sorted(chosen)]


def k_shot(shots: int) -> str:
    """``zero-shot``, ``5-shot``: how protocols call it."""
    return f"{shots}-shot" if shots else "zero-shot"


def with_shots(task: Task, shots: int | None) -> Task:
    """The task behind ``shots`` examples, where it has a number of them to change; None leaves it as it is."""
    if shots is None or not is_dataclass(task):
        return task
    if (asked := getattr(task, "of", None)) is not None:  # it asks what another task asks
        return replace(task, of=with_shots(asked, shots))
    if getattr(task, "shots", None) is None:
        return task
    return replace(task, shots=shots)


def first_shots(
    data: DataSource, dataset: str, config: str, split: str, fields: Fields, wanted: int
) -> tuple[Row, ...]:
    """The first ``wanted`` rows of a split that is never scored. Raises DataError when it has fewer."""
    rows = data.rows(dataset, config, split, fields) if wanted else []
    if len(rows) < wanted:
        raise DataError(
            f"{dataset}/{config}/{split} in {data.name}",
            counted(len(rows), "row"),
            expected=f"at least {wanted} for {wanted}-shot prompts",
            hint="lower --num-fewshot",
        )
    return tuple(rows[:wanted])


def rows_of_split(
    data: DataSource,
    dataset: str,
    config: str,
    split: str,
    fields: Fields,
    check: Callable[[Row, str], None] | None = None,
) -> list[tuple[str, Row]]:
    """(``<split>/<row>``, row) of one split; ``check`` is given each row and its place, to raise DataError."""
    named = []
    for number, row in enumerate(data.rows(dataset, config, split, fields)):
        if check:
            check(row, f"{dataset}/{config}/{split} in {data.name}, line {number + 1}")
        named.append((f"{split}/{number}", row))
    return named


def items_of_split(
    data: DataSource,
    dataset: str,
    config: str,
    split: str,
    fields: Fields,
    selection: Selection,
    check: Callable[[Row, str], None] | None = None,
) -> list[Item]:
    """An item per row of one split, each its own group, as many as selected."""
    named = rows_of_split(data, dataset, config, split, fields, check)
    return limited([Item(name, name, row) for name, row in named], selection.limit, selection.seed)
