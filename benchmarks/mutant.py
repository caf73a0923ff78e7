"""What a mutant is: see `benchmarks.mutants`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    """``before`` in ``file`` becomes ``after``; ``tests``: what pytest is called with."""

    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        first = self.before.strip().split("\n")[0]
        return (
            f"{self.file}: {first if len(first) <= 70 else first[:67] + '...'} -> {self.after.strip()[:30] or 'gone'}"
        )

    def text(self, root: Path = ROOT) -> str:
        """The file with the guard broken. Raises ValueError unless ``before`` stands in it once."""
        whole = (root / self.file).read_text(encoding="utf-8")
        if whole.count(self.before) != 1:
            raise ValueError(f"{self.file} holds {self.before!r} {whole.count(self.before)} times, not once")
        return whole.replace(self.before, self.after)


MUTANTS: list[Mutant] = []


def of(file: str, tests: str, *changes: tuple[str, str]) -> None:
    """Put down mutants of one file that the same tests should notice."""
    MUTANTS.extend(Mutant(file, before, after, tuple(tests.split())) for before, after in changes)


NEVER = "if False:"
