"""Where cases are judged: the rows, and what is done with what an executor hands back."""

import importlib.metadata
from types import SimpleNamespace

import pytest

from quantgate.core.cases import CaseKey
from quantgate.core.errors import QuantgateError, UsageError
from quantgate.core.progress import Silent
from quantgate.core.words import counted
from quantgate.fixtures.case import Case
from quantgate.fixtures.executors import process, table
from quantgate.fixtures.executors.protocol import Executor, Work
from quantgate.fixtures.plan import Plan
from quantgate.fixtures.preflight import _check_executor
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.reports.payload import Payload, invalid_result
from quantgate.tasks.table import TASKS

CASE = Case(METHODS["rtn4"], TASKS["truthfulqa"])
OTHER = Case(METHODS["rtn8"], TASKS["truthfulqa"])


def record(case):
    return Payload(invalid_result(case.key, "alignment", "made up"))


class Handing:
    """An executor at work that hands back what it was made with."""

    def __init__(self, found=None, error=None):
        self.found, self.error, self.closed = found, error, 0

    def payload(self, case):
        return self.found

    def close(self):
        self.closed += 1
        if self.error:
            raise self.error


@pytest.fixture
def plan():
    """A plan as far as executors need one."""
    found = object.__new__(Plan)
    found.config = SimpleNamespace(option=SimpleNamespace(executor="theirs"), args=["evals"])
    found.progress, found.expected, found._running = Silent(), [CASE], None
    return found


def judge(plan, case):
    """What judges in this process."""
    return plan, case


def packages(monkeypatch, row):
    entry = SimpleNamespace(name="ours", value="ours:ROW", load=lambda: row)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == table.GROUP else [])


def test_this_process_judges_when_a_case_has_its_turn():
    asked = []
    running = process.ROW.begin(Work({}, [], [CASE], lambda case: asked.append(case) or record(case), print))
    assert asked == []
    assert running.payload(CASE).result.key == CaseKey("rtn4", "truthfulqa", "")
    assert asked == [CASE]
    assert running.close() is None


def test_a_package_adds_a_row_and_takes_no_name_of_ours(monkeypatch):
    row = SimpleNamespace(name="far", check=lambda options: None, begin=Handing)
    packages(monkeypatch, row)
    assert table.executor_called("far") is row
    assert isinstance(table.executor_called("process"), Executor)
    row.name = "process"
    with pytest.raises(UsageError, match="'process' is taken"):
        table.executors()
    packages(monkeypatch, SimpleNamespace(name="far"))
    with pytest.raises(UsageError, match=r"expected a .*Executor"):
        table.executors()


def test_an_unknown_row_is_refused():
    with pytest.raises(UsageError, match="unknown executor 'proces'; did you mean 'process'"):
        table.executor_called("proces")


def test_what_a_row_refuses_ends_the_command_and_so_does_what_it_raises(monkeypatch):
    def refuse(options):
        raise UsageError("--executor far", f"no cluster for {options['device']}", expected="one")

    row = SimpleNamespace(name="far", check=refuse, begin=Handing)
    packages(monkeypatch, row)
    options = SimpleNamespace(executor="far", device="cpu")
    with pytest.raises(UsageError, match="no cluster for cpu"):
        _check_executor(options)
    for raises in (lambda options: 1 / 0, lambda options: counted(2, None)):  # the latter in a line of ours
        row.check = raises
        with pytest.raises(UsageError, match=r"executor 'far': cannot be checked"):
            _check_executor(options)


def test_the_record_of_a_case_is_handed_on(plan):
    plan._running = Handing(record(CASE))
    assert plan.payload(CASE, judge) is plan._running.found


@pytest.mark.parametrize(("found", "words"), [(record(OTHER), "the record of rtn8-truthfulqa"), (None, "a NoneType")])
def test_no_other_record_passes_for_that_of_a_case(plan, found, words):
    plan._running = Handing(found)
    with pytest.raises(QuantgateError, match=f"executor 'theirs': {words}; expected the record of rtn4-truthfulqa"):
        plan.payload(CASE, judge)


def test_it_is_closed_once_and_what_goes_wrong_there_is_a_note(plan):
    plan.close()  # nothing was begun
    running = plan._running = Handing(error=OSError("gone"))
    plan.close()
    plan.close()
    assert running.closed == 1
    assert plan.progress.notes == ["executor 'theirs' did not end well: gone"]


def test_it_begins_with_the_first_case(plan, monkeypatch):
    works = []
    row = SimpleNamespace(name="theirs", check=lambda options: None)
    row.begin = lambda work: works.append(work) or Handing(record(CASE))
    packages(monkeypatch, row)
    assert plan.payload(CASE, judge).result.key == plan.payload(CASE, judge).result.key
    [work] = works
    assert (work.options["executor"], work.paths, work.cases) == ("theirs", ["evals"], [CASE])
    assert work.judge(CASE) == (plan, CASE)
