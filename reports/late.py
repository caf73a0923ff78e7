"""Regressions that only the last case settles: red alone, and confirmed by what the other cases showed.

While cases are judged, a regression that is not yet confirmed among as many as were selected is an outcome of its own.
At the end the correction runs over all of them. A case that it confirms then fails, by a second report of the same
test: pytest, JUnit, ``--lf`` and whoever else listens to reports hear of it as of any other failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import pytest

from quantgate.reports import waivers

if TYPE_CHECKING:
    from quantgate.core.cases import CaseKey
    from quantgate.reports.run import Run

ALONE: Final = "regressed alone"
OPEN: Final = "regressed alone, unless the other cases of the run confirm it"
_LATE: Final = "quantgate_late"


def is_late(report: pytest.TestReport) -> bool:
    """Whether a report says again of a case what its record already says."""
    return hasattr(report, _LATE)


class LateFailures:
    """Lets a case fail at the end of the run, in the process that keeps account.

    ``told``: the report that brought the record of a case.
    """

    def __init__(self, run: Run, told: Mapping[CaseKey, pytest.TestReport]) -> None:
        self.run, self.told = run, told

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Before anybody writes down what failed."""
        results = {result.key: result for result in self.run.results}
        for key in self.run.settle():
            earlier = self.told[key]
            self._forget(session.config, earlier)
            sentence = f"{waivers.sentence(results[key])}; alone it was open, the other cases of the run confirm it"
            for when, outcome, words in (("call", "failed", sentence), ("teardown", "passed", None)):
                report = pytest.TestReport(
                    nodeid=earlier.nodeid,
                    location=earlier.location,
                    keywords=earlier.keywords,
                    outcome=outcome,  # type: ignore[arg-type]  # the two literals above
                    longrepr=words,
                    when=when,  # type: ignore[arg-type]  # the two literals above
                    user_properties=earlier.user_properties,
                )
                setattr(report, _LATE, True)
                session.config.hook.pytest_runtest_logreport(report=report)

    def _forget(self, config: pytest.Config, earlier: pytest.TestReport) -> None:
        """A case stands once in the counts of pytest's last line."""
        reporter = config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None and earlier in reporter.stats.get(ALONE, []):
            reporter.stats[ALONE].remove(earlier)
