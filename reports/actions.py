"""Where people look when a run is a step of a GitHub workflow: the step's summary, and an annotation a red case.

Both are asked for by environment variables that GitHub sets (``GITHUB_STEP_SUMMARY``, ``GITHUB_ACTIONS``); elsewhere
nothing happens. The summary of a step may hold 1 MiB, and ten errors of a step are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from quantgate.reports import markdown
from quantgate.reports.report import Report

MOST_BYTES: Final = 1000 * 1024  # of GitHub's 1024 KiB; other steps' words need some
LEAST_BYTES: Final = 500
_MOST_ERRORS: Final = 10
_WHY: Final = "\n\n## Why\n\n"
_FOLD: Final = f"\n\n<details><summary>Why, item by item, and with what</summary>{_WHY}"
_END: Final = "\n</details>\n"
_CUT: Final = "\n\n(The rest did not fit here: see report.md among the files of the run.)\n"


def summary(report: Report, most: int = MOST_BYTES) -> str:
    """The report as markdown of at most ``most`` bytes: decisions and table, and everything else folded below them.

    What does not fit is cut from the end, in whole lines: first of what is folded, which stays folded.
    """
    head, _, rest = markdown.render(report).partition(_WHY)
    frame = f"{head}{_FOLD}{_END}"
    room = most - len(frame.encode())
    if len(rest.encode()) <= room:
        return f"{head}{_FOLD}{rest}{_END}"
    if room > len(_CUT.encode()):
        return f"{head}{_FOLD}{_cut(rest, room)}{_END}"
    return _cut(head, most)


def _cut(text: str, most: int) -> str:
    """Whole lines from the beginning, and a word on what is missing."""
    kept = text.encode()[: most - len(_CUT.encode())].decode(errors="ignore")
    return kept.rpartition("\n")[0] + _CUT


def errors(report: Report, red: set[str]) -> list[str]:
    """Workflow commands that show the first red cases as errors; ``red``: ids of cases that make the run red."""
    cases = [result for result in report.rows if result.key.id in red]
    shown = [_error(f"{each.key}: {each.verdict}", report.sentence(each)) for each in cases]
    more = len(shown) - _MOST_ERRORS
    return [*shown[:_MOST_ERRORS], *([f"::error::{more} more cases are red"] if more > 0 else [])]


def _error(title: str, words: str) -> str:
    return f"::error title={_property(title)}::{_data(words)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def publish(report: Report, red: set[str], variables: Mapping[str, str]) -> tuple[list[str], str]:
    """Append the summary, where there is one to append to.

    Returns:
        Lines to print, and why the summary could not be written (empty when it was, or was not asked for).
    """
    lines = errors(report, red) if variables.get("GITHUB_ACTIONS") == "true" else []
    place = variables.get("GITHUB_STEP_SUMMARY", "")
    if not place:
        return lines, ""
    try:
        path = Path(place)
        taken = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8") as file:
            file.write(summary(report, max(MOST_BYTES - taken, len(_CUT) + 1)))
    except (OSError, ValueError) as error:
        return lines, f"the step's summary could not be written ({getattr(error, 'strerror', None) or error})"
    return lines, ""
