"""A method with and without compensation: every subject made, judged on the same items, and recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from quantgate.compensation.ways import WAYS, Desk
from quantgate.core.records import Result
from quantgate.quantize.base import Method
from quantgate.subjects.candidates import parse_candidate
from quantgate.tasks.base import Task

SCHEMA: Final = 1
PASS: Final = "pass"
_TOLD: Final = (
    "task", "metric", "reference", "value", "delta", "ci_low", "ci_high", "margin", "n_items", "verdict", "reason",
)  # fmt: skip


def compensate(desk: Desk, ways: Sequence[str], tasks: Sequence[Task]) -> dict[str, Any]:
    """The record of a method and of each way to make up for its losses.

    Raises:
        QuantgateError: something cannot be made, read or written.
    """
    rows = [_row(desk, desk.method, "", "nothing made up for", {}, tasks)]
    for name in ways:
        way = WAYS[name]
        desk.evaluation.progress.note(f"{desk.method.id}, {name}: {way.summary}")
        folder, facts = way.make(desk)
        candidate = parse_candidate(f"{desk.method.id}-{name}={folder.resolve()}")  # a folder, whatever it is called
        rows.append(_row(desk, candidate, name, way.summary, facts, tasks))
    return {"schema": SCHEMA, "method": desk.method.id, "subjects": rows, "answer": sentence(rows)}


def _row(
    desk: Desk, subject: Method, way: str, summary: str, facts: dict[str, Any], tasks: Sequence[Task]
) -> dict[str, Any]:
    results = [desk.evaluation.result(subject, task) for task in tasks]
    record = desk.evaluation.subject(subject).record
    desk.evaluation.release()
    return {
        "name": subject.id,
        "way": way,
        "summary": summary,
        "bits": record.bits_effective,
        "bytes_on_disk": record.bytes_on_disk,
        "made": facts,
        "results": [_told(result) for result in results],
    }


def _told(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in _TOLD}


def sentence(rows: Sequence[dict[str, Any]]) -> str:
    """Which of them pass, in words."""
    passing = [row["name"] for row in rows if _passes(row)]
    return f"passes: {', '.join(passing)}" if passing else "none of these passes"


def passes(record: dict[str, Any]) -> bool:
    """Whether one of the subjects passes on every task."""
    return any(_passes(row) for row in record["subjects"])


def _passes(row: dict[str, Any]) -> bool:
    """Whether all was judged and passed; what was judged on nothing has passed nothing."""
    return bool(row["results"]) and all(each["verdict"] == PASS for each in row["results"])


def lines(record: dict[str, Any]) -> Iterator[str]:
    """The record for a terminal."""
    width = max(len(row["name"]) for row in record["subjects"])
    yield f"{'subject':{width}}  {'bits':>6}  {'trained':>9}  {'task':18}  {'value':>9}  {'change':>28}  verdict"
    for row in record["subjects"]:
        trained = row["made"].get("trainable", 0)
        for each in row["results"]:
            change = f"{each['delta']:+.4f} [{each['ci_low']:+.4f}, {each['ci_high']:+.4f}]"
            yield (
                f"{row['name']:{width}}  {row['bits']:6.3f}  {trained:9}  {each['task']:18}  {each['value']:9.4f}"
                f"  {change:>28}  {each['verdict']}"
            )
    yield ""
    yield record["answer"]
    yield f"text: {record['text']['name']}, {record['text']['n_tokens']} tokens; budget: {_budget(record['budget'])}"


def _budget(budget: dict[str, Any]) -> str:
    return (
        f"rank {budget['rank']}, {budget['steps']} steps of {budget['batch']} x {budget['length']} tokens, "
        f"loss against the {budget['loss']}"
    )
