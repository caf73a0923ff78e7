"""A calibration study as a record: from the cases of a run to blocks, and from blocks to what report.json holds.

The verdicts of the cells stay what they are; this draws what they say together. Everything follows from the results,
the outcomes of the items and the subjects' calibration records, so `quantgate verify` can draw it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.core.records import Result
from quantgate.core.words import counted
from quantgate.quantize.calibration.sources import parse_label
from quantgate.studies.own import is_own
from quantgate.studies.shift import Block, Contrast, advice, contrast, contrasts, shares, wins
from quantgate.studies.shift_words import answer, sentence
from quantgate.tasks.table import TASKS
from quantgate.verdict.comparators.table import comparator_of
from quantgate.verdict.evidence import outcomes_from_json

Sides = Callable[[CaseKey], Mapping[str, Any] | None]
STUDY: Final = "calibration shift"
_REFERENCE: Final = "16-bit"


@dataclass(frozen=True)
class Hole:
    """A cell of the study without a score, and why."""

    method: str
    test: str
    set: str
    why: str


@dataclass(frozen=True)
class _Cell:
    result: Result
    set: str
    seed: int
    scores: Mapping[str, tuple[str, float]]
    reference: Mapping[str, float]


def shift_record(results: Sequence[Result], sides: Sides, subjects: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The study over all cases that name a calibration set; empty where there are fewer than two sets.

    ``subjects``: by their name within the run, as report.json lists them.
    """
    cells, holes = _cells(results, sides)
    if len({cell.set for cell in cells} | {hole.set for hole in holes}) < 2:
        return {}
    made = _blocks(cells, holes, subjects)
    blocks = [block for block, _ in made]
    methods = list(dict.fromkeys(block.method for block in blocks))
    found = contrasts(blocks)
    by_method = [_of_method(name, blocks, found) for name in methods]
    return {
        "study": STUDY,
        "question": "does it matter on which text a method was calibrated, and where?",
        "sets": _sets(cells, subjects),
        "matrix": [row for block, members in made for row in _matrix(block, members)],
        "contrasts": [asdict(each) for each in found],
        "wins": asdict(wins(blocks)),
        "methods": by_method,
        "holes": [asdict(hole) for hole in holes],
        "answer": answer(by_method, asdict(wins(blocks)), len(holes)),
    }


def _of_method(name: str, blocks: Sequence[Block], found: Sequence[Contrast]) -> dict[str, Any]:
    mine = [block for block in blocks if block.method == name]
    own = [each for each in found if each.method == name]
    families: dict[tuple[str, ...], list[Block]] = {}
    for block in mine:
        families.setdefault(block.sets, []).append(block)
    advised = [{"sets": list(sets), **asdict(each)} for sets, members in families.items() if (each := advice(members))]
    record = {
        "method": name,
        "tests": len(mine),
        "draws": max((block.n_draws for block in mine), default=0),
        "wins": asdict(wins(mine)),
        "shares": asdict(shares(mine)),
        "contrasts": len(own),
        "better": sum(each.adjusted <= 0.05 and each.delta > 0 for each in own),
        "worse": sum(each.adjusted <= 0.05 and each.delta < 0 for each in own),
        "advice": advised,
    }
    return {**record, "sentence": sentence(record)}


def _cells(results: Sequence[Result], sides: Sides) -> tuple[list[_Cell], list[Hole]]:
    cells, holes = [], []
    for result in results:
        if not result.calibration:
            continue
        name, seed = parse_label(result.calibration)
        outcomes = sides(result.key)
        task = TASKS.get(result.task)
        scores = _scores(outcomes["subject"]) if outcomes else {}
        if task is None or outcomes is None or not scores:
            why = result.reason if result.verdict == "invalid" else "no item has a score"
            holes.append(Hole(result.method, result.task, result.calibration, why))
            continue
        reference = {item: score for item, (_, score) in _scores(outcomes["reference"]).items()}
        cells.append(_Cell(result, name, seed, scores, reference))
    return cells, holes


def _scores(content: Any) -> dict[str, tuple[str, float]]:
    outcomes: Sequence[ItemOutcome] = outcomes_from_json(content)
    return {each.item_id: (each.group, each.score) for each in outcomes if each.score is not None}


