"""Calibration text must not contain what is tested: it would flatter the subject.

Texts are compared as words (lower case, one Unicode form, no punctuation; a Chinese, Japanese or Korean character is a
word). What two texts of one kind have in common by nature must not count, or nobody could calibrate on the train split
of what is tested: stock tables of the Wall Street Journal share 13 words in a row with each other. So a shared run is
no leak by itself; its share of a text is. A tested text is leaked (by the first two a sample, too), when

* more than 20% of its words lie in shared runs of 13 words. Llama 2 calls a sample with more than a fifth of its tokens
  in shared runs not clean (Touvron et al. 2023, A.6); 13 words are GPT-3's window (Brown et al. 2020, C);
* or 50 words in a row are shared, whatever the share: a passage inside a longer text (Lee et al. 2022 take 50 tokens);
* or more than 70% of its words stand in one sample in the same order, in runs of at least 5 words: a copy with words
  changed here and there. The share is that of PaLM (Chowdhery et al. 2022, 8), whose runs of 8 are too long for a
  sentence with one word changed.

For segments of 1,600 words and calibration on the train split, the largest shares were (13 words, 5 words, longest run)
PTB 4%, 34%, 27 words; WikiText-2 0, 8%, 9; C4 0, 3%, 6. Texts of fewer than 8 words occur everywhere; such an item is
leaked when its first string of 3 words or more, the question, stands in a sample with another of its strings close by.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any, Final, TypeAlias

from quantgate.core.errors import DataError

WINDOW: Final = 13
SHARE: Final = 0.2
PASSAGE: Final = 50
NEAR_WINDOW: Final = 5
NEAR_SHARE: Final = 0.7
SHORT: Final = 8  # words below which a text is no evidence by itself
_LEAST: Final = 3
_CLOSE: Final = 12
_SHOWN: Final = 5
_ONE_BY_ONE: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD: Final = re.compile(rf"[{_ONE_BY_ONE}]|[^\W{_ONE_BY_ONE}]+")

Words: TypeAlias = list[str]


def words_of(text: str) -> Words:
    """The words of a text, as they are compared."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def run_hashes(words: Sequence[str], size: int = WINDOW) -> list[int]:
    """A hash for every run of ``size`` words, in order; empty for shorter texts."""
    return [hash(tuple(words[index : index + size])) for index in range(len(words) - size + 1)]


def covered(hit: Sequence[bool], count: int, size: int = WINDOW) -> float:
    """Share of ``count`` words that lie in a run of ``size`` words that was hit; 0 without words."""
    words, end = 0, 0
    for start, found in enumerate(hit):
        if found:
            words += start + size - max(start, end)
            end = start + size
    return words / count if count else 0.0


def longest(hit: Sequence[bool], size: int = WINDOW) -> int:
    """Words of the longest stretch whose runs of ``size`` words are all hit; 0 without any."""
    best = now = 0
    for found in hit:
        now = now + 1 if found else 0
        best = max(best, now)
    return best + size - 1 if best else 0


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


@dataclass
class _Runs:
    """Runs of words of many texts, and which text each came from (the first that has it)."""

    long: dict[int, str] = field(default_factory=dict)
    near: dict[int, str] = field(default_factory=dict)

    def add(self, name: str, words: Words) -> None:
        for runs, size in ((self.long, WINDOW), (self.near, NEAR_WINDOW)):
            for run in run_hashes(words, size):
                runs.setdefault(run, name)

    def leak(self, words: Words, samples: Mapping[str, Words]) -> tuple[str, str]:
        """The text that ``words`` have too much in common with, and how much it is; empty when there is none."""
        if len(words) < SHORT:
            return "", ""
        name, hit = _hits(self.long, run_hashes(words))
        share, run = covered(hit, len(words)), longest(hit)
        if share > SHARE or run >= PASSAGE:
            return name, f"{share:.0%} of {len(words)} words, {run} of them in a row"
        name, hit = _hits(self.near, run_hashes(words, NEAR_WINDOW))
        if name in samples and covered(hit, len(words), NEAR_WINDOW) > NEAR_SHARE:
            share = _in_order(words, samples[name])
            if share > NEAR_SHARE:
                return name, f"{share:.0%} of {len(words)} words in this order"
        return "", ""


