"""Collects what the reports of all cases carry, whichever worker they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.payload import Payload, invalid_result
from reports.run import Run


class Collector:
    """Files the record of every report; a case that failed without one (a crashed worker) is invalid."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.selected: set[str] = set()
        self.seen: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without workers: the selected cases."""
        self.selected |= {item.nodeid for item in session.items}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """With workers: what each of them selected."""
        self.selected |= set(ids)

    def missing(self) -> list[tuple[str, str, str]]:
        """Cases that were selected and of which nothing was heard: (method, task, dimension)."""
        unheard = sorted(self.selected - self.seen)
        return [case for nodeid in unheard if (case := case_of(nodeid.partition("@")[0]))]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Reports of all workers arrive here."""
        self.seen.add(report.nodeid)
        content = getattr(report, "quantgate", None)
        if content is not None:
            self.run.add(Payload.from_json(content))
        elif report.failed and (case := case_of(report.nodeid)):
            reason = str(report.longrepr).strip().split("\n")[-1]
            self.run.add(Payload(invalid_result(*case, reason=f"the case failed before it was judged: {reason}")))


def case_of(nodeid: str) -> tuple[str, str, str] | None:
    """(method, task, dimension) of a case's node id, or None for any other test."""
    path, _, name = nodeid.partition("::test_within_tolerance[")
    method, dash, task = name.partition("]")[0].rpartition("-")
    return (method, task, Path(path).stem.removeprefix("test_")) if dash else None
