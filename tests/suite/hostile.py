"""A pytest plugin that tries to talk a run green (``-p tests.suite.hostile``); ``QUANTGATE_HOSTILE`` names the way.

None of them is far-fetched: plugins skip, expect failures, rerun, soften reports and set exit codes every day.
"""

import os

import pytest


class Skip:
    """Skips every case, as a plugin for quarantined tests does."""

    def pytest_runtest_setup(self, item):
        pytest.skip("known to fail")


class Expect:
    """Expects every case to fail."""

    def pytest_collection_modifyitems(self, items):
        for item in items:
            item.add_marker(pytest.mark.xfail(reason="known to fail"))


class Swallow:
    """Calls the test and takes no assert for an answer, as `python -O` does."""

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self):
        try:
            return (yield)
        except AssertionError:
            return True


class Soften:
    """Calls every failure a pass, after everybody else has made the report."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self):
        report = yield
        report.outcome, report.longrepr = "passed", None
        return report


class Forget:
    """Loses the records on the way."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self):
        report = yield
        report.outcome, report.longrepr = "passed", None
        report.__dict__.pop("quantgate", None)
        return report


class Zero:
    """Sets the exit code to 0 when the session is over, and again behind everybody else."""

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        self.session = session
        session.exitstatus = 0

    def pytest_unconfigure(self):
        self.session.exitstatus = 0


class Deselect:
    """Keeps only the first case."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        config.hook.pytest_deselected(items=items[1:])
        del items[1:]


class Drop:
    """Keeps only the first case and tells nobody."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        del items[1:]


class Interrupt:
    """Ctrl-C behind the first case."""

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self):
        raise KeyboardInterrupt


class Stop:
    """Ends the session behind the first case, and sets the exit code to 0."""

    def pytest_runtest_logfinish(self):
        self.session.shouldstop = "enough"

    def pytest_sessionstart(self, session):
        self.session = session

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        session.exitstatus = 0


class Again:
    """Runs a failed case once more, as pytest-rerunfailures does: the first attempt's report says ``rerun``."""

    def pytest_runtest_protocol(self, item, nextitem):
        from _pytest.runner import runtestprotocol

        for last in (False, True):
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            failed = any(report.failed for report in reports)
            for report in reports:
                if report.failed and not last:
                    report.outcome = "rerun"
                item.ihook.pytest_runtest_logreport(report=report)
            if not failed:
                break
        return True


WAYS = {
    way.__name__.lower(): way
    for way in (Skip, Expect, Swallow, Soften, Forget, Zero, Deselect, Drop, Interrupt, Stop, Again)
}


def pytest_configure(config):
    config.pluginmanager.register(WAYS[os.environ["QUANTGATE_HOSTILE"]]())


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main():
    """The way "early": ends pytest before a session starts, as a plugin with a command of its own does."""
    return 0 if os.environ["QUANTGATE_HOSTILE"] == "early" else None
