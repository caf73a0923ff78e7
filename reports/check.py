"""``quantgate verify``: the command. report.md is rendered once more from the record and compared."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantgate.core.cases import CaseKey
from quantgate.core.errors import UsageError
from quantgate.core.progress import Progress
from quantgate.core.records import Result
from quantgate.core.words import say
from quantgate.reports.environment import otherwise_here
from quantgate.reports.reporters import DRAWINGS, drawn
from quantgate.reports.run import Run
from quantgate.tasks.written.load import add_task_files
from quantgate.verify import REPORT, Findings, read_report, verify


def drawn_again(
    content: Mapping[str, Any], results: Sequence[Result], cases: Mapping[CaseKey, Any]
) -> Mapping[str, str]:
    """The files beside report.json as they come out of its content and evidence.

    One that cannot be drawn again comes out empty, which no written file is: it is contradicted, not passed over.
    """
    texts, _ = drawn(Run.from_report(content, results, cases).report(content["environment"]), repeatable=True)
    return {row.file: texts.get(row.file, "") for row in DRAWINGS if row.repeatable}


def check_there(place: Path) -> None:
    """Raise UsageError for a report that is typed and not there."""
    if not place.exists():
        raise UsageError(
            f"report {place}", "no such file or directory", expected="report.json of a run, or its directory"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``quantgate verify``."""
    parser.add_argument("report", type=Path, help="report.json, or the directory it lies in")
    file_of = "the file of a task that was judged (repeatable); without it the rule of its cases is not confirmed"
    parser.add_argument("--task-file", type=Path, action="append", default=[], metavar="FILE", help=file_of)
    parser.add_argument("--json", action="store_true", help="everything that was found, as JSON")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Print what was found; 0 when the report stands, 1 when it does not.

    A report of the first format does not stand: what it decides was never sealed, so anybody may have written it.
    """
    check_there(args.report)
    add_task_files(args.task_file)
    findings = verify(args.report, drawn_again)
    if findings.differences:
        path = args.report / REPORT if args.report.is_dir() else args.report
        findings.written_with = otherwise_here(read_report(path).get("environment") or {})
    if args.json:
        say(json.dumps(findings.as_record(), indent=2))
    else:
        _tell(findings)
    return 0 if findings.stands else 1


def _tell(findings: Findings) -> None:
    if findings.unfinished:
        say(f"unfinished: {findings.unfinished}")
        return
    for difference in findings.differences:
        say(difference)
    for part in findings.unconfirmed:
        say(f"not confirmed: {part}")
    without = f", {findings.unjudged} were invalid before anything was compared" if findings.unjudged else ""
    without += f", {findings.measured} rest on measurements that cannot be made again" if findings.measured else ""
    verdicts = "verdict" if findings.confirmed == 1 else "verdicts"
    say(f"{findings.confirmed} {verdicts} confirmed, {len(findings.differences)} contradicted{without}")
    if findings.written_with:
        say(
            f"the report was written with {', '.join(findings.written_with)}: rules, wording and pictures may have "
            "changed since, and what is contradicted may be that; only the suite that wrote it can confirm it"
        )
