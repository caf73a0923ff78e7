"""The comparison table as rows of text; the terminal and the markdown report show the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from quantgate.core.records import Result

HEADER: Final = (
    "method",
    "task",
    "metric",
    "items",
    "16-bit",
    "subject",
    "difference",
    "interval",
    "margin",
    "verdict",
)
# What narrow terminals do without, first to last; report.md and report.json always have every column.
GIVE_UP: Final = ("metric", "items", "interval", "difference")
SUBJECT_GIVE_UP: Final = ("storage", "seconds", "from", "calibration")
NAMES: Final = ("method", "task", "metric", "calibration", "model", "execution", "workload", "proxy", "benchmark")
"""Columns whose cells may be cut in the middle."""
WORDS: Final = frozenset(NAMES) | {"verdict", "storage", "from"}
"""Columns that hold no numbers."""
SUBJECT_HEADER: Final = ("method", "bits", "bits/weight", "MiB on disk", "storage", "calibration", "seconds", "from")


def result_row(result: Result, *, alone: bool = False) -> tuple[str, ...]:
    """One row of the comparison table; ``alone``: its regression is not confirmed by the family."""
    digits = digits_of(result)
    interval = f"[{signed(result.ci_low, digits)}, {signed(result.ci_high, digits)}]"
    return (
        result.about,
        result.task,
        result.metric,
        str(result.n_items),
        number(result.reference, digits),
        number(result.value, digits),
        signed(result.delta, digits),
        interval,
        number(result.margin, digits),
        result.verdict + (", alone" if alone else "") + (", waived" if result.waived else ""),
    )


def subject_row(subject: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of the table of subjects."""
    calibration = subject.get("calibration") or {}
    name = f"{calibration['name']} ({calibration['n_tokens']} tokens)" if calibration else "none"
    return (
        str(subject.get("subject", subject["method"])),
        str(subject["bits_nominal"]),
        number(known(subject["bits_effective"]), 3),
        number(subject["bytes_on_disk"] / 2**20, 1),
        str(subject["fake_or_packed"]),
        name,
        number(float(subject["quantize_seconds"]), 1),
        "store" if subject["from_cache"] else "this run",
    )


def known(value: float | None) -> float:
    """A number of a record; NaN where JSON holds none (of a server that does not tell its size)."""
    return math.nan if value is None else float(value)


def digits_of(result: Result) -> int:
    """Decimals worth showing: shares and divergences need three or four, a perplexity of 200 needs one."""
    size = max((abs(value) for value in (result.reference, result.value) if math.isfinite(value)), default=0.0)
    return 4 if size < 2 else 2 if size < 1000 else 0


def number(value: float, digits: int) -> str:
    """A number with ``digits`` decimals; a dash when it is undefined, plain words when infinite."""
    if math.isnan(value):
        return "-"
    return "infinite" if math.isinf(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int) -> str:
    """Like :func:`number`, with its sign."""
    text = number(value, digits)
    return f"+{text}" if value > 0 else text


def sort_key(result: Result, methods: Sequence[str]) -> tuple[int, str, str]:
    """Order of the rows: methods as they ran, then dimension, then task."""
    return (methods.index(result.about), result.dimension, result.task)


def ordered(results: Sequence[Result]) -> list[Result]:
    """Results in table order."""
    methods = list(dict.fromkeys(result.about for result in results))
    return sorted(results, key=lambda result: sort_key(result, methods))
