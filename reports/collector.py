"""Collects what the reports of all cases carry, whichever worker they come from."""

from __future__ import annotations

import pytest

from quantgate.core.cases import CaseKey
from quantgate.reports.accounting import Account
from quantgate.reports.late import is_late
from quantgate.reports.payload import Payload, invalid_result
from quantgate.reports.run import Run


class Collector:
    """Files the record of every report; a case that failed without one (a crashed worker) is invalid."""

    def __init__(self, run: Run, account: Account) -> None:
        self.run, self.account = run, account
        self.told: dict[CaseKey, pytest.TestReport] = {}
        """The report that brought the record of a case."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without workers: the selected cases."""
        self.account.select(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """With workers: what each of them selected."""
        self.account.select(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Reports of all workers arrive here."""
        content = getattr(report, "quantgate", None)
        key = self.account.case_of(report.nodeid)
        if is_late(report):
            return
        if content is not None:
            payload = Payload.from_json(content)
            self.add(payload)
            self.told[payload.result.key] = report
        elif key is None or report.when == "teardown":
            return  # a failed teardown is red by itself and takes no verdict back
        elif report.failed:
            self.lost(key, f"the case failed before it was judged: {_last_line(report)}")
        elif report.skipped:
            self.account.excuses[key] = f"skipped ({_last_line(report)})"

    def add(self, payload: Payload) -> None:
        """File a record, in the run and in its account."""
        self.run.add(payload)
        self.account.record(payload.result.key, allowed=payload.allowed)

    def lost(self, key: CaseKey, reason: str) -> None:
        """File a case of which no verdict came as invalid."""
        self.add(Payload(invalid_result(key, self.account.planned.get(key, ""), reason=reason)))

    def account_for_all(self, why: str) -> None:
        """A selected case of which nothing was heard is invalid; ``why``: what else could have kept it."""
        for key in self.account.unjudged:
            excuse = self.account.excuses.get(key) or why
            self.lost(key, f"selected, but no verdict arrived: {excuse}")


def _last_line(report: pytest.TestReport) -> str:
    found = report.longrepr
    text = str(found[2]) if isinstance(found, tuple) else str(found)
    return text.strip().split("\n")[-1]
