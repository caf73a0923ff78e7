"""``quantgate report RUN ...``: a run's files made again, written as others read them, or several runs side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from quantgate.core.errors import UsageError
from quantgate.core.progress import Progress
from quantgate.core.records import Result
from quantgate.reports import runs
from quantgate.reports.actions import LEAST_BYTES, summary
from quantgate.reports.beside import Row, beside
from quantgate.reports.check import check_there
from quantgate.reports.lm_eval_out import write_samples
from quantgate.reports.report import Report
from quantgate.reports.reporters import drawn
from quantgate.reports.stored import load_report
from quantgate.reports.submissions import write_submissions
from quantgate.reports.table import digits_of, number
from quantgate.runs.preflight import check_writable
from quantgate.store.store import write_atomically
from quantgate.tasks.data import BUNDLED_DATA, open_data

_EPILOG: Final = "example: quantgate report last-week/ reports/out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("runs", metavar="RUN", type=Path, nargs="+", help="report.json, or the directory it lies in")
    add("--out", type=Path, metavar="DIR", help="write the page, tables and pictures there; of several runs, runs.html")
    add("--lm-eval", type=Path, metavar="DIR", help="of one run: write results and samples there as lm-eval does")
    add(
        "--submit",
        type=Path,
        metavar="DIR",
        help="of one run: write answers there as the benchmarks' authors take them",
    )
    add("--data", metavar="DIR", help="with --submit: the run's data, for the forms that show questions")
    add(
        "--summary",
        type=int,
        metavar="BYTES",
        help="of one run: print it as markdown of at most so many bytes, what is behind the table folded (a comment on "
        "GitHub holds 65,536)",
    )
    add("--json", action="store_true", help="of several runs: as JSON")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Write the files of one run, or print several side by side.

    Raises:
        StoreError: a report cannot be read.
        UsageError: no such report, one run without a place to write to, or lm-eval's files of several.
    """
    single = len(args.runs) == 1
    places = [args.out, args.lm_eval, args.submit]
    alone = [*places[1:], args.summary is not None]
    if (single and not any((args.out, *alone))) or (not single and any(alone)):
        expected = (
            "quantgate report RUN --out DIR, --lm-eval DIR, --submit DIR or --summary BYTES, or RUN RUN ... [--out DIR]"
        )
        raise UsageError("quantgate report", "one run is written, several are compared", expected=expected)
    if args.summary is not None and args.summary < LEAST_BYTES:
        raise UsageError("--summary", str(args.summary), expected=f"{LEAST_BYTES} bytes or more")
    for option, place in zip(("--out", "--lm-eval", "--submit"), places, strict=True):
        if place is not None:
            check_writable(place, option)
    for place in args.runs:
        check_there(place)
    reports = [load_report(place) for place in args.runs]
    if args.lm_eval is not None:
        print("\n".join(map(str, write_samples(reports[0], args.lm_eval))))
    if args.submit is not None:
        data = open_data(args.data, BUNDLED_DATA, offline=True) if args.data else None
        print("\n".join(map(str, write_submissions(reports[0], args.submit, data))))
    if single:
        if args.summary is not None:
            print(summary(reports[0], args.summary), end="")
        if args.out is not None:
            _write(reports[0], args.out, progress)
        return 0
    rows = beside(reports)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_atomically(args.out / runs.FILE, runs.render(rows, reports))
    print(json.dumps([_as_record(row) for row in rows], indent=2) if args.json else "\n".join(lines(rows, reports)))
    return 0


def _write(report: Report, place: Path, progress: Progress) -> None:
    place.mkdir(parents=True, exist_ok=True)
    texts, failed = drawn(report)
    for sentence in failed:
        progress.note(sentence)
    for name, text in texts.items():
        if text:
            write_atomically(place / name, text)
            print(place / name)


def lines(rows: Sequence[Row], reports: Sequence[Report]) -> list[str]:
    """A line a case, with ``*`` where the verdicts differ, and a line on what the runs were."""
    names = [f"run {at + 1}" for at in range(len(reports))]
    table = [["", "case", *names], *(["*" * row.changed, str(row.key), *map(_cell, row.cells)] for row in rows)]
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    drawn_rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    changed = sum(row.changed for row in rows)
    told = [_run(name, report) for name, report in zip(names, reports, strict=True)]
    return [*(line.rstrip() for line in drawn_rows), *told, f"{changed} of {len(rows)} cases have another verdict"]


def _run(name: str, report: Report) -> str:
    facts = report.environment
    return f"{name}: {report.run.started}, commit {facts.get('commit') or 'none'}, {facts.get('cpu')}"


def _cell(result: Result | None) -> str:
    return "-" if result is None else f"{result.verdict} {number(result.value, digits_of(result))}"


def _as_record(row: Row) -> dict[str, Any]:
    cells = [cell and {"verdict": cell.verdict, "value": cell.value, "delta": cell.delta} for cell in row.cells]
    return {"case": str(row.key), "changed": row.changed, "runs": cells}
