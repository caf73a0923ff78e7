"""Files that are written beside the report, each rendered from its content alone. Other packages add rows by the entry
point group ``quantgate.reporters``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any, Final

from quantgate.core.errors import UsageError, translated
from quantgate.core.registry import rows_of
from quantgate.reports import markdown, shift
from quantgate.reports.picture import roofline_svg
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


DRAWINGS: Final = (
    Drawing("report.md", markdown.render),
    Drawing("roofline.svg", roofline_svg, repeatable=False),
    Drawing(shift.CSV_FILE, shift.cells_csv),
    Drawing(shift.PICTURE, shift.heat_map, repeatable=False),
)
_TAKEN: Final = ("report.json", "evidence.jsonl", *(row.file for row in DRAWINGS))


def drawn(report: Report, *, repeatable: bool = False) -> dict[str, str]:
    """File name -> text of our own files; ``repeatable``: only of those that come out the same anywhere."""
    return {row.file: row.draw(report) for row in DRAWINGS if row.repeatable or not repeatable}


@cache
def reporters() -> Mapping[str, Reporter]:
    """Those of installed packages, by name.

    Raises:
        UsageError: a package brings what is no `Reporter`, one called like another, or one that would write elsewhere
            or over the report itself.
    """
    found: dict[str, Reporter] = rows_of(GROUP, Reporter, (), lambda row: row.name)
    files = [row.file for row in found.values()]
    for row in found.values():
        plain = PurePosixPath(row.file).name == row.file and not row.file.startswith(".") and "\\" not in row.file
        if not plain or row.file in _TAKEN or files.count(row.file) > 1:
            raise UsageError(f"reporter {row.name!r}", f"its file is called {row.file!r}", expected="a name of its own")
    return found


def rendered(content: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """File name -> text of all reporters, and one sentence for each that failed: a report is not lost for it."""
    texts, failed = {}, []
    for row in reporters().values():
        try:
            with translated(f"reporter {row.name!r}", "made no text", kind=UsageError, also=(Exception,)):
                texts[row.file] = str(row.render(deepcopy(content)))  # what is sealed is what was judged
        except UsageError as error:
            failed.append(f"{row.file} was not written: {error}")
    return texts, failed
