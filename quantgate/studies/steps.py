"""One subject in several forms (``--forms A,B,C``): which step lost what.

A model is quantized, written to a checkpoint and served; a loss may come with any of the three. The verdicts compare
each form with the 16-bit model. Here each form is compared with the one before it, on the items that all of them were
asked. Everything follows from the outcomes of the items and the subjects' records, so the report can be drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.core.records import Result
from quantgate.tasks.rolling import RollingTask
from quantgate.tasks.table import TASKS
from quantgate.verdict.evidence import Evidence, outcomes_from_json
from quantgate.verdict.paired import compare

Sides = Callable[[CaseKey], Mapping[str, Any] | None]
EvidenceOf = Callable[[CaseKey], "Evidence | None"]
STUDY: Final = "steps"
FORMS: Final = "forms"
"""Under this name the record of each form that was opened holds the names of all of them, in their order."""
REFERENCE: Final = "16-bit"
LOST, GAINED, OPEN, EQUAL = "lost", "gained", "open", "equal"


def steps_record(
    results: Sequence[Result],
    sides: Sides,
    subjects: Mapping[str, Mapping[str, Any]],
    evidence_of: EvidenceOf = lambda _: None,
) -> dict[str, Any]:
    """The steps on every task that all forms were judged on; empty where a run has fewer than two forms.

    ``subjects``: by their name within the run, as report.json lists them. ``evidence_of``: a case's; its rule says what
    an item that was not drawn may lose, in the step as in the case.
    """
    forms = next((list(each[FORMS]) for each in subjects.values() if each.get(FORMS)), [])
    if len(forms) < 2:
        return {}
    steps, holes = [], []
    for task in dict.fromkeys(result.task for result in results if result.about in forms):
        mine = {result.about: result for result in results if result.task == task and result.about in forms}
        known = (evidence_of(mine[name].key) for name in forms if name in mine)
        metric = next((each.rule.metric for each in known if each is not None), None)
        found, why = _of_task(task, forms, mine, sides, metric)
        steps += found
        holes += [{"task": task, "why": why}] if why else []
    return {
        "study": STUDY,
        "question": "which step lost what?",
        "forms": forms,
        "steps": steps,
        "holes": holes,
        "answer": _answer(steps, holes),
    }


def _of_task(
    task: str, forms: Sequence[str], mine: Mapping[str, Result], sides: Sides, metric: Metric | None
) -> tuple[list[dict[str, Any]], str]:
    """A record a step, or why there is none."""
    row = TASKS.get(task)
    if row is None or (isinstance(row, RollingTask) and row.measure == "kld"):
        return [], "it measures no score of a form alone"
    chain: list[tuple[str, dict[str, ItemOutcome]]] = []
    for name in forms:
        outcomes = sides(mine[name].key) if name in mine else None
        if outcomes is None:
            return [], f"{name} has no scores: {mine[name].reason}" if name in mine else f"{name} was not judged on it"
        if not chain:
            chain.append((REFERENCE, _by_item(outcomes["reference"])))
        chain.append((name, _by_item(outcomes["subject"])))
    shared = [item for item in chain[0][1] if all(item in each for _, each in chain)]
    if not shared:
        return [], "no item was asked of all forms"
    confidence = mine[forms[0]].confidence
    return [_step(task, metric or row.metric, one, two, shared, confidence) for one, two in pairwise(chain)], ""


def _step(
    task: str,
    metric: Metric,
    before: tuple[str, Mapping[str, ItemOutcome]],
    after: tuple[str, Mapping[str, ItemOutcome]],
    items: Sequence[str],
    confidence: float,
) -> dict[str, Any]:
    found = compare([before[1][at] for at in items], [after[1][at] for at in items], metric, confidence)
    record = {
        "task": task,
        "metric": metric.name,
        "from": before[0],
        "to": after[0],
        "items": found.n_items,
        "before": found.reference,
        "after": found.value,
        "delta": found.delta,
        "low": found.ci_low,
        "high": found.ci_high,
        "confidence": confidence,
        "worse": found.items_worse,
        "better": found.items_better,
        "undefined": found.undefined,
    }
    return {**record, "says": _says(record, higher_is_better=metric.higher_is_better)}


def _says(step: Mapping[str, Any], *, higher_is_better: bool) -> str:
    """What the interval shows: a loss, a gain, nothing, or that nothing moved."""
    low, high = (step["low"], step["high"]) if higher_is_better else (-step["high"], -step["low"])
    if step["undefined"] or math.isnan(low):
        return OPEN
    if not step["worse"] and not step["better"]:
        return EQUAL
    return LOST if high < 0 else GAINED if low > 0 else OPEN


def _answer(steps: Sequence[Mapping[str, Any]], holes: Sequence[Mapping[str, Any]]) -> str:
    told = []
    for task in dict.fromkeys(step["task"] for step in steps):
        mine = [step for step in steps if step["task"] == task]
        lost = [f"{step['to']} lost {abs(step['delta']):.4g}" for step in mine if step["says"] == LOST]
        told.append(f"{task}: {', '.join(lost) or 'no step shows a loss'}")
    told += [f"{hole['task']}: unknown" for hole in holes]
    return "; ".join(told) or "no task was judged on the forms"


def _by_item(content: Any) -> dict[str, ItemOutcome]:
    return {each.item_id: each for each in outcomes_from_json(content)}
