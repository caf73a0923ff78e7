"""The numbers beside a case's metric as rows of text, and a line on what each of them adds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from quantgate.core.records import Result
from quantgate.reports.table import number, ordered
from quantgate.verdict.companions import COMPANIONS
from quantgate.verdict.turns import FLIPS

_NEEDED: Final = "items needed (metric: 1)"
_NEEDED_MEANS: Final = (
    "how many items would show its loss as surely as one item shows the metric's: 0.25 means a quarter of the items"
)
HEADER: Final = ("method", "task", "beside the metric", "16-bit", "subject", _NEEDED)
_FLIPS: Final = "flips"
_FLIPS_ADD: Final = (
    "answers that changed: two models of equal accuracy can disagree on many items, and a user sees each"
)


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """One row for every companion of every case."""
    return [row for result in ordered(results) for row in _rows(result)]


def _rows(result: Result) -> Iterator[tuple[str, ...]]:
    found = result.companions
    if any(name in found for name in FLIPS):
        told = ", ".join(f"{found[name]:.0f} {words}" for name, words in FLIPS.items() if found.get(name))
        yield (result.about, result.task, _FLIPS, "", told or "none", "")
    for name, companion in COMPANIONS.items():
        if name in found:
            before = found.get(
                f"{name}_reference", math.nan if companion.of_reference is None else companion.of_reference
            )
            items = found.get(f"{name}_items", math.nan)
            cells = (number(before, 4), number(found[name], 4), "" if math.isnan(items) else f"{items:.2g}")
            yield (result.about, result.task, name, *cells)


def meanings(results: Sequence[Result]) -> Mapping[str, str]:
    """What each companion that occurs in ``results`` adds, and what the last column means."""
    known = {_FLIPS: _FLIPS_ADD} | {name: companion.meaning for name, companion in COMPANIONS.items()}
    drawn = rows(results)
    shown = {row[2] for row in drawn}
    told = {name: words for name, words in known.items() if name in shown}
    return told | ({_NEEDED: _NEEDED_MEANS} if any(row[-1] for row in drawn) else {})