def _blocks(
    cells: Sequence[_Cell], holes: list[Hole], subjects: Mapping[str, Mapping[str, Any]]
) -> list[tuple[Block, list[_Cell]]]:
    grouped: dict[tuple[str, str], list[_Cell]] = {}
    for cell in cells:
        grouped.setdefault((cell.result.method, cell.result.task), []).append(cell)
    found = []
    for members in grouped.values():
        sets = tuple(dict.fromkeys(cell.set for cell in members))
        seeds = [set_seeds for name in sets if (set_seeds := {cell.seed for cell in members if cell.set == name})]
        common = sorted(set.intersection(*seeds))
        kept = [cell for cell in members if cell.seed in common]
        items = _common(kept)
        if len(sets) < 2 or not common or len(items) < 2:
            why = "it stands alone: no other set was scored on the same items"
            holes += [Hole(cell.result.method, cell.result.task, cell.result.calibration, why) for cell in members]
            continue
        found.append((_block(kept, sets, common, items, subjects), kept))
    return found


def _common(cells: Sequence[_Cell]) -> list[str]:
    """Items that every cell and the reference have scored, in their order."""
    known = [cell.scores.keys() & cell.reference.keys() for cell in cells]
    shared = set.intersection(*map(set, known)) if known else set()
    return [item for item in cells[0].scores if item in shared] if cells else []


def _block(
    cells: Sequence[_Cell], sets: tuple[str, ...], seeds: Sequence[int], items: Sequence[str],
    subjects: Mapping[str, Mapping[str, Any]],
) -> Block:  # fmt: skip
    first = cells[0].result
    sign = 1.0 if first.higher_is_better else -1.0
    by = {(cell.set, cell.seed): cell for cell in cells}
    gains = np.array([[[sign * by[name, seed].scores[item][1] for item in items] for seed in seeds] for name in sets])
    groups = [cells[0].scores[item][0] for item in items]
    codes = np.unique(np.array(groups), return_inverse=True)[1].astype(np.intp)
    own = [number for number, name in enumerate(sets) if is_own(name, first.task)]
    taken = tuple(_share(subjects.get(by[name, seeds[0]].result.about, {})) for name in sets)
    unit = TASKS[first.task].metric.score_unit.strip()
    return Block(first.method, first.task, sets, gains, codes, own[0] if own else -1, _margin(first), taken, unit)


def _share(subject: Mapping[str, Any]) -> float:
    calibration = subject.get("calibration") or {}
    pool = calibration.get("pool_tokens") or 0
    return min(1.0, calibration["n_tokens"] / pool) if pool else 0.0


def _margin(result: Result) -> float:
    """The margin on the scale of the item scores: nats where the value is exp of the mean score."""
    return comparator_of(TASKS[result.task].metric).on_scores(result.margin, result.reference)


def _matrix(block: Block, cells: Sequence[_Cell]) -> list[dict[str, Any]]:
    sign = 1.0 if cells[0].result.higher_is_better else -1.0
    items = _common(cells)
    reference = np.array([sign * cells[0].reference[item] for item in items])
    rows = []
    for number, name in enumerate(block.sets):
        mine = [cell.result for cell in cells if cell.set == name]
        loss = _against_reference(block, number, reference)
        rows.append(
            {
                "method": block.method,
                "test": block.test,
                "set": name,
                "own": number == block.own,
                "metric": mine[0].metric,
                "draws": len(mine),
                "items": len(items),
                "reference": mine[0].reference,
                "value": math.fsum(each.value for each in mine) / len(mine),
                "values": [each.value for each in mine],
                "change": loss.delta,
                "low": loss.low,
                "high": loss.high,
                "margin": block.margin,
                "verdicts": [each.verdict for each in mine],
            }
        )
    return rows


def _against_reference(block: Block, number: int, reference: Any) -> Contrast:
    """The change from the 16-bit model, positive where the quantized one is better."""
    sides = np.stack([block.gains[number], np.broadcast_to(reference, block.gains[number].shape)])
    taken = (*(block.overlap[number : number + 1] or (0.0,)), 0.0)
    pair = Block(block.method, block.test, (block.sets[number], _REFERENCE), sides, block.codes, overlap=taken)
    return contrast(pair, 0, 1)


def _sets(cells: Sequence[_Cell], subjects: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        record = (subjects.get(cell.result.about) or {}).get("calibration") or {}
        entry = found.setdefault(cell.set, {"name": cell.set, "digests": [], **_facts(record)})
        if (digest := record.get("digest")) and digest not in entry["digests"]:
            entry["digests"].append(digest)
    return list(found.values())


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("domain", "language", "n_samples", "n_tokens", "length", "pool_tokens", "source")
    return {name: record.get(name) for name in names}


def budget_words(record: Mapping[str, Any]) -> str:
    """How much text every set gave."""
    sizes = sorted({(each["n_samples"], each["length"]) for each in record["sets"] if each["n_samples"]})
    return ", ".join(f"{counted(samples, 'sample')} of {length} tokens" for samples, length in sizes)