def _hits(runs: Mapping[int, str], wanted: Sequence[int]) -> tuple[str, list[bool]]:
    """The text that most of the ``wanted`` runs came from, and which of them are there."""
    found = [runs.get(run) for run in wanted]
    names = Counter(name for name in found if name is not None).most_common(1)
    return names[0][0] if names else "", [name is not None for name in found]


def _in_order(words: Words, sample: Words) -> float:
    """Share of ``words`` in runs of at least five that stand in ``sample`` in the same order."""
    blocks = SequenceMatcher(None, words, sample, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks if block.size >= NEAR_WINDOW) / len(words)


class ScoredTexts:
    """The texts of everything that is scored, read once for many calibration sets.

    ``texts``: (item id, text); the texts of an item may be several.
    """

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        self.items: dict[str, list[Words]] = {}
        for item, text in texts:
            if (words := words_of(text)) not in (strings := self.items.setdefault(item, [])):
                strings.append(words)

    @cached_property
    def runs(self) -> _Runs:
        """Every run of words of the items."""
        found = _Runs()
        for item, strings in self.items.items():
            for words in strings:
                found.add(item, words)
        return found

    def leaks(self, calibration: Iterable[str]) -> list[Leak]:
        """What ``calibration`` texts and the items have too much in common (see above), item by item."""
        samples = [words_of(text) for text in calibration]
        return _leaked_items(samples, self.items) or _leaked_samples(samples, self.runs)


@dataclass(frozen=True)
class Leak:
    """``item`` stands in the calibration text ``number``, or that text in it, as far as ``how`` says."""

    item: str
    number: int
    how: str


def check_disjoint(calibration: Iterable[str], name: str, tested: ScoredTexts) -> None:
    """Raise DataError when calibration text and tested texts have more in common than texts of one kind (see above).

    Args:
        calibration: the texts a method may look at.
        name: the calibration set's name.
        tested: everything that is scored.
    """
    leaks = tested.leaks(calibration)
    if not leaks:
        return
    shown = ", ".join(f"{leak.item} ({leak.how})" for leak in leaks[:_SHOWN])
    raise DataError(
        f"calibration set {name!r}",
        f"it has text in common with {len(leaks)} tested items: {shown}{', ...' if len(leaks) > _SHOWN else ''}",
        expected=f"calibration text apart from what is scored (at most {SHARE:.0%} of it in runs of {WINDOW} words)",
        hint="choose another --calibration",
    )


def _leaked_items(samples: Sequence[Words], items: Mapping[str, Sequence[Words]]) -> list[Leak]:
    """Items that stand in a sample."""
    seen = _Runs()
    named = {str(number): words for number, words in enumerate(samples)}
    for name, words in named.items():
        seen.add(name, words)
    joined = [f" {' '.join(words)} " for words in samples]
    leaks: list[Leak] = []
    for item, strings in items.items():
        found = (seen.leak(words, named) for words in strings)
        where, how = next((each for each in found if each[0]), ("", ""))
        if where:
            leaks.append(Leak(item, int(where), f"{how}, in its text {where}"))
        elif (number := _leaked_whole(strings, joined)) is not None:
            leaks.append(Leak(item, number, f"as a whole, in its text {number}"))
    return leaks


def _leaked_samples(samples: Sequence[Words], tested: _Runs) -> list[Leak]:
    """Samples that stand in an item; of several in one item the first."""
    leaks: dict[str, Leak] = {}
    for number, words in enumerate(samples):
        item, how = tested.leak(words, {})
        if item:
            leaks.setdefault(item, Leak(item, number, f"{how}, of its text {number}"))
    return list(leaks.values())


def _leaked_whole(strings: Sequence[Words], samples: Sequence[str]) -> int | None:
    """For an item with a short question: which sample holds it, and another of its strings close by; else None."""
    whole = next((words for words in strings if len(words) >= _LEAST), [])
    if not 0 < len(whole) < SHORT:
        return None
    wanted = f" {' '.join(whole)} "
    others = [f" {' '.join(words)} " for words in strings if words and words != whole]
    for number, sample in enumerate(samples):
        at = sample.find(wanted)
        while at >= 0:
            around = " ".join((*sample[:at].split()[-_CLOSE:], "|", *sample[at + len(wanted) :].split()[:_CLOSE]))
            if (not others and len(whole) >= NEAR_WINDOW) or any(other in f" {around} " for other in others):
                return number
            at = sample.find(wanted, at + 1)
    return None
