"""Answers as the tools of benchmarks' own authors take them: AlpacaEval's annotators, FastChat's judges, C-EVAL.

A report holds an item's name and what was answered; the questions, where a form shows them, come from the data again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.errors import DataError, UsageError
from quantgate.core.items import ItemOutcome
from quantgate.reports.lm_eval_out import by_model
from quantgate.reports.report import Report
from quantgate.store.store import write_atomically
from quantgate.tasks.data import DataSource, Row
from quantgate.tasks.open_answers import ALPACA_EVAL, MT_BENCH

_WHO: Final = "quantgate report --submit"
Form = Callable[[str, Sequence[ItemOutcome], "DataSource | None"], str]


def write_submissions(report: Report, place: Path, data: DataSource | None) -> list[Path]:
    """Write ``MODEL/FILE`` for the reference and every subject, for each task of `FORMS` that the run asked.

    ``data``: the run's, for the forms that show questions.

    Raises:
        DataError: the data has no such item.
        UsageError: no such task was asked, or a form needs the data and there is none.
    """
    written = []
    for name, cases in by_model(report).items():
        for result, items in cases:
            if result.task not in FORMS:
                continue
            file, form = FORMS[result.task]
            path = place / name / file.format(task=result.task)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, form(name, items, data))
            written.append(path)
    if not written:
        raise UsageError(_WHO, "the run has no answers to be sent in", expected=f"a run of {', '.join(FORMS)}")
    return written


def _alpaca(name: str, items: Sequence[ItemOutcome], data: DataSource | None) -> str:
    """AlpacaEval's ``model_outputs``: a list of instruction, output and generator, an entry an instruction."""
    rows = _rows(data, ALPACA_EVAL, "alpaca_eval", "eval", {"instruction": str})
    entries = []
    for item in items:
        row = _row(rows, item, ALPACA_EVAL)
        entry = {"instruction": row["instruction"], "output": item.answer, "generator": name}
        entries.append(entry | ({"dataset": row["dataset"]} if isinstance(row.get("dataset"), str) else {}))
    return _json(entries)


def _mt_bench(name: str, items: Sequence[ItemOutcome], data: DataSource | None) -> str:
    """FastChat's ``model_answer``: a line a question with the texts of its turns."""
    rows = _rows(data, MT_BENCH, "default", "train", {"prompt_id": int})
    lines = []
    for item in items:
        number = _row(rows, item, MT_BENCH)["prompt_id"]
        turns = reading.parse_json(item.answer)
        lines.append({
            "question_id": number, "answer_id": f"{name}-{number}", "model_id": name,
            "choices": [{"index": 0, "turns": turns}], "tstamp": 0.0,
        })  # fmt: skip
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _exam(name: str, items: Sequence[ItemOutcome], data: DataSource | None) -> str:
    """C-EVAL's form: subject -> number of the question -> letter."""
    found: dict[str, dict[str, str]] = {}
    for item in items:
        found.setdefault(item.group, {})[item.item_id.rpartition("/")[2]] = item.answer
    return _json(found)


FORMS: Final[Mapping[str, tuple[str, Form]]] = {
    "alpaca_eval": ("model_outputs.json", _alpaca),
    "mt_bench": ("model_answer.jsonl", _mt_bench),
    "ceval_test": ("{task}.json", _exam),
    "ceval_test_generate": ("{task}.json", _exam),
}
"""By task: the file, and what is in it."""


def _rows(data: DataSource | None, dataset: str, config: str, split: str, fields: Mapping[str, Any]) -> list[Row]:
    if data is None:
        raise UsageError(_WHO, f"the form of {dataset} shows questions", expected="--data, as the run had it")
    return list(data.rows(dataset, config, split, dict(fields)))


def _row(rows: Sequence[Row], item: ItemOutcome, dataset: str) -> Row:
    number = item.item_id.rpartition("/")[2]
    if not number.isdigit() or int(number) >= len(rows):
        raise DataError(dataset, f"no item {item.item_id}", expected="the data that the run asked", hint="see --data")
    return rows[int(number)]


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
