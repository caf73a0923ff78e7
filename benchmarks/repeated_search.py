"""How often a recipe that a search chose and confirmed fails on a third part of the items, over many splits.

Every mixture of the frontier is made and asked once, on all items. A split (by seed) is a third to search, a third to
confirm, a third that nobody has looked at; `quantgate.diagnosis.search.search` itself chooses, from the verdicts of the
policy on these items, so that a hundred splits cost what one does. The margin is the mean of all items of the mixture
in the middle of the frontier (``--margin middle``), the hardest place, or the policy's. Estimates are read from the
first items, which are the same for every split.

    python benchmarks/repeated_search.py --methods rtn3,rtn4,rtn8 --points 4 --splits 100      # an hour on two cores
    python benchmarks/repeated_search.py --methods rtn3,rtn4,rtn8 --model DIR --splits 100     # minutes, a small model
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from quantgate import search as command
from quantgate.cli import StderrProgress
from quantgate.core.progress import Silent
from quantgate.diagnose import evaluation_of
from quantgate.diagnosis.frontier import Group, Mix, as_method, frontier
from quantgate.diagnosis.search import Judged, search
from quantgate.diagnosis.segments import segments_of
from quantgate.diagnosis.sensitivity import Sensitivities
from quantgate.quantize.base import Method
from quantgate.quantize.catalogue.methods import get_methods
from quantgate.quantize.catalogue.recipe import NONE
from quantgate.subjects.spec import spec_of
from quantgate.tasks.data import BUNDLED_DATA, open_data
from quantgate.tasks.table import select_tasks
from quantgate.verdict.evidence import Evidence, conclude
from quantgate.verdict.policy import Margin


def asked(args: argparse.Namespace) -> tuple[list[Group], list[Mix], dict[str, Evidence], Sequence[Any]]:
    """The frontier without 16 bit, what every mixture of it answered, by its id, and the items."""
    progress = StderrProgress()
    data = open_data(args.data, BUNDLED_DATA, offline=args.offline)
    [task] = select_tasks(args.tasks or ["kld_prose"], data, progress.note)
    evaluation = evaluation_of(args, [task], data, progress, args.policy, baselines=False)
    subjects = [evaluation.subject(method) for method in get_methods(args.methods)]
    evaluation.release()
    reference = evaluation.model.load("float32", args.device)
    items = evaluation.asked(task)
    segments = segments_of(task.id, items.part(range(min(args.segments, len(items.items)))), args.length, reference)
    groups = Sensitivities(evaluation, segments, reference, args.probes, args.seed).of(subjects)
    del reference
    mixes = [mix for mix in frontier(groups, args.points) if mix.uniform != NONE]
    found = {}
    for mix in mixes:
        method = as_method(groups, mix)
        evaluation.result(method, task)
        evaluation.release()
        found[method.id] = evaluation.evidence[spec_of(method).on(task.id)]
    return groups, mixes, found, items.items


def on(evidence: Evidence, places: Sequence[int]) -> Judged:
    """The verdict on some of the items, in their order."""
    reference = tuple(evidence.reference[place] for place in places)
    subject = tuple(evidence.subject[place] for place in places)
    judgement = conclude(replace(evidence, reference=reference, subject=subject)).judgement
    return Judged({evidence.rule.task: judgement.verdict}, {evidence.rule.task: judgement.reason})


def thirds(items: Sequence[Any], seed: int) -> list[list[int]]:
    """Places of three parts, drawn by group as a search draws its halves."""
    order = list(dict.fromkeys(item.group for item in items))
    random.Random(seed).shuffle(order)
    side = {group: number % 3 for number, group in enumerate(order)}
    return [[place for place, item in enumerate(items) if side[item.group] == part] for part in range(3)]


def main() -> None:
    """Print what was found in how many splits, and how the confirmed ones did on the third part."""
    parser = argparse.ArgumentParser(description=__doc__)
    command.add_arguments(parser)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--margin", choices=("middle", "policy"), default="middle")
    args = parser.parse_args()
    groups, mixes, evidence, items = asked(args)
    means = {name: sum(o.score or 0.0 for o in each.subject) / len(items) for name, each in evidence.items()}
    if args.margin == "middle":
        amount = sorted(means.values())[len(means) // 2]
        evidence = {
            name: replace(each, rule=replace(each.rule, margin=Margin("absolute", amount), stake=0.0))
            for name, each in evidence.items()
        }
    limit = next(iter(evidence.values())).rule.margin.amount

    def judge(places: Sequence[int]) -> Callable[[Method], Judged]:
        return lambda method: on(evidence[method.id], places)

    counts: Counter[str] = Counter()
    for seed in range(args.splits):
        here, apart, third = thirds(items, seed)
        found = search(groups, mixes, judge(here), judge(apart), args.evaluations, Silent())
        if found.chosen is None or found.confirmed is None:
            counts["none passes"] += 1
            continue
        name = as_method(groups, mixes[found.chosen]).id
        truly = "loses more than the margin" if means[name] > limit else "keeps the margin"
        kind = "confirmed" if found.confirmed.passes else "not confirmed"
        verdict = next(iter(on(evidence[name], third).verdicts.values()))
        counts[kind] += 1
        counts[f"{kind}, {truly} over all items"] += 1
        counts[f"{kind}, third part: {verdict}"] += 1
    print(f"{args.splits} splits of {len(items)} items in three, {len(mixes)} mixtures, margin {limit:.3g}")
    for mix in mixes:
        name = as_method(groups, mix).id
        print(f"  {mix.bits:7.3f} bits  mean {means[name]:.3g}  {name}")
    for what, count in sorted(counts.items()):
        print(f"{count:5}  {what}")


if __name__ == "__main__":
    main()
