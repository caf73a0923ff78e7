"""Names that people type: found whatever their case, and answered with the closest one where they are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

_ALIKE: Final = 0.6


def closest(name: str, known: Iterable[str], count: int = 1, alike: float = _ALIKE) -> list[str]:
    """Up to ``count`` of the ``known`` names that look most like ``name``, whatever their case; best first."""
    by_fold: dict[str, str] = {}
    for each in known:
        by_fold.setdefault(each.casefold(), each)
    return [by_fold[fold] for fold in difflib.get_close_matches(name.casefold(), by_fold, count, alike)]


def same_name(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that is ``name``: spelled the same, or the same but for capital letters; None if none is."""
    names = list(known)
    if name in names:
        return name
    return next((each for each in names if each.casefold() == name.casefold()), None)


def suggestion(name: str, known: Iterable[str], count: int = 1) -> str:
    """What to say about an unknown name: the closest ones first, then all there are."""
    names = list(known)
    close = " or ".join(map(repr, closest(name, names, count)))
    everything = f"known: {', '.join(names)}"
    return f"did you mean {close}? {everything}" if close else everything
