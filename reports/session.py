"""A run from its first act to its exit code; the plugin's hooks only delegate to these functions.

The exit code follows from the account of the run and is set in two places: where the report is written, and once more
around everything that pytest and its plugins do, because any of them may set another one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest

from quantgate.core.errors import StoreError, UsageError
from quantgate.core.naming import closest
from quantgate.core.phases import whole
from quantgate.core.places import CLONE
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.reports import actions
from quantgate.reports.accounting import BROKEN, GREEN, Account
from quantgate.reports.collector import Collector
from quantgate.reports.directory import ReportDirectory, now
from quantgate.reports.environment import environment
from quantgate.reports.late import LateFailures
from quantgate.reports.report import Report
from quantgate.reports.run import Run, dumps, sealed
from quantgate.reports.usage import wrong_usage
from quantgate.store.store import default_root
from quantgate.tasks.table import TASKS
from quantgate.verify import UNFINISHED

RUN: Final = pytest.StashKey[Run]()
COLLECTOR: Final = pytest.StashKey[Collector]()
ACCOUNT: Final = pytest.StashKey[Account]()
_LIST: Final = {"--collect-only", "--co"}
"""On the command line they ask for a list, as editors do; from elsewhere they would make a gate green unseen."""
_INTERRUPTED: Final = "interrupted"
DIRECTORY: Final = pytest.StashKey[ReportDirectory]()


def start(config: pytest.Config) -> None:
    """An empty run. It collects in the controller only: workers send their reports there."""
    account = Account(strict=bool(getattr(config.option, "strict_verdicts", False)))
    run = Run(account)
    config.stash[RUN], config.stash[ACCOUNT] = run, account
    config.stash[COLLECTOR] = Collector(run, account)
    config.pluginmanager.register(config.stash[COLLECTOR], "quantgate-collector")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(LateFailures(run, config.stash[COLLECTOR].told), "quantgate-late-failures")


def begin(config: pytest.Config) -> Account:
    """The first act of a run that judges cases: mark the report as unfinished. Returns the run's account.

    Raises:
        pytest.UsageError: the report's directory cannot be used, or nobody would keep account of the run.
    """
    if ACCOUNT not in config.stash:
        raise wrong_usage(
            "the plugin quantgate.reports.plugin is switched off: without it no run is judged; drop -p no:..."
        )
    account = config.stash[ACCOUNT]
    if hasattr(config, "workerinput") or account.begun:
        return account
    account.begun = True
    if config.option.collectonly:  # a list of cases is no report
        account.listing = not _LIST.isdisjoint(config.invocation_params.args)
        return account
    directory = ReportDirectory(report_directory(config))
    run = config.stash[RUN]
    run.id, run.started = directory.id, directory.started
    facts = environment(config)
    try:
        directory.begin(dumps(run.report(facts, UNFINISHED).as_json()))
    except (StoreError, UsageError) as error:
        directory.release()
        raise wrong_usage(str(error)) from error
    config.stash[DIRECTORY] = directory
    if directory.interrupted:
        run.notes.append("rebuilding the report: an earlier run was interrupted while writing it")
    return account


def settle(config: pytest.Config) -> None:
    """The command can run: the report of the run before it goes."""
    _told(config, ReportDirectory.settle)


def withdraw(config: pytest.Config) -> None:
    """The command was refused before anything ran: the report of the run before it stays."""
    _told(config, ReportDirectory.withdraw)


def _told(config: pytest.Config, act: Callable[[ReportDirectory], None]) -> None:
    try:
        if DIRECTORY in config.stash:
            act(config.stash[DIRECTORY])
    except StoreError as error:
        raise wrong_usage(str(error)) from error


def begun(config: pytest.Config) -> bool:
    """Whether this process started a run that keeps account."""
    account = config.stash.get(ACCOUNT, None)
    return account is not None and account.begun


def finish(session: pytest.Session) -> None:
    """Account for every selected case, write the report, and set the exit code."""
    config = session.config
    account = config.stash[ACCOUNT]
    if hasattr(config, "workerinput") or not account.begun:
        return
    _account_for_all(session)
    config.stash[RUN].settle()
    code = account.exit_code(int(session.exitstatus))
    if DIRECTORY in config.stash:
        code = _write(config, code)
    account.code = code
    session.exitstatus = code


def _account_for_all(session: pytest.Session) -> None:
    """A selected case of which nothing was heard (its worker died) is invalid.

    Where the run was stopped on purpose (``-x``, Ctrl-C) the rest was not lost but not asked.
    """
    config, account = session.config, session.config.stash[ACCOUNT]
    why = session.shouldstop or session.shouldfail
    if why or session.exitstatus == pytest.ExitCode.INTERRUPTED:
        account.stopped = why if isinstance(why, str) else _INTERRUPTED
    elif config.option.collectonly:
        account.stopped = "--collect-only, which is not on the command line: see PYTEST_ADDOPTS and addopts"
    else:
        config.stash[COLLECTOR].account_for_all(_what_kept_them(config))


def _what_kept_them(config: pytest.Config) -> str:
    for option in ("setupplan", "setuponly"):  # the first one sets the second one too
        if getattr(config.option, option, False):
            return f"--{option.replace('setup', 'setup-')} runs no test"
    return "no test ran it to its end, or the worker that judged it is gone"


def _write(config: pytest.Config, code: int) -> int:
    """Write the report of a run that ends with ``code``; a gate that cannot write its evidence is not green."""
    run, directory = config.stash[RUN], config.stash[DIRECTORY]
    run.finished, run.code = now(), code
    taken = datetime.fromisoformat(run.finished) - datetime.fromisoformat(run.started)
    run.phases = whole(run.phases, taken.total_seconds())
    report = run.report(environment(config))
    try:
        directory.finish(sealed(report))
    except StoreError as error:
        run.notes.append(f"the report could not be written: {error}")
        return _not_green()
    _publish(config, report)
    return code


def _publish(config: pytest.Config, report: Report) -> None:
    """Tell a workflow that this run is a step of; what it cannot be told is noted, and changes no verdict."""
    run, reporter = config.stash[RUN], config.pluginmanager.getplugin("terminalreporter")
    red = {key.id for key in run.account.refused}
    lines, failed = actions.publish(report, red, os.environ)
    if failed:
        run.notes.append(failed)
    if reporter is not None and lines:
        if reporter._tw.width_of_current_line:  # behind a case's letter nobody reads them, and pytest loses count of it
            reporter.line("")
        for line in lines:
            reporter.line(line)


def _not_green() -> int:
    return BROKEN


def final_code(config: pytest.Config, code: int | pytest.ExitCode) -> int | pytest.ExitCode:
    """The exit code of the process, whatever was set after the report was written."""
    account = config.stash.get(ACCOUNT, None)
    if account is None or not account.begun or code != GREEN:
        return code
    if account.code is None:
        return BROKEN  # the run never came to its account
    return account.code or account.exit_code(GREEN)


def nothing_selected(config: pytest.Config) -> str:
    """What to say of a run whose plan has cases, of which ``-k``, ``-m`` and the like left none; empty for others."""
    account = config.stash[ACCOUNT]
    if not account.planned or account.selected or account.others:
        return ""
    names = list(dict.fromkeys(name for key in account.planned for name in (key.about, key.task)))
    words = [word for word in re.findall(r"[\w-]+", config.option.keyword) if word not in ("and", "or", "not")]
    close = [closest(word, names) for word in words if not any(word.casefold() in name for name in names)]
    meant = " and ".join(repr(name) for found in close for name in found)
    hint = f"did you mean {meant}?" if meant else "see -k, -m, --deselect and the paths that were given"
    if left_out := [word for word in words if word not in names and (word in TASKS or word in METHODS)]:
        options = "--tasks, with --data that holds what it reads" if left_out[0] in TASKS else "--methods"
        hint = f"{left_out[0]} is no part of this run's plan: name it in {options}"
    return f"nothing was selected of {len(account.planned)} planned cases, so nothing was judged; {hint}"


def kept_of(config: pytest.Config) -> str:
    """What an interrupted run leaves, and how to go on; empty for others."""
    if config.stash[ACCOUNT].stopped != _INTERRUPTED or "store" not in config.option:
        return ""
    place = config.option.store or default_root()
    return (
        f"interrupted: models that were quantized and answers that were given are kept in {place}; "
        "the same command goes on from there"
    )


def release(config: pytest.Config) -> None:
    """Let other runs have the report's directory."""
    if DIRECTORY in config.stash:
        config.stash[DIRECTORY].release()


def report_directory(config: pytest.Config) -> Path:
    """Where the reports go: in a clone to its top level, from elsewhere to where the command was typed."""
    return Path(config.option.report_dir or (CLONE or config.invocation_params.dir) / "reports" / "out")
