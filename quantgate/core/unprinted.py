"""Keep what a library prints past Python out of a command's output, which may be JSON."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_STDOUT: Final = 1


@contextmanager
def unprinted() -> Iterator[None]:
    """Within the block the process's standard output goes nowhere, also that of C code. Not for several threads.

    HiGHS writes a line of its own there now and then, whatever it was told.
    """
    try:
        saved = os.dup(_STDOUT)
    except OSError:  # there is none
        yield
        return
    _flush()
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # a device
            os.dup2(nowhere.fileno(), _STDOUT)
        yield
    finally:
        _flush()
        os.dup2(saved, _STDOUT)
        os.close(saved)


def _flush() -> None:
    """Write out what Python and C have held back so far."""
    with suppress(OSError, ValueError):  # closed, or no file
        sys.stdout.flush()
    with suppress(OSError, AttributeError, TypeError):  # Windows has no such handle
        ctypes.CDLL(None).fflush(None)
