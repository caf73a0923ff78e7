"""A run as lm-evaluation-harness would have left it: a folder a model with its results and samples, for its tools."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

from quantgate.core.errors import UsageError
from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import PROB_RIGHT
from quantgate.core.records import Result
from quantgate.reports.report import Report
from quantgate.store.store import write_atomically
from quantgate.verdict.evidence import outcomes_from_json

_REFERENCE: Final = "reference"
_LEAST: Final = 2


def write_samples(report: Report, place: Path) -> list[Path]:
    """Write ``MODEL/results_DATE.json`` and ``MODEL/samples_TASK_DATE.jsonl`` for the reference and every subject.

    An item's digests are over its name here, so that `quantgate import` pairs what was paired. A run keeps which option
    was chosen and how probable the right one was, not every option's log-likelihood: ``prob_right`` stands for them.
    Cases without items (sizes, speeds, what is invalid) are left out.

    Raises:
        UsageError: no case has items.
    """
    date = re.sub(r"[^\dT]", "-", report.run.started.partition("+")[0]) or "unknown"
    written: list[Path] = []
    for name, cases in by_model(report).items():
        folder = place / name
        folder.mkdir(parents=True, exist_ok=True)
        results, further = _results(report, name, cases), folder / f"results_{date}.json"
        write_atomically(further, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        written.append(further)
        for result, items in cases:
            samples = folder / f"samples_{result.task}_{date}.jsonl"
            write_atomically(samples, "".join(_line(result, at, item) for at, item in enumerate(items)))
            written.append(samples)
    if not written:
        expected = "evidence.jsonl beside it"
        raise UsageError("quantgate report --lm-eval", "no case of the run has items", expected=expected)
    return written


Cases: TypeAlias = "list[tuple[Result, Sequence[ItemOutcome]]]"


def by_model(report: Report) -> dict[str, Cases]:
    """Results with their items by the name of what answered, ``reference`` for the 16-bit model."""
    found: dict[str, Cases] = {}
    seen: set[tuple[str, str]] = set()
    for result in report.rows:
        sides = report.evidence.sides(result.key) if result.dimension != "efficiency" else None
        if not sides:
            continue
        found.setdefault(re.sub(r"[^\w.-]", "_", result.about), []).append(
            (result, outcomes_from_json(sides["subject"]))
        )
        if (result.model, result.task) not in seen:
            seen.add((result.model, result.task))
            name = f"{result.model}_{_REFERENCE}" if result.model else _REFERENCE
            found.setdefault(name, []).append((result, outcomes_from_json(sides["reference"])))
    return found


def _results(report: Report, name: str, cases: Cases) -> dict[str, Any]:
    tasks = {result.task: (result, [item for item in items if item.score is not None]) for result, items in cases}
    return {
        "results": {task: {"alias": task, **_scores(result, items)} for task, (result, items) in tasks.items()},
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: {"task": task, "description": each[0].protocol} for task, each in tasks.items()},
        "versions": dict.fromkeys(tasks, "quantgate"),
        "n-shot": {task: _shots(result.protocol) for task, (result, _) in tasks.items()},
        "higher_is_better": {task: {each[0].metric: each[0].higher_is_better} for task, each in tasks.items()},
        "n-samples": {task: {"original": len(items), "effective": len(items)} for task, (_, items) in tasks.items()},
        "config": {"model": "quantgate", "model_args": f"{report.model.get('id', '')}, {name}"},
        "model_name": name,
        "date": report.run.started,
        "git_hash": report.environment.get("commit") or None,
    }


def _scores(result: Result, items: Sequence[ItemOutcome]) -> dict[str, Any]:
    """The metric and its standard error, where it is a mean of the items' scores."""
    scores = [item.score for item in items if item.score is not None]
    mean = math.fsum(scores) / len(scores) if scores else math.nan
    value = math.exp(mean) if result.metric == "ppl" and mean < math.log(1e300) else mean
    found: dict[str, Any] = {f"{result.metric},none": value if math.isfinite(value) else None}
    if len(scores) >= _LEAST and result.metric != "ppl":
        spread = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
        found[f"{result.metric}_stderr,none"] = spread / math.sqrt(len(scores))
    return found


def _shots(protocol: str) -> int:
    match = re.search(r"\b(\d+)-shot\b", protocol)
    return int(match[1]) if match else 0


def _line(result: Result, at: int, item: ItemOutcome) -> str:
    name, metric = item.item_id, {"ppl": "perplexity"}.get(result.metric, result.metric)
    score = item.score
    right = {name_: item.companions[name_] for name_ in (PROB_RIGHT.name,) if name_ in item.companions}
    digest = sha256(f"{result.task} {name}".encode()).hexdigest()
    content = {
        "doc_id": at, "doc": {"id": name, "group": item.group}, "target": "", "arguments": {},
        "resps": [[item.answer]], "filtered_resps": [item.answer], "filter": "none",
        "metrics": [metric], "doc_hash": digest, "prompt_hash": digest, "target_hash": digest,
        **right, metric: -score if metric == "perplexity" and score is not None else score,
    }  # fmt: skip
    return json.dumps(content, ensure_ascii=False) + "\n"
