"""A run from its first act to its exit code; the plugin's hooks only delegate to these functions.

The exit code follows from the account of the run and is set in two places: where the report is written, and once more
around everything that pytest and its plugins do, because any of them may set another one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from quantgate.errors import StoreError, UsageError
from quantgate.verdict.verify import UNFINISHED
from reports.accounting import BROKEN, GREEN, Account
from reports.collector import Collector
from reports.directory import ReportDirectory, now
from reports.environment import environment
from reports.markdown import render
from reports.picture import roofline_svg
from reports.run import Run, dumps, sealed

RUN: Final = pytest.StashKey[Run]()
COLLECTOR: Final = pytest.StashKey[Collector]()
ACCOUNT: Final = pytest.StashKey[Account]()
DIRECTORY: Final = pytest.StashKey[ReportDirectory]()


def start(config: pytest.Config) -> None:
    """An empty run. It collects in the controller only: workers send their reports there."""
    account = Account(strict=bool(config.getini("strict")))
    run = Run(account)
    config.stash[RUN], config.stash[ACCOUNT] = run, account
    config.stash[COLLECTOR] = Collector(run, account)
    config.pluginmanager.register(config.stash[COLLECTOR], "quantgate-collector")


def begin(config: pytest.Config) -> Account:
    """The first act of a run that judges cases: mark the report as unfinished. Returns the run's account.

    Raises:
        pytest.UsageError: the report's directory cannot be used, or nobody would keep account of the run.
    """
    if ACCOUNT not in config.stash:
        raise pytest.UsageError(
            "the plugin reports.plugin is switched off: without it no run is judged; drop -p no:..."
        )
    account = config.stash[ACCOUNT]
    if hasattr(config, "workerinput") or account.begun:
        return account
    account.begun = True
    if config.option.collectonly:  # a list of cases is no report
        return account
    directory = ReportDirectory(report_directory(config))
    run = config.stash[RUN]
    run.id, run.started = directory.id, directory.started
    facts = environment(config)
    try:
        directory.begin(dumps(run.as_json(facts, UNFINISHED)))
    except (StoreError, UsageError) as error:
        directory.release()
        raise pytest.UsageError(str(error)) from error
    config.stash[DIRECTORY] = directory
    if directory.interrupted:
        run.notes.append("rebuilding the report: an earlier run was interrupted while writing it")
    return account


def finish(session: pytest.Session) -> None:
    """Account for every selected case, write the report, and set the exit code."""
    config = session.config
    account = config.stash[ACCOUNT]
    if hasattr(config, "workerinput") or not account.begun:
        return
    _account_for_all(session)
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
        account.stopped = why if isinstance(why, str) else "interrupted"
    elif not config.option.collectonly:
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
    facts = environment(config)
    try:
        directory.finish(sealed(run, facts, render(run, facts), roofline_svg(list(run.efficiency.values()))))
    except StoreError as error:
        run.notes.append(f"the report could not be written: {error}")
        return _not_green()
    return code


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


def release(config: pytest.Config) -> None:
    """Let other runs have the report's directory."""
    if DIRECTORY in config.stash:
        config.stash[DIRECTORY].release()


def report_directory(config: pytest.Config) -> Path:
    """Where the reports go."""
    return Path(config.option.report_dir or config.rootpath / "reports" / "out")
