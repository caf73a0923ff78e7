"""pytest's summary of what is not green: folded in a terminal, untouched in a log, never a word in halves."""

import io
from types import SimpleNamespace

import pytest

from quantgate.reports.failures import fold_failures

TEXT = "gptq4 on mmlu: regressed: acc fell from 90.0% to 25.5%; with 95% confidence it is at least 50.00 points worse"


def folded_report(
    nodeid="evals/test_knowledge.py::test_within_tolerance[gptq4-mmlu]", *, tty=True, verbose=0, text=TEXT
):
    report = SimpleNamespace(longrepr=text, nodeid=nodeid)
    reporter = SimpleNamespace(isatty=tty, _tw=SimpleNamespace(fullwidth=80), stats={"failed": [report]})
    config = SimpleNamespace(cwd_relative_nodeid=str, option=SimpleNamespace(verbose=verbose))
    fold_failures(reporter, config)
    return report


@pytest.fixture(autouse=True)
def _at_a_desk(monkeypatch):
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)


def test_the_sentence_is_folded_between_words():
    out, report = io.StringIO(), folded_report()
    report.longrepr.toterminal(SimpleNamespace(fullwidth=80, line=lambda text: out.write(text + "\n")))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert all(len(line) < 80 for line in lines)
    assert " ".join(" ".join(lines).split()) == str(report.longrepr) == TEXT


def test_behind_a_long_name_stands_nothing():
    assert not hasattr(folded_report().longrepr, "reprcrash")  # what pytest looks for


def test_behind_a_short_name_stand_whole_words_that_fit():
    short = folded_report("e.py::test[a-b]").longrepr.reprcrash.message
    assert short == "gptq4 on mmlu: regressed: acc fell from 90.0% to..."
    assert len(f"FAILED e.py::test[a-b] - {short}") <= 80


def test_where_pytest_cuts_nothing_neither_is_anything_here(monkeypatch):
    assert folded_report(verbose=2).longrepr.reprcrash.message == TEXT
    monkeypatch.setenv("CI", "1")
    assert folded_report().longrepr.reprcrash.message == TEXT


def test_logs_and_tracebacks_stay_as_they_are():
    assert folded_report(tty=False).longrepr == TEXT
    traceback = object()
    assert folded_report(text=traceback).longrepr is traceback
