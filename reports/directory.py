"""The directory of a run's report: from the first act on it says that a run is under way, and it is no mixture.

The first act of a run replaces report.json by one that says ``unfinished`` and sets aside what an earlier run left:
until the command was found to be one that can run, after which it is removed. A refused command puts it back. The last
act writes report.json after everything else, so that whatever happens in between leaves ``unfinished`` behind. A
lock is held meanwhile: a second run that would write to the same directory is refused before it does anything.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from quantgate.core import reading
from quantgate.core.errors import StoreError, UsageError
from quantgate.reports.reporters import DRAWINGS, reporters
from quantgate.store.store import write_atomically
from quantgate.verdict.seal import EVIDENCE
from quantgate.verify import REPORT

_LOCK: Final = ".lock"
_ASIDE: Final = ".{}.before"


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class ReportDirectory:
    """See the module's docstring. ``id`` and ``started`` stand in every report of the run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = uuid.uuid4().hex
        self.started = now()
        self.interrupted = False
        """Whether an earlier run was interrupted while it wrote its report."""
        self._lock: FileLock | None = None
        ours = (row.file for row in DRAWINGS)
        self.files = (EVIDENCE, *ours, *(row.file for row in reporters().values()), REPORT)
        """In the order of writing: report.json seals the rest."""

    def begin(self, unfinished: str) -> None:
        """Take the directory: ``unfinished`` becomes its report.json, and what earlier runs left is set aside.

        Raises:
            UsageError: another run holds the directory.
            StoreError: it cannot be written.
        """
        self._take()
        leftovers = [part for name in self.files for part in self.path.glob(f".{name}.*.part")]
        self.interrupted = bool(leftovers)
        self._clear([*leftovers, *(aside for _, aside in self._asides())])
        with self._clearing():
            for name, aside in self._asides():
                if (self.path / name).exists():
                    (self.path / name).rename(aside)
        write_atomically(self.path / REPORT, unfinished)

    def settle(self) -> None:
        """The command can run: what was set aside goes. Raises StoreError when it cannot be removed."""
        self._clear([aside for _, aside in self._asides()])

    def withdraw(self) -> None:
        """The command was refused and nothing ran: what was set aside comes back.

        Raises:
            StoreError: it cannot be put back.
        """
        with self._clearing():
            (self.path / REPORT).unlink(missing_ok=True)
            for name, aside in self._asides():
                if aside.exists():
                    aside.rename(self.path / name)

    def _asides(self) -> list[tuple[str, Path]]:
        return [(name, self.path / _ASIDE.format(name)) for name in self.files]

    def _clear(self, paths: Iterable[Path]) -> None:
        with self._clearing():
            for path in paths:
                path.unlink(missing_ok=True)

    @contextmanager
    def _clearing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"report directory {self.path}", f"cannot be cleared ({error.strerror})") from error

    def _take(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / _LOCK)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                f"report directory {self.path}",
                f"another run is writing its report there{self._holder()}",
                expected="a directory for each run",
                hint="wait for it, or choose another one with --report-dir",
            ) from error
        except (OSError, NotImplementedError) as error:
            raise StoreError(
                f"report directory {self.path}",
                f"cannot be written ({getattr(error, 'strerror', None) or error})",
                hint="choose another one with --report-dir",
            ) from error
        self._lock = lock

    def _holder(self) -> str:
        run = self._run()
        return f" (started {run['started']})" if "started" in run else ""

    def _run(self) -> Mapping[str, Any]:
        """The ``run`` of the report.json that lies here; empty when there is none."""
        try:
            found = reading.read_json(self.path / REPORT, reading.MOST_RECORDS)["run"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return found if isinstance(found, dict) else {}

    def finish(self, texts: Mapping[str, str]) -> None:
        """Write the files, report.json last; an empty text is no file.

        Raises:
            StoreError: they cannot be written, or another run wrote here although this one held the lock.
        """
        foreign = self._run().get("id", self.id) != self.id
        if foreign:
            raise StoreError(
                f"report directory {self.path}",
                "another run has written its report there",
                hint="choose another one with --report-dir, and run again",
            )
        for name in self.files:
            if texts.get(name):
                write_atomically(self.path / name, texts[name])

    def release(self) -> None:
        """Let other runs have the directory."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
