"""sensitivity.csv: which kinds of tasks each method costs most, in units of what is allowed. A grid: what was not asked
is an empty cell, so that no method looks good for having been asked less.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Final

from quantgate.core.records import Result
from quantgate.reports.report import Report
from quantgate.studies.table import S1_CATEGORIES

COLUMNS: Final = ("method", "category", "tasks", "mean_loss", "worst_loss", "worst_task", "regressed")
_LEAST: Final = 2
_AS_ASKED: Final = re.compile(r"^(?:sampled|mass|decode_ppl|token_consistency)_")
_HOW: Final = re.compile(r"_(?:norm|likelihood|loss|strict|f1|cot|any_number|first_occurrence|perplexity|mc[12])$")
_BY_START: Final[Mapping[str, str]] = {
    "perplexity_": "text", "kld_": "text", "mmlu": "exams", "ceval": "exams", "cmmlu": "exams", "gsm8k": "mathematics",
    "flores_": "translation", "cnn_dailymail": "summaries", "xsum": "summaries", "humaneval": "code", "mbpp": "code",
    "bbh": "reading and logic", "followbench": "instructions", "ifeval": "instructions", "alpaca_eval": "open answers",
    "mt_bench": "open answers", "bbq": "bias", "snli": "inference", "truthfulqa": "truthfulness", "boss_": "BOSS",
}  # fmt: skip
OTHER: Final = "other"


def category_of(task: str) -> str:
    """The kind of a task, whichever way it is asked: scenario S1's nine kinds, and some more; `OTHER` for the rest."""
    name = _AS_ASKED.sub("", task)
    plain = _HOW.sub("", name)
    for category, tasks in S1_CATEGORIES.items():
        if name in tasks or plain in tasks:
            return category
    return next((kind for start, kind in _BY_START.items() if name.startswith(start)), OTHER)


def loss_of(result: Result) -> float:
    """How much worse it is in units of its margin: 1 is all that is allowed; NaN where there is no number."""
    worse = -result.delta if result.higher_is_better else result.delta
    return worse / result.margin if result.margin > 0 else math.nan


def as_csv(report: Report) -> str:
    """A line a method and kind of task; empty for a run with fewer than two kinds."""
    results = [result for result in report.rows if result.dimension != "efficiency"]
    found = {result.key: category_of(result.task) for result in results}
    categories = sorted({*found.values()})
    if len(categories) < _LEAST:
        return ""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for method in dict.fromkeys(result.about for result in results):
        for category in categories:
            mine = [each for each in results if each.about == method and found[each.key] == category]
            writer.writerow([method, category, *_cells(mine)])
    return buffer.getvalue()


def _cells(results: Sequence[Result]) -> Iterator[str | int]:
    losses = {result.task: loss for result in results if math.isfinite(loss := loss_of(result))}
    yield len(losses)
    if losses:
        worst = max(losses, key=lambda task: losses[task])
        yield from (f"{fmean(losses.values()):.4f}", f"{losses[worst]:.4f}", worst)
    else:
        yield from ("", "", "")
    yield sum(result.verdict == "regressed" for result in results)
