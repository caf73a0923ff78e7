"""``quantgate search --methods a,b,c``: the recipe of the fewest bytes that passes the policy, confirmed on other
items.

Nothing is computed twice: quantized models, answers and estimates come from the store, so that a search that was killed
goes on where it was. docs/diagnosis.md says how it works and how often it errs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.arguments import names, whole_number
from quantgate.core.errors import PolicyError, UsageError
from quantgate.core.progress import Progress
from quantgate.diagnose import add_common, check, evaluation_of
from quantgate.quantize.base import Method
from quantgate.quantize.catalogue.methods import NO_WEIGHTS, get_methods
from quantgate.store.store import write_atomically
from quantgate.tasks.base import Task
from quantgate.tasks.data import BUNDLED_DATA, DataSource, open_data
from quantgate.tasks.table import select_tasks
from quantgate.verdict.policy_file import load_policy
from quantgate.verdict.power import fewest_items

if TYPE_CHECKING:
    from quantgate.diagnosis.frontier import Group
    from quantgate.diagnosis.search import Found
    from quantgate.runs.evaluation import Evaluation

_EPILOG: Final = "example: quantgate search --methods rtn3,rtn4,rtn8 --tasks kld_prose,mmlu_cloze --out found"
FILES: Final = ("search.json", "frontier.csv", "frontier.svg", "search.txt", "recipe.toml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; names and defaults are those of the suite's options where it has them."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--methods", type=names, required=True, metavar="A,B", help="rows of the method table that may be mixed")
    add("--tasks", type=names, metavar="A,B", help="what has to pass (default: kld_prose)")
    add("--policy", type=Path, metavar="FILE", help="the margins (default: those of the suite)")
    add("--limit", type=whole_number(4), metavar="N", help="items of a task, half of them held apart (default: all)")
    add("--points", type=whole_number(1), default=12, metavar="N", help="budgets that are mixed for (default 12)")
    add("--evaluations", type=whole_number(1), default=12, metavar="N", help="verdicts of the search at most")
    add("--segments", type=whole_number(1), default=8, metavar="N", help="items of a task that the estimates read")
    add("--length", type=whole_number(4), default=128, metavar="N", help="tokens of each of them")
    add("--probes", type=whole_number(1), default=4, metavar="N", help="backward passes of an estimate (default 4)")
    add_common(parser)
    add("--out", type=Path, metavar="DIR", help=f"write {', '.join(FILES)} there")
    add("--json", action="store_true", help="everything that was found, as JSON")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Search, confirm, write. The exit code is 0 when a recipe passes and is confirmed, and 1 otherwise.

    Raises:
        UsageError: an unknown method or task, methods that cannot be mixed, too few items to hold some apart.
    """
    check_policy(args.policy)
    methods = mixable(args.methods, "--methods")
    data = open_data(args.data, BUNDLED_DATA, offline=args.offline)
    tasks = select_tasks(args.tasks or ["kld_prose"], data, progress.note)
    check(args, methods, data, {"--out": args.out})
    from quantgate.diagnosis import search as searching

    sides = _sides(args, methods, tasks, data, progress)
    groups = _groups(args, methods, tasks, sides, progress)
    from quantgate.diagnosis.frontier import frontier

    mixes = frontier(groups, args.points)
    judge, confirm = (searching.judge_of(each, tasks) for each in (sides.search, sides.apart))
    found = searching.search(groups, mixes, judge, confirm, args.evaluations, progress)
    record = searching.record_of(found, groups, _facts(args, sides, tasks))
    print(json.dumps(record, indent=2) if args.json else "\n".join(searching.lines(record)))
    if args.out is not None:
        _write(args.out, record, found, groups)
    return int(not (found.confirmed and found.confirmed.passes))


def check_policy(path: Path | None) -> None:
    """Raise UsageError for a policy that cannot be read."""
    try:
        load_policy(path)
    except PolicyError as error:
        raise UsageError(error.who, error.found, expected=error.expected, hint=error.hint) from error


def mixable(wanted: list[str], who: str) -> list[Method]:
    """Rows that quantize weights layer by layer. Raises UsageError of ``who`` for any other."""
    methods = get_methods(wanted)
    for method in methods:
        more = (method.transformation, method.rotation, method.activations, method.kv_cache)
        if method.algorithm == NO_WEIGHTS or any(more):
            raise UsageError(
                f"{who} {method.id}" if who.startswith("-") else who,
                "it changes more than weights of single layers (norms, inputs, keys and values, or it rotates all)",
                expected="rows of weights alone, for example rtn3, gptq4, hqq4, nf4",
            )
    return methods


@dataclass(frozen=True)
class _Sides:
    """Evaluations over the items of the search and over those held apart; ``counts``: how many, by task."""

    search: Evaluation
    apart: Evaluation
    counts: dict[str, tuple[int, int]]


def _sides(
    args: argparse.Namespace, methods: list[Method], tasks: list[Task], data: DataSource, progress: Progress
) -> _Sides:
    from quantgate.diagnosis.search import check_halves, halves

    both = [evaluation_of(args, tasks, data, progress, args.policy, baselines=False) for _ in range(2)]
    counts = {}
    for task in tasks:
        whole = both[0].asked(task)
        split = halves(whole.items, args.seed)
        check_halves(task.id, split, fewest_items(both[0].rule(methods[0], task)))
        for evaluation, places in zip(both, split, strict=True):
            evaluation.questions.keep(task, whole.part(places))
        counts[task.id] = (len(split[0]), len(split[1]))
    return _Sides(both[0], both[1], counts)


def _groups(
    args: argparse.Namespace, methods: list[Method], tasks: list[Task], sides: _Sides, progress: Progress
) -> list[Group]:
    """Estimates on items of the search alone."""
    from quantgate.diagnosis.segments import segments_of
    from quantgate.diagnosis.sensitivity import Sensitivities

    subjects = [sides.search.subject(method) for method in methods]
    sides.search.release()
    reference = sides.search.model.load("float32", args.device)
    segments = []
    for task in tasks:
        asked = sides.search.asked(task)
        first = asked.part(range(min(args.segments, len(asked.items))))
        segments += segments_of(task.id, first, args.length, reference)
    progress.note(f"estimating the effects of {len(methods)} methods on {len(segments)} items of the search")
    return Sensitivities(sides.search, segments, reference, args.probes, args.seed).of(subjects)


def _facts(args: argparse.Namespace, sides: _Sides, tasks: list[Task]) -> dict[str, Any]:
    return {
        "model": sides.search.model.id,
        "methods": args.methods,
        "policy": sides.search.cases.policy.as_record(),
        "items": sides.counts,
        "digests": {
            task.id: [each.questions.data_digest(task) for each in (sides.search, sides.apart)] for task in tasks
        },
        "seed": args.seed,
        "probes": args.probes,
    }


def _write(place: Path, record: dict[str, Any], found: Found, groups: list[Group]) -> None:
    from quantgate.diagnosis import picture, search
    from quantgate.diagnosis.frontier import as_toml

    texts = {
        "search.json": json.dumps(record, indent=1) + "\n",
        "frontier.csv": search.as_csv(record),
        "frontier.svg": picture.frontier_svg(record),
        "search.txt": "\n".join(search.lines(record)) + "\n",
    }
    if found.chosen is not None:
        texts["recipe.toml"] = as_toml(groups, found.mixes[found.chosen], [record["answer"]])
    for name, text in texts.items():
        write_atomically(place / name, text)
