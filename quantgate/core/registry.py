"""The one way in which other packages add rows: entry points, each of which names a row or a list of rows."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from quantgate.core.errors import UsageError, translated

Row = TypeVar("Row")


def installed(group: str) -> Iterator[tuple[str, Any]]:
    """(who, row) of every entry point of ``group``, in the order of their names.

    Raises:
        UsageError: one cannot be imported.
    """
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda each: each.name):
        who = f"plugin {entry.name!r} ({entry.value})"
        # its code runs while it is imported, and may raise anything
        with translated(
            who, "cannot be imported", kind=UsageError, hint="repair or remove the package", also=(Exception,)
        ):
            found = entry.load()
        for row in found if isinstance(found, (list, tuple)) else [found]:
            yield who, row


def rows_of(group: str, kind: type, own: Iterable[Row], name_of: Callable[[Row], str]) -> dict[str, Row]:
    """Our own rows and those of installed packages, by name.

    Args:
        group: entry point group.
        kind: what a row must be: a class, or a protocol whose attributes it must have.
        own: the rows of this package.
        name_of: gives a row's name.

    Raises:
        UsageError: a package brings what is no such row, or one that is called like another.
    """
    table = {name_of(row): row for row in own}
    for who, row in installed(group):
        check_row(who, row, kind)
        if name_of(row) in table:
            raise UsageError(who, f"{name_of(row)!r} is taken", expected="a name of its own", hint="uninstall one")
        table[name_of(row)] = row
    return table


def check_row(who: str, row: Any, kind: type) -> None:
    """Raise UsageError unless ``row`` is what a row of this kind must be."""
    if not _fits(row, kind):
        raise UsageError(who, f"a {type(row).__name__}", expected=f"a {kind.__module__}.{kind.__qualname__}")


def _fits(row: Any, kind: type) -> bool:
    if not getattr(kind, "_is_protocol", False):
        return isinstance(row, kind)
    wanted = [name for name in vars(kind) if not name.startswith("_")]
    return all(hasattr(row, name) for name in wanted)
