"""The smallest recipe that passes a policy: a frontier of mixtures, the verdict as the judge, one confirmation.

The items of every task are split by a seed. Verdicts on one half choose; the recipe that is chosen is judged once on
the other half, of which nothing so far has seen an item. What is chosen because it did well on some items looks better
on them than it is, so that the first verdict alone says "pass" too often; the second one errs as often as any verdict.
"""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from quantgate.core.errors import UsageError
from quantgate.core.items import Item
from quantgate.core.progress import Progress
from quantgate.core.records import Result
from quantgate.diagnosis.frontier import Group, Mix, as_method
from quantgate.quantize.base import Method
from quantgate.quantize.catalogue.recipe import NONE
from quantgate.runs.evaluation import Evaluation
from quantgate.tasks.base import Task

SCHEMA: Final = 1
PASS: Final = "pass"


def halves(items: Sequence[Item], seed: int) -> tuple[list[int], list[int]]:
    """Places of two halves of ``items``, drawn by group: what belongs together is on one side."""
    groups: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(item.group, []).append(place)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    sides: tuple[list[int], list[int]] = ([], [])
    for group in order:
        sides[len(sides[1]) < len(sides[0])].extend(group)
    return sorted(sides[0]), sorted(sides[1])


@dataclass(frozen=True)
class Judged:
    """What a policy says of one method on some items. ``verdicts``: by task."""

    verdicts: dict[str, str]
    reasons: dict[str, str]

    @property
    def passes(self) -> bool:
        """Whether it is shown on every task that it is close enough."""
        return bool(self.verdicts) and all(verdict == PASS for verdict in self.verdicts.values())

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"passes": self.passes}


Judge = Callable[[Method], Judged]


def judge_of(evaluation: Evaluation, tasks: Sequence[Task]) -> Judge:
    """A judge over the items that ``evaluation`` asks."""

    def judge(method: Method) -> Judged:
        results: list[Result] = [evaluation.result(method, task) for task in tasks]
        evaluation.release()
        return Judged({each.task: each.verdict for each in results}, {each.task: each.reason for each in results})

    return judge


@dataclass
class Found:
    """``judged``: verdicts on the search half, by place in ``mixes``; ``chosen``: the cheapest that passes there;
    ``confirmed``: its verdict on the other half; None where nothing passed.
    """

    mixes: Sequence[Mix]
    judged: dict[int, Judged] = field(default_factory=dict)
    chosen: int | None = None
    confirmed: Judged | None = None


def search(
    groups: Sequence[Group], mixes: Sequence[Mix], judge: Judge, confirm: Judge, most: int, progress: Progress
) -> Found:
    """Find the cheapest of ``mixes`` (fewest bytes first) that passes, and confirm it.

    Uniform mixtures first, the largest one first, until one fails; then the mixtures below the smallest that passed, by
    bisection: that more bytes never do worse is assumed there and checked nowhere, except for what is chosen. Of both,
    those are left out which another one is estimated to beat for as many bytes or fewer.

    Args:
        groups: whose methods the mixtures name.
        mixes: the frontier.
        judge: on the items of the search.
        confirm: on the items held apart; asked once.
        most: evaluations of the search at most.
        progress: told what is judged.
    """
    found = Found(mixes)

    def passes(place: int) -> bool:
        if place not in found.judged:
            progress.note(f"judging {_name(mixes[place])}, {mixes[place].bits:.3f} bits a weight")
            found.judged[place] = judge(as_method(groups, mixes[place]))
        return found.judged[place].passes

    best: int | None = None
    for place in reversed(undominated(mixes, [at for at, mix in enumerate(mixes) if mix.uniform not in ("", NONE)])):
        if not passes(place):
            break
        best = place
    if best is not None:
        end = best
    else:
        end = next((place for place, mix in enumerate(mixes) if mix.uniform == NONE), len(mixes))
    below = undominated(mixes, range(end))
    low, high = 0, len(below)
    while low < high and len(found.judged) < most:
        middle = (low + high) // 2
        if passes(below[middle]):
            best, high = below[middle], middle
        else:
            low = middle + 1
    found.chosen = best
    if best is not None:
        progress.note(f"confirming {_name(mixes[best])} on the items held apart")
        found.confirmed = confirm(as_method(groups, mixes[best]))
    return found


