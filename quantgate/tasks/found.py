"""Whether a data source holds what the chosen tasks read, asked before anything is loaded.

A directory given one level too high or too low holds nothing that any task knows; then nothing would be compared but
what needs no data. So it is refused, with the directory beside it that looks right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from quantgate.core.errors import DataError, UsageError
from quantgate.tasks.base import FewShot, Placed, Task
from quantgate.tasks.data import DataSource, DirectorySource

_LOOKED_AT: Final = 500  # folders, when looking for one that was meant
_SHOWN: Final = 8


def dataset_of(task: Task) -> str:
    """Hub id of what the task reads; empty where it brings its text along."""
    return str(getattr(task, "dataset", ""))


def folder_of(dataset: str) -> str:
    """The folder of a data directory that holds ``dataset``."""
    return dataset.replace("/", "__")


def check_directory(data: DataSource, known: Iterable[str]) -> None:
    """Raise UsageError if ``data`` is a directory that holds none of the ``known`` datasets (hub ids)."""
    if not isinstance(data, DirectorySource):
        return
    folders = sorted({folder_of(dataset) for dataset in known if dataset})
    if not _held(data.root, folders):
        raise UsageError(
            f"--data {data.root}",
            f"none of the {len(folders)} datasets that tasks and calibration read is in it",
            expected=f"folders like {', '.join(folders[:3])} in {data.root.absolute()}, each <config>/<split>.jsonl",
            hint=_meant(data.root, folders) or "choose another --data",
        )


def check_tasks(tasks: Sequence[Task], data: DataSource) -> None:
    """Raise UsageError naming all ``tasks`` for which ``data`` is a directory without text."""
    if not isinstance(data, DirectorySource):
        return
    missing = [(task.id, _folder(task)) for task in tasks if dataset_of(task) and not _there(task, data)]
    if missing:
        names = ", ".join(f"{task} ({folder})" for task, folder in missing[:_SHOWN])
        names += f" and {len(missing) - _SHOWN} more" * (len(missing) > _SHOWN)
        raise UsageError(
            "--tasks",
            f"data {data.name!r} has nothing for {names}",
            expected=f"<config>/<split>.jsonl in each of these folders in {data.root.absolute()}",
            hint=_meant(data.root, [folder.partition("/")[0] for _, folder in missing])
            or "choose another --data, or other --tasks",
        )


def has_rows(task: Task, data: DataSource) -> bool:
    """Whether ``data`` has what ``task`` asks: its configuration and split where it names them, else its data set."""
    if isinstance(task, Placed):
        return task.has_rows(data)
    asked: Task | None = getattr(task, "of", None)  # it asks what another task asks
    return data.has(dataset_of(task)) if asked is None else has_rows(asked, data)


def check_examples(tasks: Sequence[Task], data: DataSource, wanted: int | None) -> None:
    """Raise UsageError naming all ``tasks`` that are to be asked behind ``wanted`` examples and have fewer."""
    if not wanted:
        return
    found: dict[str, str] = {}
    for task in tasks:
        if isinstance(task, FewShot) and task.shots == wanted:
            try:
                task.examples(data)
            except DataError as error:
                found[task.id] = f"{task.id}: {error.who}: {error.found}"
    if found:
        named = "; ".join([*found.values()][:_SHOWN]) + f"; and {len(found) - _SHOWN} more" * (len(found) > _SHOWN)
        tasks_have = "1 task has" if len(found) == 1 else f"{len(found)} tasks have"
        raise UsageError(
            f"--num-fewshot {wanted}",
            f"{tasks_have} fewer examples ({named})",
            expected=f"at least {wanted} in each",
            hint="lower --num-fewshot, or name other --tasks",
        )


def _folder(task: Task) -> str:
    parts = task.place if isinstance(task, Placed) else (dataset_of(task), "")
    return "/".join(part for part in (folder_of(parts[0]), parts[1]) if part)


def _there(task: Task, data: DirectorySource) -> bool:
    return _rows(data, dataset_of(task)) and has_rows(task, data)


def _rows(data: DirectorySource, dataset: str) -> bool:
    return any((data.root / folder_of(dataset)).glob("*/*.jsonl"))


def _held(place: Path, folders: Sequence[str]) -> int:
    return sum(any((place / folder).glob("*/*.jsonl")) for folder in folders)


def _meant(place: Path, folders: Sequence[str]) -> str:
    """A hint at the nearest directory around ``place`` that holds some of ``folders``; empty where none does."""
    place = place.absolute()
    inside = _folders(place)
    beside = [each for each in _folders(place.parent) if each != place]
    for tier in (inside, [each for folder in inside for each in _folders(folder)], place.parents[:3], beside):
        best = max(tier[:_LOOKED_AT], key=lambda each: _held(each, folders), default=place)
        if count := _held(best, folders):
            return f"did you mean --data {best}, which holds {count} of them?"
    return ""


def _folders(place: Path) -> list[Path]:
    try:
        return [each for each in sorted(place.iterdir())[:_LOOKED_AT] if each.is_dir()]
    except OSError:
        return []  # what cannot be listed cannot be suggested
