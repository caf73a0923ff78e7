"""What stands behind an option, read strictly: a bad value ends in a sentence that says what was found and expected.

For ``argparse``, which puts the option's name before the sentence; pytest's options are read by it too.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable


def whole_number(at_least: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers, of ``at_least`` that many where it is given."""
    expected = "a whole number" if at_least is None else f"a whole number of at least {at_least}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ArgumentTypeError(f"found {text!r}; expected {expected}") from None
        if at_least is not None and value < at_least:
            raise ArgumentTypeError(f"found {text!r}; expected {expected}")
        return value

    return read


def names(text: str) -> list[str]:
    """``a,b`` -> ``['a', 'b']``."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise ArgumentTypeError(f"found {text!r}, which holds an empty name; expected names with commas between them")
    return found
