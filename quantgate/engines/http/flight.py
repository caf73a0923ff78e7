"""How many questions a server is asked at a time: more as long as that is faster, fewer when it complains.

Begins with one, doubles after every few answers while answers a second grow by a tenth, and stays where they no longer
do. A complaint (429, 5xx, a time-out) halves it for good: the retries are in `quantgate.core.remote`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

MOST: Final = 64
_FEW: Final = 2  # rounds of answers before a speed is believed
_GAIN: Final = 1.1


@dataclass
class Flight:
    """``complaints``: how often the server complained so far. ``limit``: questions in flight. ``stop``: has those in
    flight end, when nobody will hear their answers."""

    complaints: Callable[[], int]
    most: int = MOST
    limit: int = 1
    settled: bool = False
    stop: Callable[[], None] = lambda: None
    _speed: float = 0.0
    _heard: int = 0
    _pace: list[float] = field(default_factory=list)

    def run(self, jobs: Sequence[Callable[[], Any]], done: Callable[[int, Any], None]) -> None:
        """Do all jobs, calling ``done(number, result)`` in this thread as they end.

        The first job that fails ends it: jobs in flight are waited for, ``done`` is called for those that succeed, and
        what the first one raised is raised.
        """
        failed: BaseException | None = None
        waiting = iter(enumerate(jobs))
        flying: dict[Future[Any], int] = {}
        with ThreadPoolExecutor(self.most, thread_name_prefix="ask") as pool, self._stopping():
            while True:
                while failed is None and len(flying) < self.limit and (following := next(waiting, None)) is not None:
                    flying[pool.submit(following[1])] = following[0]
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    number = flying.pop(future)
                    if (error := future.exception()) is not None:  # raised below, once the others have landed
                        failed = failed or error
                        continue
                    done(number, future.result())
                    self._landed()
        if failed is not None:
            raise failed

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """What interrupts this thread must not wait for answers, each of which may take minutes."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def _landed(self) -> None:
        """One more answer: go faster, slower, or on."""
        if (heard := self.complaints()) > self._heard:
            self._heard, self.limit, self.settled = heard, max(1, self.limit // 2), True
            return
        if self.settled:
            return
        self._pace.append(time.monotonic())
        if len(self._pace) <= _FEW * self.limit:
            return
        speed = (len(self._pace) - 1) / max(self._pace[-1] - self._pace[0], 1e-9)
        self._pace = []
        if speed < self._speed * _GAIN:
            self.limit, self.settled = max(1, self.limit // 2), True
        elif self.limit >= self.most:
            self.settled = True
        else:
            self._speed, self.limit = speed, min(self.most, self.limit * 2)
