"""``quantgate diagnose METHOD|CANDIDATE``: which parts of a quantized model make it differ from its original, and how.

The subject is the one that the suite judges, from the same store. docs/diagnosis.md says what every number means.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.arguments import names, whole_number
from quantgate.core.places import BASELINES
from quantgate.core.progress import Progress
from quantgate.quantize.base import Method
from quantgate.quantize.calibration.sources import CalibrationChoice
from quantgate.quantize.catalogue.methods import METHODS, get_method
from quantgate.quantize.catalogue.recipe import load_recipe
from quantgate.runs.options import Options, Planned, Sources
from quantgate.runs.preflight import Wanted, check_methods, check_options
from quantgate.store.store import Store, default_root, write_atomically
from quantgate.subjects.candidates import parse_candidate
from quantgate.tasks.base import Selection, Task
from quantgate.tasks.data import BUNDLED_DATA, DataSource, open_data
from quantgate.tasks.table import select_tasks
from quantgate.verdict.policy_file import load_policy

if TYPE_CHECKING:
    from quantgate.runs.evaluation import Evaluation

_EPILOG: Final = "example: quantgate diagnose gptq3 --out why"
_ALL: Final = "all"
FILES: Final = ("diagnosis.json", "diagnosis.csv", "diagnosis.svg", "diagnosis.html", "diagnosis.txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; names and defaults are those of the suite's options where it has them."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("subject", metavar="METHOD|CANDIDATE", help="a row of the method table, a checkpoint, or a recipe's TOML file")
    add("--tasks", type=names, metavar="A,B", help="whose items are read (default: the carried prose)")
    add("--limit", type=whole_number(2), default=8, metavar="N", help="items of a task (default 8)")
    add("--length", type=whole_number(4), default=128, metavar="N", help="tokens of an item (default 128)")
    add("--exact", type=_count, default=5, metavar="N|all", help="units of a level that are measured (default 5)")
    add("--marginal", type=whole_number(0), default=3, metavar="N", help="those also left out of the rest (default 3)")
    add("--probes", type=whole_number(1), default=4, metavar="N", help="backward passes of the estimate (default 4)")
    add_common(parser)
    add("--out", type=Path, metavar="DIR", help=f"write {', '.join(FILES)} there")
    add("--json", action="store_true", help="everything that was found, as JSON")


def add_common(parser: argparse.ArgumentParser) -> None:
    """What commands share that quantize and ask in this process."""
    choice = CalibrationChoice()
    add = parser.add_argument
    add("--model", default="bundled", metavar="ID|DIR", help="16-bit original: 'bundled', a directory or a hub id")
    add("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    add("--device", default="cpu", metavar="NAME", help="torch device")
    add("--data", default="bundled", metavar="NAME|DIR", help="where items and calibration corpora come from")
    add("--calibration", default=choice.name, metavar="NAME", help="calibration set (docs/calibration.md)")
    add("--calibration-samples", type=whole_number(1), default=choice.n_samples, metavar="N", help="number of samples")
    add("--seed", type=whole_number(0), default=0, metavar="N", help="of every draw")
    add("--store", type=Path, metavar="DIR", help="cache of models and answers")
    add("--offline", action="store_true", help="never ask the hub")


def _count(text: str) -> int:
    return -1 if text == _ALL else whole_number(0)(text)


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Diagnose, print or write.

    Raises:
        UsageError: no such method or task, or a place that cannot be written.
        QuantgateError: see `quantgate.diagnosis.session.diagnose`.
    """
    method = subject_of(args.subject)
    data = open_data(args.data, BUNDLED_DATA, offline=args.offline)
    tasks = select_tasks(args.tasks or ["kld_prose"], data, progress.note)
    check(args, [method], data, {"--out": args.out})
    from quantgate.diagnosis.record import lines
    from quantgate.diagnosis.scan import Plan
    from quantgate.diagnosis.segments import bounded
    from quantgate.diagnosis.session import Wish, diagnose

    tasks = bounded(tasks, args.length)
    evaluation = evaluation_of(args, tasks, data, progress)
    plan = Plan(args.exact, args.marginal, args.probes, args.seed)
    record = diagnose(evaluation, method, tasks, Wish(plan, args.length), progress)
    print(json.dumps(record, indent=2) if args.json else "\n".join(lines(record)))
    if args.out is not None:
        write(record, args.out)
    return 0


def write(record: dict[str, Any], place: Path) -> None:
    """Write a diagnosis as `FILES` into the directory ``place``. Raises StoreError where that cannot be done."""
    from quantgate.diagnosis.picture import page, svg
    from quantgate.diagnosis.record import as_csv, lines

    texts = (json.dumps(record, indent=1) + "\n", as_csv(record), svg(record), page(record), "\n".join(lines(record)))
    for name, text in zip(FILES, texts, strict=True):
        write_atomically(place / name, text)


def subject_of(name: str) -> Method:
    """A row of the method table, a recipe by its file, or a candidate by its place.

    Raises:
        UsageError: it is none of them.
    """
    if name in METHODS:
        return get_method(name)
    if name.endswith(".toml"):
        return load_recipe(Path(name))
    if "=" in name:
        return parse_candidate(name)
    return parse_candidate(f"candidate={name}") if Path(name).exists() else get_method(name)


def check(args: argparse.Namespace, methods: list[Method], data: DataSource, places: dict[str, Path | None]) -> None:
    """Everything that can be wrong before a model is loaded. Raises UsageError."""
    wanted = Wanted(
        model=args.model,
        revision=args.revision,
        offline=args.offline,
        device=args.device,
        calibration=_calibration(args),
        texts={"--model": args.model, "--data": args.data},
        directories={**places, "--store": args.store or default_root()},
    )
    check_options(wanted)
    check_methods(wanted, methods, data)


def _calibration(args: argparse.Namespace) -> CalibrationChoice:
    return CalibrationChoice(args.calibration, args.calibration_samples)


def evaluation_of(
    args: argparse.Namespace,
    tasks: list[Task],
    data: DataSource,
    progress: Progress,
    policy: Path | None = None,
    *,
    baselines: bool = True,
) -> Evaluation:
    """What makes subjects and items as the suite does; loads torch. Without ``baselines`` the reference is asked."""
    from quantgate.runs.evaluation import Evaluation

    options = Options(
        model=args.model,
        revision=args.revision,
        device=args.device,
        offline=args.offline,
        selection=Selection(args.limit, args.seed),
        calibration=_calibration(args),
    )
    bundled = open_data("bundled", BUNDLED_DATA, offline=True)
    store = Store(args.store or default_root(), progress)
    root = BASELINES if baselines else store.root / "no-baselines"
    return Evaluation(options, Planned(tasks), Sources(data, bundled), store, load_policy(policy), root)
