"""Errors a user can act on.

Every message holds four facts: who complains, what was found, what was expected, and what to do next.
They are shown without a traceback by the pytest plugin, so the text has to stand alone. What other people's libraries
raise about their input becomes such an error where they are called (`translated`); what is wrong with our own code
keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final

from quantgate.core.places import ROOMS
from quantgate.core.reading import visible

_LONGEST: Final = 4000  # letters: some libraries put a whole configuration into an error


def one_line(text: str) -> str:
    """``text`` as one line without anything that steers a terminal; the middle of what is endless is left out."""
    line = visible(re.sub(r"\s*[\r\n]\s*", " ", text))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"


class QuantgateError(Exception):
    """Something about the set-up, the input or the stored state is wrong; the message says what to do next.

    Args:
        who: the part that complains, for example ``model 'bundled'`` or ``policy.toml``.
        found: what is there.
        expected: what should be there.
        hint: what the user can do next.
    """

    def __init__(self, who: str, found: str, *, expected: str = "", hint: str = "") -> None:
        self.who, self.found, self.expected, self.hint = who, found, expected, hint
        parts = [f"{who}: {found}"]
        if expected:
            parts.append(f"expected {expected}")
        if hint:
            parts.append(hint)
        super().__init__(one_line("; ".join(parts)))

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from the four facts, so that the error survives a process boundary (xdist, multiprocessing)."""
        return (_rebuild, (type(self), self.who, self.found, self.expected, self.hint))


def _rebuild(kind: type[QuantgateError], who: str, found: str, expected: str, hint: str) -> QuantgateError:
    return kind(who, found, expected=expected, hint=hint)


class UsageError(QuantgateError):
    """An option or a combination of options is wrong (pytest exit code 4)."""


class ModelError(QuantgateError):
    """A model is missing, incomplete, or of a kind that cannot be loaded."""


class DataError(QuantgateError):
    """A data file is missing, truncated or has other fields than the benchmark's schema."""


class StoreError(QuantgateError):
    """The store cannot be read or written."""


class EngineError(QuantgateError):
    """An engine did not answer what it was asked."""


class MethodError(QuantgateError):
    """A quantization method cannot be applied to this model with these settings."""


class PolicyError(QuantgateError):
    """The policy file holds something that is not a policy."""


class ProvenanceError(QuantgateError):
    """Two things that were to be compared do not belong together."""


# --- what other people's libraries raise ----------------------------------------------------------------------------

_OURS: Final = tuple(f"{path}{os.sep}" for path in ROOMS)
_STANDARD: Final = (sysconfig.get_path("stdlib"), "<frozen ")
_SHOWN: Final = 300  # letters of a library's own words
_OF_THE_MACHINE: Final = (OSError, ImportError, MemoryError, RuntimeError)
"""What no line of ours raises by itself: files, missing packages, memory, and everything that torch finds wrong."""


@contextmanager
def translated(
    who: str,
    found: str,
    *,
    kind: type[QuantgateError] = ModelError,
    expected: str = "",
    hint: str = "",
    also: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn what a library raises inside this block into one sentence: ``who: found (its cause)``.

    A missing package and a lack of memory name themselves as the cause and say what to do instead of ``hint``. An error
    that a line of ours raised passes unchanged, so that our own mistakes keep their traceback; ``also``: but not these,
    where our lines read what somebody else wrote.

    Raises:
        QuantgateError: of ``kind``; one that is raised inside passes unchanged.
    """
    try:
        yield
    except QuantgateError:
        raise
    except Exception as error:
        if not (isinstance(error, also) or is_foreign(error)):
            raise
        cause, remedy = cause_of(error)
        raise kind(who, f"{found} ({cause})", expected=expected, hint=remedy or hint) from error


def is_foreign(error: BaseException) -> bool:
    """Whether somebody else's code raised ``error``, not a line of quantgate's.

    By the class where that says it (`_OF_THE_MACHINE`, a library's own class, or `Exception` itself as the tokenizers
    library raises it); otherwise by the frames: below our last one there is one of a library. Standard library frames
    decide nothing: they may serve either.
    """
    if isinstance(error, _OF_THE_MACHINE) and not isinstance(error, RecursionError):
        return True
    room = type(error).__module__.partition(".")[0]
    if room not in ("builtins", "quantgate") and room not in sys.stdlib_module_names:
        return True
    return type(error) is Exception or _below_ours(error.__traceback__)


def _below_ours(traceback: TracebackType | None) -> bool:
    """Whether a library's frame lies below the last of ours."""
    foreign = False
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if file.startswith(_OURS):
            foreign = False
        elif not file.startswith(_STANDARD) or "-packages" in file:
            foreign = True
        traceback = traceback.tb_next
    return foreign


def cause_of(error: BaseException) -> tuple[str, str]:
    """What ``error`` says, in words, and what helps against it where that is known whoever raised it."""
    words = _shortened(str(error).strip())
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if sys.modules.get(package) is not None:
            return f"there is no module {error.name}", ""
        return f"the package {package} is not installed", f"pip install {package}, or leave out what needs it"
    if isinstance(error, ImportError):
        return f"a package is missing or broken: {words}", "install what is named there, or leave out what needs it"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _LACK.search(words)):
        return f"there is not enough memory: {words or 'MemoryError'}", "take a machine with more, or a smaller model"
    if isinstance(error, OSError) and error.errno is not None:
        place = f": {error.filename}" if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{error.strerror}{place}", "make room on that disk, or choose another directory" if full else ""
    if isinstance(error, KeyError):
        return f"there is no {words}", ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__, ""


_LACK: Final = re.compile(r"(?i)out of memory|not enough memory|can(no|')t allocate memory")


def _shortened(words: str) -> str:
    return words if len(words) <= _SHOWN else f"{words[: _SHOWN - 1]}…"
