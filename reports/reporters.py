"""Files that are written beside the report, each rendered from its content alone. Other packages add rows by the entry
point group ``quantgate.reporters``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.errors import UsageError, translated
from quantgate.core.registry import rows_of

if TYPE_CHECKING:
    from quantgate.reports.report import Report

GROUP: Final = "quantgate.reporters"


@dataclass(frozen=True)
class Reporter:
    """``file``: the name of what is written; ``render``: makes its text of report.json's content.

    ``render`` is given what the report knows, JSON types only, a number that is not finite as null. It must not change
    it. Same content, same text: a report can be checked.
    """

    name: str
    file: str
    render: Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Drawing:
    """A file of our own: ``draw`` makes its text of the report object; an empty text is no file.

    It must come out the same wherever the report is drawn again (``quantgate verify`` compares it), unless
    ``repeatable`` says that a library draws it, whose versions differ.
    """

    file: str
    draw: Callable[[Report], str]
    repeatable: bool = True


def _later(module: str, name: str) -> Callable[[Report], str]:
    """The function of a module that is imported when it draws: this one is imported while tables are made."""

    def draw(report: Report) -> str:
        text: str = getattr(importlib.import_module(f"quantgate.reports.{module}"), name)(report)
        return text

    return draw


DRAWINGS: Final = (
    Drawing("report.md", _later("markdown", "render")),
    Drawing("report.html", _later("html", "render")),
    Drawing("verdicts.svg", _later("forest", "as_svg")),
    Drawing("table.csv", _later("spreadsheet", "as_csv")),
    Drawing("table.tex", _later("spreadsheet", "as_latex")),
    Drawing("studies.tex", _later("spreadsheet", "studies_as_latex")),
    Drawing("sensitivity.csv", _later("sensitivity", "as_csv")),
    Drawing("roofline.svg", _later("picture", "roofline_svg"), repeatable=False),
    Drawing("calibration.csv", _later("shift", "cells_csv")),
    Drawing("models.csv", _later("between", "as_csv")),
    Drawing("calibration.svg", _later("shift", "heat_map"), repeatable=False),
)
_TAKEN: Final = ("report.json", "evidence.jsonl", *(row.file for row in DRAWINGS))
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def drawn(report: Report, *, repeatable: bool = False) -> tuple[dict[str, str], list[str]]:
    """File name -> text of our own files, and one sentence for each that failed: a report is not lost for a picture.

    ``repeatable``: only those that come out the same anywhere.
    """
    texts, failed = {}, []
    for row in DRAWINGS:
        if row.repeatable or not repeatable:
            try:
                texts[row.file] = row.draw(report)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a page, the verdicts are not lost for it
                failed.append(f"{row.file} was not written: {type(error).__name__}: {error}")
    return texts, failed


@cache
def reporters() -> Mapping[str, Reporter]:
    """Those of installed packages, by name.

    Raises:
        UsageError: a package brings what is no `Reporter`, one called like another, or one that would write elsewhere
            or over the report itself.
    """
    found: dict[str, Reporter] = rows_of(GROUP, Reporter, (), lambda row: row.name)
    taken = set(_TAKEN)  # some file systems know no capitals
    for row in found.values():
        if not isinstance(row.file, str) or not _FILE.fullmatch(row.file) or row.file.casefold() in taken:
            raise UsageError(f"reporter {row.name!r}", f"its file is called {row.file!r}", expected="a name of its own")
        taken.add(row.file.casefold())
    return found


def rendered(content: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """File name -> text of all reporters, and one sentence for each that failed: a report is not lost for it."""
    texts, failed = {}, []
    for row in reporters().values():
        try:
            with translated(f"reporter {row.name!r}", "made no text", kind=UsageError, also=(Exception,)):
                texts[row.file] = _text_of(row, content)
        except UsageError as error:
            failed.append(f"{row.file} was not written: {error}")
        except BaseException as error:  # noqa: BLE001 - what would end the process: the report is written all the same
            failed.append(f"{row.file} was not written: reporter {row.name!r} raised {type(error).__name__}")
    return texts, failed


def _text_of(row: Reporter, content: Mapping[str, Any]) -> str:
    """What ``row`` makes of a copy: what is sealed is what was judged. What it prints is not the gate's word."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        text = row.render(deepcopy(content))
    if type(text) is not str:
        raise UsageError(f"reporter {row.name!r}", f"made a {type(text).__name__}", expected="a text")
    text.encode("utf-8")  # raises where it holds what no file can
    return text
