"""pytest plugin 2: verdicts as outcomes, JUnit properties, the tables, report.json and report.md."""

from __future__ import annotations

import io
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantgate.efficiency.pareto import fronts
from quantgate.errors import QuantgateError, StoreError
from quantgate.store.store import write_atomically
from quantgate.verdict.verify import EVIDENCE
from reports import efficiency, waivers
from reports.environment import environment
from reports.markdown import render
from reports.payload import PAYLOAD, Payload, invalid_result
from reports.picture import roofline_svg
from reports.run import Run, dumps
from reports.table import HEADER, SUBJECT_HEADER, ordered, result_row, subject_row

_RUN: Final = pytest.StashKey[Run]()
_COLLECTOR: Final = pytest.StashKey["Collector"]()
_PROPERTIES: Final = (
    "metric", "n_items", "reference", "value", "delta", "ci_low", "ci_high", "confidence", "margin", "verdict",
    "reason", "waived", "items_worse", "items_better", "flips", "data_digest",
)  # fmt: skip
_WORDS: Final = (  # columns that hold no numbers
    "method", "task", "metric", "verdict", "storage", "calibration", "from", "model", "workload", "execution", "proxy",
    "benchmark",
)  # fmt: skip
_REPORTS: Final = (EVIDENCE, "report.json", "report.md", "roofline.svg")
_MARKUP: Final = {"pass": "green", "regressed": "red", "inconclusive": "yellow", "invalid": "red"}
_STYLES: Final = {"pass": "green", "regressed": "bold red", "inconclusive": "yellow", "invalid": "bold red"}


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
        return [case for nodeid in unheard if (case := _case_of(nodeid.partition("@")[0]))]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Reports of all workers arrive here."""
        self.seen.add(report.nodeid)
        content = getattr(report, "quantgate", None)
        if content is not None:
            self.run.add(Payload.from_json(content))
        elif report.failed and (case := _case_of(report.nodeid)):
            reason = str(report.longrepr).strip().split("\n")[-1]
            self.run.add(Payload(invalid_result(*case, reason=f"the case failed before it was judged: {reason}")))


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
    if call.excinfo is not None and isinstance(call.excinfo.value, QuantgateError):
        report.longrepr = f"{type(call.excinfo.value).__name__}: {call.excinfo.value}"
    return report


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, Any] | None:
    """``inconclusive`` and what the policy waives are outcomes of their own: neither passes nor failures."""
    result = getattr(report, "quantgate", {}).get("result", {})
    if report.passed and result.get("waived"):
        return "waived", "W", ("WAIVED", {"yellow": True})
    if report.passed and result.get("verdict") == "inconclusive":
        return "inconclusive", "I", ("INCONCLUSIVE", {"yellow": True})
    return None


def _case_of(nodeid: str) -> tuple[str, str, str] | None:
    """(method, task, dimension) of a case's node id, or None for any other test."""
    path, _, name = nodeid.partition("::test_within_tolerance[")
    method, dash, task = name.partition("]")[0].rpartition("-")
    return (method, task, Path(path).stem.removeprefix("test_")) if dash else None


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
    """The tables, the reasons of everything that is not green, and the notes."""
    run = config.stash[_RUN]
    if not run.results:
        return
    terminalreporter.section("quantgate")
    width = max(terminalreporter._tw.fullwidth, 130)
    color = terminalreporter._tw.hasmarkup
    results = ordered(run.results)
    styles = ["yellow" if result.waived else _STYLES[result.verdict] for result in results]
    terminalreporter.write(_rich(HEADER, [result_row(result) for result in results], width, color, styles))
    if run.subjects:
        rows = [subject_row(subject) for subject in run.subjects.values()]
        terminalreporter.write(_rich(SUBJECT_HEADER, rows, width, color, [""] * len(rows)))
    _efficiency(terminalreporter, run, width, color)
    for result in results:
        if result.verdict != "pass":
            terminalreporter.line(waivers.sentence(result))
    for note in run.notes:
        terminalreporter.line(f"note: {note}")
    for decision in run.decisions():
        terminalreporter.line(decision.sentence, **{_MARKUP[decision.verdict]: True})
    for line in waivers.summary(run.results):
        terminalreporter.line(line, yellow=True)
    terminalreporter.line(f"report: {_shown(report_directory(config), config.rootpath)}")


def _efficiency(terminalreporter: pytest.TerminalReporter, run: Run, width: int, color: bool) -> None:
    """Tables of memory, speed and correlations, and what no one should ship because another subject beats it."""
    for table in efficiency.tables(list(run.efficiency.values()), run.results):
        terminalreporter.line(f"{table.title}:")
        terminalreporter.write(_rich(table.header, table.rows, max(width, 240), color, [""] * len(table.rows)))
    for front in fronts(run.results):
        for line in front.lines():
            terminalreporter.line(line)


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _rich(header: tuple[str, ...], rows: list[tuple[str, ...]], width: int, color: bool, styles: list[str]) -> str:
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    numeric = {index for index, name in enumerate(header) if name not in _WORDS}
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index in numeric else "left", no_wrap=True)
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*(Text(cell) for cell in row[:-1]), Text(row[-1], style=style))
    console = Console(file=io.StringIO(), width=width, force_terminal=color, no_color=not color)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue() + "\n"
