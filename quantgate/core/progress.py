"""Progress of long steps: library code reports, the caller decides how it is shown (rich bar, log line, nothing)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Progress(Protocol):
    """Where long steps report to."""

    def step(self, what: str, done: float, total: float) -> None:
        """``what`` (for example ``gptq4: quantizing blocks``) has come to ``done`` of ``total``."""

    def note(self, message: str) -> None:
        """Something the user should know although nothing failed: a rebuilt entry, a recomputed baseline."""


class Silent:
    """Reports to nobody; keeps the notes for whoever wants to read them."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def step(self, what: str, done: float, total: float) -> None:
        """Ignore the progress."""

    def note(self, message: str) -> None:
        """Keep the note."""
        self.notes.append(message)


@dataclass(frozen=True)
class Share:
    """The progress of one part of a long step, reported as that of the whole.

    The part is ``count`` pieces of ``whole``, and follows ``start`` of them.
    """

    progress: Progress
    start: int
    count: int
    whole: int

    def step(self, what: str, done: float, total: float) -> None:
        """Report how far the whole has come."""
        share = done / total if total else 1.0
        self.progress.step(what, self.start + self.count * share, self.whole)

    def note(self, message: str) -> None:
        """Pass the note on."""
        self.progress.note(message)
