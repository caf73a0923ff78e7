"""Where the time of a run goes: seconds by what was done, each without those of what it called meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

REST: Final = "everything else"
"""What no part was named for: starting, reading texts and the store, judging, writing."""


class Phases:
    """Seconds of wall time by name, of one process."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Count the block as ``what``; a block inside it counts as its own alone."""
        started = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            taken = time.perf_counter() - started
            self._spent[what] = self._spent.get(what, 0.0) + taken - self._inner.pop()
            self._inner[-1] += taken

    def taken(self) -> dict[str, float]:
        """What was counted since the last call."""
        found, self._spent = self._spent, {}
        return found


PHASES: Final = Phases()
"""Those of this process."""


def whole(phases: Mapping[str, float], total: float) -> dict[str, float]:
    """``phases``, longest first, and what is missing to ``total`` seconds, where nothing ran side by side."""
    ordered = dict(sorted(phases.items(), key=lambda pair: -pair[1]))
    rest = total - sum(phases.values())
    return {**ordered, REST: rest} if rest > 0 else ordered


def sentence(phases: Mapping[str, float]) -> str:
    """``time: 93 s: reference on mmlu 41, gptq4: quantizing 27, ...``; what took less than a second is summed up."""
    total = sum(phases.values())
    long = {what: seconds for what, seconds in phases.items() if seconds >= 1 and what != REST}
    parts = [f"{what} {seconds:.0f}" for what, seconds in long.items()]
    return f"time: {total:.0f} s: {', '.join([*parts, f'{REST} {total - sum(long.values()):.0f}'])}"
