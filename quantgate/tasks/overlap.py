"""Calibration text must not contain what is tested, and no item may be there twice: both would flatter the subject.

Two texts overlap when they share 13 consecutive words (lower-cased, punctuation dropped), the window commonly used to
find test items in training data.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from quantgate.errors import DataError

WINDOW: Final = 13
COPIES: Final = 0.05  # benchmarks hold a few questions twice; more than that is no benchmark
_WORD: Final = re.compile(r"\w+")


def windows(text: str, size: int = WINDOW) -> set[int]:
    """Hashes of all runs of ``size`` words in ``text`` (empty for shorter texts)."""
    words = _WORD.findall(text.lower())
    return {hash(tuple(words[index : index + size])) for index in range(len(words) - size + 1)}


def texts_of(value: Any) -> Iterator[str]:
    """All strings inside a row, however nested."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_of(inner)


def check_disjoint(calibration: Iterable[str], name: str, tested: Iterable[tuple[str, str]]) -> None:
    """Raise DataError when a calibration text shares 13 words in a row with a tested text.

    Args:
        calibration: the texts a method may look at.
        name: the calibration set's name.
        tested: (item id, text) of everything that is scored.
    """
    seen: dict[int, int] = {}
    for number, text in enumerate(calibration):
        seen |= dict.fromkeys(windows(text), number)
    for item, text in tested:
        for window in windows(text):
            if window in seen:
                raise DataError(
                    f"calibration set {name!r}",
                    f"its text {seen[window]} shares {WINDOW} words in a row with the test item {item}",
                    expected="calibration text apart from everything that is scored",
                    hint="choose another --calibration",
                )


def check_unique(task: str, names: Sequence[str], asked: Sequence[Sequence[Hashable]]) -> None:
    """Raise DataError when many items ask literally the same: copies make a small sample look like a large one.

    Args:
        task: the task's id.
        names: the items' ids.
        asked: the requests of each item.
    """
    first: dict[Hashable, str] = {}
    copies = []
    for name, requests in zip(names, asked, strict=True):
        original = first.setdefault(tuple(requests), name)
        if original != name:
            copies.append((name, original))
    if len(copies) > COPIES * len(names):
        name, original = copies[0]
        raise DataError(
            f"task {task}",
            f"{len(copies)} of {len(names)} items ask literally the same as another ({name} as {original})",
            expected=f"at most {COPIES:.0%} copies",
            hint="remove the copies from the data",
        )
