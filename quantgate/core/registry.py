"""The one way in which other packages add rows: entry points, each of which names a row or a list of rows."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, TypeVar

from quantgate.core.errors import QuantgateError, UsageError, cause_of, translated

Row = TypeVar("Row")
_GUESTS: Final[set[str]] = set()  # packages that were asked for rows
_OURS: Final = "quantgate"
_FAULTS: Final[list[QuantgateError]] = []
Made = TypeVar("Made")


def with_packages(made: Callable[[], Made], alone: Callable[[], Made]) -> Made:
    """``made()``, a table with the rows of other packages; ``alone()`` where one of them cannot be used.

    Tables are made while modules are imported, where an error would be a traceback of whoever imports them. So the
    fault is kept for `check_packages`.
    """
    try:
        return made()
    except QuantgateError as error:
        _FAULTS.append(error)
        return alone()


def check_packages() -> None:
    """Raise what was found wrong with the rows of other packages; every command calls it before it does anything."""
    if _FAULTS:
        raise _FAULTS[0]


def installed(group: str) -> Iterator[tuple[str, Any]]:
    """(who, row) of every entry point of ``group``, in the order of their names.

    Raises:
        UsageError: one cannot be imported.
    """
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda each: each.name):
        who = f"plugin {entry.name!r} ({entry.value})"
        _GUESTS.add(re.split(r"[.:\s]", entry.value)[0])
        hint = "repair or remove the package"
        # its code runs while it is imported, and may raise anything
        try:
            with translated(who, "cannot be imported", kind=UsageError, hint=hint, also=(Exception,)):
                found = entry.load()
        except (KeyboardInterrupt, QuantgateError):
            raise
        except BaseException as error:  # SystemExit, and what test runners raise to skip or end
            found_ = f"it ended the process while it was imported ({cause_of(error)[0]})"
            raise UsageError(who, found_, hint=hint) from error
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
        with translated(who, "cannot be looked at", kind=UsageError, hint="mend the package", also=(Exception,)):
            check_row(who, row, kind)
            name = name_of(row)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(who, f"a row called {name!r}", expected="lower-case letters, digits, '_', '-' and '.'")
        if name in table:
            raise UsageError(who, f"{name!r} is taken", expected="a name of its own", hint="uninstall one")
        table[name] = row
    return table


_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,99}")


def told_of_guest(error: BaseException) -> str:
    """``package 'x' failed (its cause)`` where the code of a package that adds rows raised ``error``; else empty."""
    traceback: TracebackType | None = error.__traceback__
    guest = ""
    while traceback is not None:
        package = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        guest = package if package in _GUESTS and package != _OURS else guest
        traceback = traceback.tb_next
    return f"package {guest!r} failed ({cause_of(error)[0]})" if guest else ""


def check_row(who: str, row: Any, kind: type) -> None:
    """Raise UsageError unless ``row`` is what a row of this kind must be."""
    if not _fits(row, kind):
        raise UsageError(who, f"a {type(row).__name__}", expected=f"a {kind.__module__}.{kind.__qualname__}")


def _fits(row: Any, kind: type) -> bool:
    if not getattr(kind, "_is_protocol", False):
        return isinstance(row, kind)
    wanted = [name for name in vars(kind) if not name.startswith("_")]
    return all(hasattr(row, name) for name in wanted)
