"""Errors a user can act on.

Every message holds four facts: who complains, what was found, what was expected, and what to do next.
They are shown without a traceback by the pytest plugin, so the text has to stand alone.
"""

from __future__ import annotations

import re
from typing import Final

from quantgate.reading import visible

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


class MethodError(QuantgateError):
    """A quantization method cannot be applied to this model with these settings."""


class PolicyError(QuantgateError):
    """The policy file holds something that is not a policy."""


class ProvenanceError(QuantgateError):
    """Two things that were to be compared do not belong together."""
