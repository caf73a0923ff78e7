"""``quantgate tune METHOD``: does a small adapter make up for what the method loses, before or behind quantizing?

Every subject that comes of it is judged by the policy on items that the adapter's text does not share. Adapters come
from the store: what was killed, or is asked again, goes on from there. docs/compensation.md says what to make of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from quantgate.core.arguments import names, whole_number
from quantgate.core.errors import UsageError
from quantgate.core.naming import suggestion
from quantgate.core.progress import Progress
from quantgate.diagnose import add_common, check, evaluation_of
from quantgate.quantize.base import Method
from quantgate.quantize.settings import Int8Settings
from quantgate.search import check_policy, mixable
from quantgate.store.store import write_atomically
from quantgate.tasks.data import BUNDLED_DATA, open_data
from quantgate.tasks.table import select_tasks

WAYS: Final = ("before", "after", "requantized", "eora")
_EPILOG: Final = "example: quantgate tune gptq3 --tasks kld_prose --steps 60 --out tuned"
FILES: Final = ("tune.json", "tune.txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; names and defaults are those of the suite's options where it has them."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("method", metavar="METHOD", help="a row of the method table that quantizes weights alone")
    add("--ways", type=names, default=list(WAYS), metavar="A,B", help=f"of {', '.join(WAYS)} (default: all)")
    add("--tasks", type=names, metavar="A,B", help="what is judged, held out from the text (default: kld_prose)")
    add("--policy", type=Path, metavar="FILE", help="the margins (default: those of the suite)")
    add("--limit", type=whole_number(2), metavar="N", help="items of a task (default: all)")
    add("--rank", type=whole_number(1), default=8, metavar="R", help="of the adapters (default 8)")
    add("--alpha", type=_positive, default=16.0, metavar="X", help="a trained term's scale times its rank (default 16)")
    add("--steps", type=whole_number(1), default=60, metavar="N", help="of training (default 60)")
    add("--batch", type=whole_number(1), default=4, metavar="N", help="pieces of text of a step (default 4)")
    add("--length", type=whole_number(8), default=128, metavar="N", help="tokens of a piece (default 128)")
    add("--rate", type=_positive, default=3e-4, metavar="X", help="the highest learning rate (default 3e-4)")
    add("--loss", choices=("text", "original"), default="text", help="what is learned: the text, or the original's "
        "distributions over it (only for what is tuned behind quantizing)")  # fmt: skip
    add_common(parser)
    add("--out", type=Path, required=True, metavar="DIR", help=f"where the subjects, {' and '.join(FILES)} go")
    add("--json", action="store_true", help="everything that was found, as JSON")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a number above 0")
    return value


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Make, judge, write. The exit code is 0 when one of the subjects passes, and 1 otherwise.

    Raises:
        UsageError: an unknown method, way or task, or options that do not go together.
    """
    check_policy(args.policy)
    (method,) = mixable([args.method], args.method)
    _check_ways(args, method)
    _check_place(args.out)
    data = open_data(args.data, BUNDLED_DATA, offline=args.offline)
    tasks = select_tasks(args.tasks or ["kld_prose"], data, progress.note)
    check(args, [method], data, {"--out": args.out})
    from quantgate.compensation.session import compensate, lines, passes
    from quantgate.compensation.training import Budget
    from quantgate.compensation.ways import Desk

    evaluation = evaluation_of(args, tasks, data, progress, args.policy, baselines=False)
    _begin(args.out, method)
    budget = Budget(args.rank, args.alpha, args.steps, args.batch, args.length, args.rate, args.loss, args.seed)
    record = compensate(Desk(evaluation, method, budget, args.out), args.ways, tasks)
    record |= {
        "model": evaluation.model.id,
        "budget": asdict(budget),
        "text": evaluation.questions.calibration().as_record(),
        "policy": evaluation.cases.policy.as_record(),
    }
    print(json.dumps(record, indent=2) if args.json else "\n".join(lines(record)))
    _write(args.out, record, lines)
    return int(not passes(record))


def _check_ways(args: argparse.Namespace, method: Method) -> None:
    for way in args.ways:
        if way not in WAYS:
            raise UsageError("--ways", f"unknown way {way!r}", expected=", ".join(WAYS), hint=suggestion(way, WAYS))
    if len(set(args.ways)) < len(args.ways):
        raise UsageError("--ways", ",".join(args.ways), expected="each of them once")
    if args.loss == "original" and "before" in args.ways:
        raise UsageError(
            "--loss original", "the way 'before' beside it: the original has nothing to learn from itself",
            expected="--ways after, requantized, eora",
        )  # fmt: skip
    if isinstance(method.settings, Int8Settings) and (beside := [way for way in args.ways if way != "before"]):
        raise UsageError(
            method.id, f"it multiplies integers, beside which {', '.join(beside)} can put nothing",
            expected="--ways before, or a row whose weights are unpacked",
        )  # fmt: skip


def _check_place(place: Path) -> None:
    """Folders in ``place`` are replaced: refuse one that holds what no earlier command of this kind has begun."""
    try:
        foreign = sorted(each.name for each in place.iterdir()) if place.is_dir() else []
    except OSError as error:
        raise UsageError(f"--out {place}", f"cannot be read ({error.strerror})", expected="a directory") from error
    if foreign and FILES[0] not in foreign:
        raise UsageError(
            f"--out {place}", f"it holds {foreign[0]!r}, which would be in the way",
            expected=f"a directory that is empty, not there yet, or has the {FILES[0]} of an earlier command",
        )  # fmt: skip


def _begin(place: Path, method: Method) -> None:
    """Mark ``place`` as this command's, so that it may be asked again if it is killed."""
    write_atomically(place / FILES[0], json.dumps({"method": method.id, "unfinished": True}) + "\n")


def _write(place: Path, record: dict[str, Any], lines: Callable[[dict[str, Any]], Any]) -> None:
    write_atomically(place / FILES[0], json.dumps(record, indent=1) + "\n")
    write_atomically(place / FILES[1], "\n".join(lines(record)) + "\n")
