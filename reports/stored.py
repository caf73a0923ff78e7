"""Reports that lie on disk, as the object that a run has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.cases import CaseKey
from quantgate.core.errors import StoreError
from quantgate.reports.report import Report
from quantgate.reports.run import Run
from quantgate.verdict.seal import EVIDENCE
from quantgate.verify import REPORT, UNFINISHED, Findings, as_read, read_cases, read_report

_ABSENT: Final[Mapping[str, Any]] = {  # what a report of the first format did not have
    "plan": {"selected": {}, "planned": {}, "strict": False, "stopped": ""},
    "run": {"id": "", "started": "", "finished": "", "exit": None},
    "efficiency": [],
    "texts": {},
    "notes": [],
}


def load_report(place: str | Path) -> Report:
    """The report in ``place`` (report.json, or the directory it lies in); also of an older format.

    Items that turned are known only where evidence.jsonl lies beside it. Nothing is drawn again: ``quantgate verify``
    does that.

    Raises:
        StoreError: there is no finished report, or it cannot be read.
    """
    path = Path(place)
    path = path / REPORT if path.is_dir() else path
    content = read_report(path)
    if content.get("status") == UNFINISHED:
        raise StoreError(f"report {path}", "its run did not finish", expected="a finished run", hint="run it again")
    try:
        return _report({**_ABSENT, **content}, _cases(path.with_name(EVIDENCE)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"report {path}", f"cannot be read ({error!r})", expected="report.json as a run wrote it"
        ) from error


def _cases(evidence: Path) -> Mapping[CaseKey, Mapping[str, Any]]:
    try:
        text = reading.read_bytes(evidence, reading.MOST_ROWS).decode("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, reading.Unreadable) as error:
        raise StoreError(f"evidence {evidence}", f"cannot be read ({error})") from error
    return dict(read_cases(text, Findings()))


def _report(content: Mapping[str, Any], cases: Mapping[CaseKey, Mapping[str, Any]]) -> Report:
    results = [as_read(each) for each in content["results"]]
    return Run.from_report(content, results, cases).report(content["environment"])
