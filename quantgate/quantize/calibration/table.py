"""The table of calibration sources: what ``--calibration`` can name.

Rows of our own are the bundled dialogues, three corpora, Alpaca-GPT4, random tokens, and the rows beside the test split
of every task that has any, under the task's name. Beyond the table a name may be a file of the user's or a mixture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from quantgate.core.errors import UsageError
from quantgate.core.naming import same_name, suggestion
from quantgate.core.registry import rows_of, with_packages
from quantgate.quantize.calibration.protocol import CalibrationSource
from quantgate.quantize.calibration.texts import (
    Dialogues,
    Instructions,
    LearnedRows,
    OwnText,
    RandomTokens,
    RunningText,
    parse_mixture,
)
from quantgate.tasks.lessons import Teaching
from quantgate.tasks.table import TASKS

GROUP: Final = "quantgate.calibrations"
"""Entry point group by which other packages add rows: sources, or lists of them."""
DIALOGUES: Final = Dialogues()
CORPORA: Final = (
    RunningText("wikitext2", "English encyclopedia", "Salesforce/wikitext", "wikitext-2-raw-v1", "text", "\n\n"),
    RunningText("ptb", "English news", "ptb-text-only/ptb_text_only", "penn_treebank", "sentence", " "),
    RunningText("c4", "English web text", "allenai/c4", "en", "text", "\n\n"),
)


def _own() -> Iterator[CalibrationSource]:
    yield DIALOGUES
    yield from CORPORA
    yield Instructions("alpaca_gpt4", "vicgalle/alpaca-gpt4")
    yield RandomTokens()
    seen: set[str] = set()
    for task in TASKS.values():
        if not isinstance(task, Teaching):
            continue
        shown = _shown(task)
        if shown not in seen:  # variants of one benchmark by metric show the same rows
            seen.add(shown)
            yield LearnedRows(task.id, task.lessons)


def _shown(task: Teaching) -> str:
    lessons = task.lessons
    return f"{lessons.dataset} {lessons.configs} {lessons.domain}"


def _name(source: CalibrationSource) -> str:
    return source.name


SOURCES: Final[dict[str, CalibrationSource]] = with_packages(
    lambda: rows_of(GROUP, CalibrationSource, _own(), _name), lambda: {source.name: source for source in _own()}
)


def check_table() -> None:
    """Raise UsageError for a row that reports and case ids could not name."""
    for name in SOURCES:
        if not re.fullmatch(r"[a-z][a-z0-9_.-]*", name):
            raise UsageError(
                f"calibration source {name!r}",
                "a name that case ids cannot hold",
                expected="lower-case letters, digits, '_', '-' and '.'",
            )


check_table()


def source_called(name: str) -> CalibrationSource:
    """The source that ``--calibration`` names: a row (``ceval:stem`` is ``ceval_stem``), a file, or a mixture.

    Raises:
        UsageError: there is none; names the closest.
    """
    file = re.fullmatch(r"(?P<path>.+\.(?:txt|jsonl))(?::(?P<field>[^:/\\]+))?", name)
    if file and "+" not in name:
        return _file(Path(file["path"]), file["field"] or "")
    if "+" in name:
        return parse_mixture(name, source_called)
    found = same_name(name.replace(":", "_"), SOURCES)
    if found is None:
        shown = [*(each for each in SOURCES if "_" not in each or each.startswith(name[:4])), "FILE.txt"]
        raise UsageError("--calibration", f"unknown set {name!r}", hint=suggestion(name, shown))
    return SOURCES[found]


def _file(path: Path, field: str) -> OwnText:
    if not path.is_file():
        raise UsageError(f"--calibration {path}", "no such file", expected="a text or a JSON lines file")
    if path.suffix == ".txt" and field:
        raise UsageError(f"--calibration {path}:{field}", "a field of a plain text", expected="FILE.jsonl:FIELD")
    return OwnText(path, field or ("text" if path.suffix == ".jsonl" else ""))
