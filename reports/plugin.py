"""pytest plugin 2: verdicts as outcomes, JUnit properties, the tables, report.json and report.md."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

from quantgate.errors import QuantgateError, StoreError
from quantgate.store.store import write_atomically
from quantgate.verdict.verify import EVIDENCE
from reports import waivers
from reports.collector import Collector
from reports.environment import environment
from reports.markdown import render
from reports.payload import PAYLOAD, Payload, invalid_result
from reports.picture import roofline_svg
from reports.run import Run, dumps
from reports.terminal import summarize

_RUN: Final = pytest.StashKey[Run]()
_COLLECTOR: Final = pytest.StashKey[Collector]()
_PROPERTIES: Final = (
    "metric", "n_items", "reference", "value", "delta", "ci_low", "ci_high", "confidence", "margin", "verdict",
    "reason", "waived", "items_worse", "items_better", "flips", "data_digest",
)  # fmt: skip
_REPORTS: Final = (EVIDENCE, "report.json", "report.md", "roofline.svg")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register where the reports go."""
    group = parser.getgroup("quantgate")
    group.addoption(
        "--report-dir", type=Path, metavar="DIR", help="where report.json and report.md go (default: reports/out)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start an empty run. It collects in the controller only: workers send their reports there."""
    config.stash[_RUN] = Run()
    config.stash[_COLLECTOR] = Collector(config.stash[_RUN])
    config.pluginmanager.register(config.stash[_COLLECTOR], "quantgate-collector")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the case's record on its report, as data and as JUnit properties; show our errors without a traceback."""
    report = yield
    payload = item.stash.get(PAYLOAD, None)
    if call.when == "call" and payload is not None:
        report.quantgate = payload.as_json()  # type: ignore[attr-defined]
        content = payload.result.as_json()
        # JUnit reads the properties from the report of the teardown, which copies the item's
        item.user_properties += [(name, str(content[name])) for name in _PROPERTIES]
    if call.excinfo is not None and (told := _without_source(call.excinfo.value, payload)):
        report.longrepr = told
    return report


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
    if report.passed and result.get("verdict") == "inconclusive":
        return "inconclusive", "I", ("INCONCLUSIVE", {"yellow": True})
    return None


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the reports once, in the controller."""
    config = session.config
    run = config.stash[_RUN]
    if hasattr(config, "workerinput"):
        return
    if not config.option.collectonly:
        _account_for_all(session)
    if not run.results:
        return
    facts = environment(config.rootpath, config.invocation_params.args, config.option.seed)
    target = report_directory(config)
    leftovers = [path for name in _REPORTS for path in target.glob(f".{name}.*.part")]
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    if leftovers:
        run.notes.append("rebuilding the report: an earlier run was interrupted while writing it")
    try:
        picture = roofline_svg(list(run.efficiency.values()))
        texts = (run.evidence.text, dumps(run.as_json(facts)), render(run, facts), picture)
        for name, text in zip(_REPORTS, texts, strict=True):
            if text:
                write_atomically(target / name, text)
    except StoreError as error:
        run.notes.append(f"the report could not be written: {error}")
        _not_green(session)


def _not_green(session: pytest.Session) -> None:
    """A gate that could not write its evidence must not look green."""
    session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def _account_for_all(session: pytest.Session) -> None:
    """A selected case of which nothing was heard (its worker died) is invalid, and the run is red.

    Where the run was stopped on purpose (``-x``, Ctrl-C) it is red already, and the rest was not lost but not asked.
    """
    if session.shouldstop or session.shouldfail or session.exitstatus == pytest.ExitCode.INTERRUPTED:
        return
    for case in session.config.stash[_COLLECTOR].missing():
        reason = "selected, but no verdict arrived: the worker that judged it is gone"
        session.config.stash[_RUN].add(Payload(invalid_result(*case, reason=reason)))
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def report_directory(config: pytest.Config) -> Path:
    """Where the reports go."""
    return Path(config.option.report_dir or config.rootpath / "reports" / "out")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What the run found, when it judged anything."""
    run = config.stash[_RUN]
    if run.results:
        summarize(terminalreporter, run, _shown(report_directory(config), config.rootpath))


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
