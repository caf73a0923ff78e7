"""What a study is: which calibration sets meet which tests. It stands alone, so that packages can import it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quantgate.tasks.data import DataSource


@dataclass(frozen=True)
class Part:
    """Every set meets every test; without sets, each test is asked of what the run calibrates on.

    ``missing``: what belongs here and the data lacks; a part is never padded. ``together``: tests that say something
    only beside each other; where there are such, a run has to ask all of at least one of these.
    """

    sets: tuple[str, ...]
    tests: tuple[str, ...]
    missing: tuple[str, ...] = ()
    together: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Study:
    """A named study. ``parts``: what it is over the data at hand."""

    name: str
    question: str
    parts: Callable[[DataSource], Sequence[Part]]
