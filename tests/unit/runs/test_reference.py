"""The reference's outcomes: every planned task is answered while the reference is open, each for itself."""

from types import SimpleNamespace

import pytest

from quantgate.core.errors import DataError
from quantgate.core.progress import Silent
from quantgate.runs import reference
from quantgate.runs.reference import Reference

TASKS = [SimpleNamespace(id=name) for name in ("first", "broken", "last")]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A reference whose task ``broken`` cannot be scored, and the names of what was tried."""
    tried = []

    def found(self, task):
        tried.append(task.id)
        if task.id == "broken":
            raise DataError("task 'broken'", "no rows")
        return f"outcomes of {task.id}"

    monkeypatch.setattr(Reference, "_found_or_computed", found)
    monkeypatch.setattr(reference.baselines, "unused", lambda *_: [])
    questions = SimpleNamespace(
        store=SimpleNamespace(progress=Silent()),
        planned=SimpleNamespace(tasks=TASKS),
        model=SimpleNamespace(id="tiny"),
    )
    return Reference(questions, None, tmp_path), tried


def test_a_task_that_cannot_be_scored_costs_itself_alone(asked):
    made, tried = asked
    first, broken, last = TASKS
    assert made.scored(last) == "outcomes of last"
    assert made.scored(first) == "outcomes of first"
    for _ in range(2):
        with pytest.raises(DataError, match="task 'broken': no rows"):
            made.scored(broken)
    assert tried == ["first", "broken", "last"]  # and is not tried again
