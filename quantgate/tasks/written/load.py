"""Put the tasks of files into the table of tasks, for one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from quantgate.core.errors import UsageError, translated
from quantgate.tasks.base import Task
from quantgate.tasks.corpora import CORPORA
from quantgate.tasks.table import TASKS, check_table

_ADDED: Final[list[str]] = []
_HINT: Final = "a key holds something else than lm-eval takes there"


def add_task_files(paths: Sequence[Path], note: Callable[[str], None] = lambda _: None) -> list[str]:
    """Names of the tasks that ``paths`` describe, which from now on are rows of the table; those of an earlier call
    are gone. ``note`` is told what of a file is left out.

    Raises:
        UsageError: a file describes no task, or one that is called like another.
    """
    for name in _ADDED:
        TASKS.pop(name, None)
        CORPORA.pop(name, None)
    _ADDED.clear()
    for path in paths:
        for task in _tasks_of(path, note):
            if task.id in TASKS:
                raise UsageError(
                    f"task file {path.name}", f"a task is called {task.id!r} already", expected="its own name"
                )
            check_table([task])
            TASKS[task.id] = task
            _ADDED.append(task.id)
    return list(_ADDED)


def _tasks_of(path: Path, note: Callable[[str], None]) -> list[Task]:
    # imported here: what renders their templates takes time, and few runs have such a file
    if path.suffix == ".toml":
        from quantgate.tasks.written.described import Described

        return Described(path).tasks()
    if path.suffix in (".yaml", ".yml"):
        from quantgate.tasks.written.lm_eval import LmEval

        kinds = (TypeError, AttributeError, ValueError)
        with translated(f"task file {path.name}", "cannot be read", kind=UsageError, hint=_HINT, also=kinds):
            file = LmEval(path)
            found = file.tasks()
        for each in file.notes:
            note(each)
        return found
    raise UsageError(f"task file {path.name}", f"ends in {path.suffix!r}", expected=".toml, or .yaml of lm-eval")
