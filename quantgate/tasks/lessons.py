"""What of a benchmark may be learned from: its rows outside the tested split, shown with their right answers.

Calibration text in a task's own distribution is made of these rows, in the task's own words or literally as a paper
renders them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from quantgate.core.errors import DataError
from quantgate.tasks.data import DataSource, Fields, Row


@dataclass(frozen=True)
class Lessons:
    """Rows that are never scored.

    ``configs``: configurations that are read; empty means all that the data has. ``splits``: names the split may have,
    the first that is there is read; a tested split is never among them. ``render``: (configuration, row) -> text.
    ``apart``: (configuration, split, field) of tested rows; a row whose own value of that field stands there is left
    out, for benchmarks that cut their splits through shared passages. ``stock``: fields that hold one of a few fixed
    sentences, in tested rows as in these; that they are shared says nothing.
    """

    dataset: str
    configs: tuple[str, ...]
    splits: tuple[str, ...]
    fields: Fields
    render: Callable[[str, Mapping[str, Any]], str]
    domain: str
    language: str = "English"
    apart: tuple[tuple[str, str, str], ...] = ()
    stock: tuple[str, ...] = ()

    def places(self, data: DataSource) -> list[tuple[str, str]]:
        """(configuration, split) of everything that is read. Raises DataError when the data lacks the dataset."""
        known = data.configs(self.dataset)
        wanted = [config for config in known if not self.configs or config in self.configs]
        return [(config, split) for config in wanted if (split := self._split(data, config))]

    def lacking(self, data: DataSource) -> str:
        """What ``data`` lacks; empty when the rows can be read, or where that shows only when they are."""
        if data.name == "hub":
            return ""
        configs = data.configs(self.dataset) if data.has(self.dataset) else []
        if not data.has(self.dataset) or (self.configs and not set(self.configs) & set(configs)):
            what = "/".join((self.dataset, *self.configs[:1]))
            return f"data {data.name!r} has no {what}"
        if not self.places(data):
            found = sorted({split for config in self.configs or configs for split in data.splits(self.dataset, config)})
            return f"data {data.name!r} has only {' and '.join(found)} of {self.dataset}, which is what is tested"
        return ""

    def texts(self, data: DataSource) -> tuple[list[str], str]:
        """Every row as text, and where they are from. Raises DataError when there are none."""
        places, tested = self.places(data), self._tested(data)
        texts, left_out, read = [], 0, [split for _, split in places]
        for config, split in places:
            rows = data.rows(self.dataset, config, split, self.fields)
            kept = _apart(rows, tested)
            left_out += len(rows) - len(kept)
            texts += [self._rendered(config, split, row) for row in kept]
        if not texts:
            lacking = self.lacking(data) or "no row to calibrate on"
            raise DataError(f"calibration text of {self.dataset}", lacking, expected=f"{' or '.join(self.splits)} rows")
        parts = self.configs[0] if len(self.configs) == 1 else f"{len(read)} configurations"
        origin = f"{self.dataset} {parts}, split {' and '.join(sorted(set(read)))}"
        return texts, origin + (f", less {left_out} rows whose text is tested" if left_out else "")

    def rows(self, data: DataSource) -> list[Row]:
        """The rows themselves, in their order. Raises DataError when the data lacks the dataset."""
        tested = self._tested(data)
        found = [data.rows(self.dataset, config, split, self.fields) for config, split in self.places(data)]
        return _apart([row for rows in found for row in rows], tested)

    def _rendered(self, config: str, split: str, row: Row) -> str:
        try:
            return self.render(config, row)
        except (ValueError, AttributeError, TypeError, IndexError) as error:
            where = f"{self.dataset}/{config}/{split}"
            raise DataError(
                where, f"a row that cannot be shown ({error})", expected="the benchmark's schema"
            ) from error

    def _split(self, data: DataSource, config: str) -> str:
        there = data.splits(self.dataset, config)
        return next((split for split in self.splits if split in there), "")

    def _tested(self, data: DataSource) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for config, split, field in self.apart:
            if data.has(self.dataset, config, split) and split in data.splits(self.dataset, config):
                rows: Sequence[Row] = data.rows(self.dataset, config, split, {field: str})
                found.setdefault(field, set()).update(row[field] for row in rows)
        return found


def _apart(rows: Sequence[Row], tested: Mapping[str, Collection[str]]) -> list[Row]:
    return [row for row in rows if not any(row.get(field) in values for field, values in tested.items())]


@runtime_checkable
class Teaching(Protocol):
    """A task that has rows to learn from beside those it asks."""

    @property
    def lessons(self) -> Lessons:
        """Where they lie and how they read."""


def stock_of(task: object) -> tuple[str, ...]:
    """Fields of a task's rows that hold one of a few fixed sentences."""
    asked = getattr(task, "of", None)
    if asked is not None:  # it scores what another task asks
        return stock_of(asked)
    return task.lessons.stock if isinstance(task, Teaching) else ()
