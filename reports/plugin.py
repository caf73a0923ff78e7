"""pytest plugin 2: verdicts as outcomes, JUnit properties, the tables, report.json and report.md."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

from quantgate.core.errors import QuantgateError
from quantgate.reports import waivers
from quantgate.reports.failures import fold_failures
from quantgate.reports.late import ALONE, OPEN
from quantgate.reports.options import add_report_options
from quantgate.reports.payload import PAYLOAD, Payload
from quantgate.reports.session import (
    ACCOUNT,
    RUN,
    final_code,
    finish,
    kept_of,
    nothing_selected,
    release,
    report_directory,
    start,
)
from quantgate.reports.terminal import Page, summarize

_PROPERTIES: Final = (
    "metric", "n_items", "reference", "value", "delta", "ci_low", "ci_high", "confidence", "margin", "verdict",
    "reason", "waived", "family", "items_worse", "items_better", "flips", "data_digest",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register where the reports go."""
    add_report_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Start an empty run."""
    start(config)
    config.pluginmanager.register(FoldedFailures(), "quantgate-folded-failures")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the case's record on its report, as data and as JUnit properties; show our errors without a traceback.

    A verdict that is not allowed is a failure, whether or not an assert said so and whatever was expected to fail.
    """
    report = yield
    payload = item.stash.get(PAYLOAD, None)
    if call.when == "call" and payload is not None:
        report.quantgate = payload.as_json()  # type: ignore[attr-defined]
        content = {**payload.result.as_json(), "family": _family_words(payload)}
        # JUnit reads the properties from the report of the teardown, which copies the item's
        others = [pair for pair in item.user_properties if pair[0] not in _PROPERTIES]  # of an attempt before a rerun
        item.user_properties[:] = others + [(name, str(content[name])) for name in _PROPERTIES]
        if not payload.allowed:
            _fail(report, waivers.sentence(payload.result))
    if call.excinfo is not None and (told := _without_source(call.excinfo.value, payload)):
        report.longrepr = told
    return report


def _family_words(payload: Payload) -> str:
    """What is known of a red case before the last case is judged."""
    if payload.result.verdict != "regressed" or payload.result.waived:
        return ""
    return OPEN if payload.allowed else "it counts by itself"


def _fail(report: pytest.TestReport, sentence: str) -> None:
    report.outcome, report.longrepr = "failed", sentence
    if hasattr(report, "wasxfail"):
        del report.wasxfail


def _without_source(error: BaseException, payload: Payload | None) -> str:
    """What a person reads of a case that is not green: its verdict, without a line of source; empty for a defect."""
    if payload is not None and isinstance(error, QuantgateError | AssertionError | pytest.fail.Exception):
        return waivers.sentence(payload.result)
    return str(error) if isinstance(error, QuantgateError) else ""


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, Any] | None:
    """``inconclusive`` and what the policy waives are outcomes of their own: neither passes nor failures."""
    result = getattr(report, "quantgate", {}).get("result", {})
    if report.passed and result.get("waived"):
        return "waived", "W", ("WAIVED", {"yellow": True})
    if report.passed and result.get("verdict") == "regressed":
        return ALONE, "R", (ALONE.upper(), {"yellow": True})
    if report.passed and result.get("verdict") == "inconclusive":
        return "inconclusive", "I", ("INCONCLUSIVE", {"yellow": True})
    return None


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report and set the exit code, once, in the controller."""
    finish(session)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Let other runs have the report's directory."""
    release(config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, int | pytest.ExitCode, int | pytest.ExitCode]:
    """The last word on the exit code: other plugins may have set another one since the report was written."""
    code = yield
    return final_code(config, code)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What the run found, when it was to judge anything."""
    run = config.stash[RUN]
    if config.stash[ACCOUNT].selected:
        summarize(terminalreporter, run.report({}), shown_path(report_directory(config), config.invocation_params.dir))
        if said := kept_of(config):
            Page(terminalreporter).line(said, yellow=True)
    elif said := nothing_selected(config):
        terminalreporter.section("quantgate")
        Page(terminalreporter).line(said)


class FoldedFailures:
    """Before anything of pytest's own summary is shown, its failures are made to fit the terminal."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> Generator[None, None, None]:
        """They are shown behind this and before what other plugins say."""
        fold_failures(terminalreporter, config)
        yield


def shown_path(path: Path, here: Path) -> str:
    """``path`` as somebody who stands in ``here`` would type it; a path far away is written in full."""
    whole = (here / path).resolve()
    relative = os.path.relpath(whole, here.resolve())
    return relative if len(relative) < len(str(whole)) else str(whole)
