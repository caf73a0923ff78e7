"""An executor: where cases are judged. This one judges them where pytest runs, and says how long each of them took."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from quantgate.fixtures.case import Case
from quantgate.fixtures.executors.protocol import Work
from quantgate.reports.payload import Payload


@dataclass(frozen=True)
class Stopwatch:
    """At work on one run."""

    work: Work

    def payload(self, case: Case) -> Payload:
        """The record of one case; another executor would wait here for what it began with in `Timed.begin`."""
        started = time.monotonic()
        payload = self.work.judge(case)
        self.work.note(f"{case.id}: judged in {time.monotonic() - started:.1f} s")
        return payload

    def close(self) -> None:
        """Nothing is held."""


class Timed:
    """The row."""

    name: ClassVar[str] = "timed"

    def check(self, options: Mapping[str, Any]) -> None:
        """It goes with every option; one that needs a cluster would raise UsageError where there is none."""

    def begin(self, work: Work) -> Stopwatch:
        """Nothing is begun before its turn."""
        return Stopwatch(work)


EXECUTOR = Timed()
