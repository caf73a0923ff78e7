"""What a calibration study says: one sentence a method that can be repeated, and one answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from quantgate.core.words import counted

_LEVEL: Final = 0.05
_ALLOWED: Final = 1.0  # regret of one margin


def sentence(record: Mapping[str, Any]) -> str:
    """About one method: wins of the own set, what survives the correction, where the variance is, and the advice."""
    return f"{record['method']}: " + "; ".join(
        part for part in (_wins(record), _contrasts(record), _variance(record), _advice(record)) if part
    )


def _wins(record: Mapping[str, Any]) -> str:
    found = record["wins"]
    if not found["n_blocks"]:
        return "no test is in the distribution of a set"
    tests = counted(found["n_blocks"], "test")
    return (
        f"calibrating on the test's own distribution is best in {found['best']:g} of {tests} "
        f"({found['expected']:.1f} if the sets' names meant nothing, p = {found['p']:.2g})"
    )


def _contrasts(record: Mapping[str, Any]) -> str:
    if not record["contrasts"]:
        return ""
    of = f"of {counted(record['contrasts'], 'contrast')} with another set"
    if not record["better"] and not record["worse"]:
        return f"none {of} survives the correction"
    return f"{record['better']} {of} are proven better and {record['worse']} worse"


def _variance(record: Mapping[str, Any]) -> str:
    found = record["shares"]
    if math.isnan(found["set"]):
        return "all models answer alike"
    if math.isnan(found["draw"]):
        return "with one draw a set nobody can tell the set from the draw"
    verdict = "matters beyond" if found["p"] <= _LEVEL else "is not told apart from"
    return (
        f"the set {verdict} the draw (p = {found['p']:.2g}); of the variance between models {found['set']:.0%} is the "
        f"set, {found['draw']:.0%} another draw of it, {found['items']:.0%} the items"
    )


def _advice(record: Mapping[str, Any]) -> str:
    told = []
    for each in record["advice"]:
        if each["worst_high"] < _ALLOWED:
            told.append(
                f"it does not matter here: even the worst choice among {_names(each['sets'])} costs at most "
                f"{each['worst_high']:.0%} of what is allowed"
            )
        else:
            told.append(
                f"of {_names(each['sets'])} take {each['best']}: its worst regret is {each['regret']:.0%} of what is "
                f"allowed ({each['low']:.0%} to {each['high']:.0%}; best in {each['sure']:.0%} of resamples), that of "
                f"{each['worst_set']} {each['worst']:.0%}"
            )
    return "; ".join(told)


def _names(sets: Sequence[str]) -> str:
    return ", ".join(sets) if len(sets) <= 5 else f"{len(sets)} sets"


def answer(methods: Sequence[Mapping[str, Any]], found: Mapping[str, Any], holes: int) -> str:
    """About the whole study."""
    sure = [each["method"] for each in methods if each["shares"]["p"] <= _LEVEL]
    alike = [each["method"] for each in methods if not each["shares"]["p"] <= _LEVEL]
    told = []
    if sure:
        told.append(f"the calibration set matters beyond the draw for {', '.join(sure)}")
    if alike:
        told.append(f"that it matters is not shown for {', '.join(alike)}")
    if found["n_blocks"]:
        told.append(
            f"the own distribution is best in {found['best']:g} of {found['n_blocks']} "
            f"(chance {found['expected']:.1f}, p = {found['p']:.2g})"
        )
    if holes:
        told.append(f"{counted(holes, 'cell')} could not be filled")
    return "; ".join(told) or "nothing was compared"