def undominated(mixes: Sequence[Mix], places: Iterable[int]) -> list[int]:
    """Those of ``places`` (ascending, so fewest bytes first) that are estimated to do less harm than all before."""
    kept: list[int] = []
    for place in places:
        if not kept or mixes[place].harm < mixes[kept[-1]].harm:
            kept.append(place)
    return kept


def _name(mix: Mix) -> str:
    return mix.uniform or f"a mixture of {', '.join(sorted(set(mix.methods)))}"


def sentence(found: Found) -> str:
    """The answer."""
    if found.chosen is None or found.confirmed is None:
        return "none of these passes"
    mix = found.mixes[found.chosen]
    what = f"{_name(mix)}, {mix.bits:.3f} bits a weight, {mix.nbytes} bytes"
    if found.confirmed.passes:
        return f"{what}: passes, and passes on the items held apart"
    verdicts = ", ".join(f"{task} {verdict}" for task, verdict in found.confirmed.verdicts.items() if verdict != PASS)
    return f"{what}: passes on the items it was chosen on, and is not confirmed on those held apart ({verdicts})"


def record_of(found: Found, groups: Sequence[Group], facts: dict[str, Any]) -> dict[str, Any]:
    """Everything, for JSON."""
    rows = []
    for place, mix in enumerate(found.mixes):
        judged = found.judged.get(place)
        rows.append(
            {
                "name": _name(mix),
                "uniform": bool(mix.uniform),
                "bits": mix.bits,
                "bytes": mix.nbytes,
                "estimated_kl": mix.harm,
                "search": judged.as_record() if judged else None,
                "chosen": place == found.chosen,
            }
        )
    return {
        "schema": SCHEMA,
        **facts,
        "groups": [list(group.modules) for group in groups],
        "frontier": rows,
        "evaluations": len(found.judged),
        "confirmation": found.confirmed.as_record() if found.confirmed else None,
        "answer": sentence(found),
    }


def lines(record: dict[str, Any]) -> Iterator[str]:
    """The record for a terminal."""
    yield f"  {'bits':>7}  {'bytes':>12}  {'estimated KL':>12}  {'search items':13}  mixture"
    for row in record["frontier"]:
        judged = row["search"]
        verdict = "-" if judged is None else "pass" if judged["passes"] else _worst(judged["verdicts"])
        mark = "*" if row["chosen"] else " "
        yield f"{mark} {row['bits']:7.3f}  {row['bytes']:12}  {row['estimated_kl']:12.4f}  {verdict:13}  {row['name']}"
    yield ""
    yield record["answer"]
    counts = ", ".join(f"{task} {search} + {apart}" for task, (search, apart) in record["items"].items())
    yield f"{record['evaluations']} evaluations; items for the search and held apart: {counts} (seed {record['seed']})"


def as_csv(record: dict[str, Any]) -> str:
    """One line a mixture."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", "uniform", "bits", "bytes", "estimated_kl", "search", "chosen"])
    for row in record["frontier"]:
        verdict = (
            "" if row["search"] is None else PASS if row["search"]["passes"] else _worst(row["search"]["verdicts"])
        )
        writer.writerow(
            [row["name"], row["uniform"], row["bits"], row["bytes"], row["estimated_kl"], verdict, row["chosen"]]
        )
    return out.getvalue()


def _worst(verdicts: dict[str, str]) -> str:
    return next(name for name in ("invalid", "regressed", "inconclusive") if name in verdicts.values())


def check_halves(task: str, sides: tuple[list[int], list[int]], fewest: float) -> None:
    """Raise UsageError for a task whose halves are too small for any pass; ``fewest``: what a pass takes at least."""
    count = min(map(len, sides))
    if count < max(2, fewest):
        needed = f"{2 * math.ceil(max(2, fewest))}" if math.isfinite(fewest) else "more than any number of"
        raise UsageError(
            f"task {task}", f"{sum(map(len, sides))} items, of which half are held apart: no verdict could be a pass",
            expected=f"{needed} items", hint="raise --limit, name another task, or a policy with a wider margin",
        )  # fmt: skip
