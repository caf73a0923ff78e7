"""Which calibration set is in a test's own distribution: it reads the same configurations of the same data set."""

from __future__ import annotations

from quantgate.quantize.calibration.table import SOURCES
from quantgate.tasks.base import Task
from quantgate.tasks.corpora import CORPORA
from quantgate.tasks.lessons import Teaching
from quantgate.tasks.rolling import RollingTask
from quantgate.tasks.table import TASKS


def places_of(task: Task) -> set[tuple[str, str]]:
    """(data set, configuration) of what a task is about; an empty configuration stands for all of them."""
    asked = getattr(task, "of", None)
    if asked is not None:  # it scores what another task asks
        return places_of(asked)
    if isinstance(task, RollingTask):
        rows = CORPORA[task.corpus].rows
        return {(rows.dataset, rows.config)} if rows else set()
    if isinstance(task, Teaching):
        lessons = task.lessons
        return {(lessons.dataset, config) for config in lessons.configs or ("",)}
    return set()


def is_own(name: str, task: str) -> bool:
    """Whether the set called ``name`` is of the distribution that ``task`` tests (I.I.D. in paper B)."""
    source = SOURCES.get(name)
    return source is not None and bool(source.places) and set(source.places) == places_of(TASKS[task])
