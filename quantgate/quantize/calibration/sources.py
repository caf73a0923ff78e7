"""From a choice to a calibration set: which source, how much of it, drawn with which seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from quantgate.core.errors import DataError
from quantgate.quantize.calibration.protocol import Desk
from quantgate.quantize.calibration.samples import MOST_LEFT_OUT, Calibration, Leaking, Want, nothing
from quantgate.quantize.calibration.table import CORPORA, SOURCES, source_called
from quantgate.quantize.calibration.table import DIALOGUES as _DIALOGUES
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts

DIALOGUES: Final = _DIALOGUES.name
NAMES: Final = tuple(SOURCES)


@dataclass(frozen=True)
class CalibrationChoice:
    """``name``: what `source_called` takes. ``length``: tokens of a sample; whole documents (dialogues, Alpaca) keep
    their native length (paper A) unless ``peers`` are named.

    ``peers``: the sets it is compared with in a study. Then all of them are cut and get the same budget: ``n_samples``
    at most, and what the smallest of them can give to each of ``draws`` draws (`shared_budget`). ``statistics``: files
    of private shards, whose sum takes the place of any text (`quantgate.quantize.calibration.shards`).
    """

    name: str = DIALOGUES
    n_samples: int = 128
    length: int = 512
    seed: int = 1234
    peers: tuple[str, ...] = ()
    draws: int = 1
    statistics: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The set's name in the ids of cases; a draw of its own is named too."""
        name = "statistics" if self.statistics else source_called(self.name).name
        return name if self.seed == CalibrationChoice.seed else f"{name}{_SEED}{self.seed}"


_SEED: Final = ".s"


def parse_label(label: str) -> tuple[str, int]:
    """Name and seed of a `CalibrationChoice.label`."""
    name, mark, seed = label.rpartition(_SEED)
    return (name, int(seed)) if mark and seed.isdecimal() else (label, CalibrationChoice.seed)


def readable(data: DataSource) -> list[str]:
    """Names of the sources whose text ``data`` has and that need no chat template; the hub is believed to have all."""
    return [name for name, source in SOURCES.items() if source.places and not source.chat and not source.lacking(data)]


def corpus_datasets() -> list[str]:
    """Hub ids of the corpora."""
    return [corpus.dataset for corpus in CORPORA]


def count_dialogues(bundled: DataSource) -> int:
    """How many dialogues there are to draw from."""
    return _DIALOGUES.count(bundled)


def build_calibration(
    choice: CalibrationChoice, data: DataSource, bundled: DataSource, prompts: Prompts, leaking: Leaking = nothing
) -> Calibration:
    """The set called ``choice.name``; dialogues come from the bundled data, all else from ``data``. ``leaking``: which
    documents are tested (`Desk`).

    Raises:
        UsageError: an unknown name.
        DataError: the data source has no such text, or too little.
    """
    if choice.statistics:
        from quantgate.quantize.calibration.shards import pooled  # loads torch

        return pooled([Path(each) for each in choice.statistics])
    source, desk = source_called(choice.name), Desk(data, bundled, prompts, leaking)
    drawn = source.samples(desk, _want(choice, desk))
    lengths = {len(sample) for sample in drawn.samples}
    return Calibration(
        source.name,
        source.domain,
        drawn.samples,
        drawn.texts,
        choice.seed,
        drawn.origin,
        source.language,
        drawn.pool,
        choice.length if lengths == {choice.length} else 0,
    )


def _want(choice: CalibrationChoice, desk: Desk) -> Want:
    count = choice.n_samples
    if choice.peers:
        count = shared_budget(choice.peers, desk, choice.length, count, choice.draws)
    if count < 1:
        raise DataError(
            f"the sets {', '.join(choice.peers)}",
            f"one of them has too little text for {choice.draws} draws of {choice.length} tokens",
            expected="at least two samples a set, or one for a single draw",
            hint="lower --calibration-length or --calibration-seeds, or leave the smallest set out",
        )
    return Want(count, choice.length, choice.seed, bool(choice.peers))


def shared_budget(names: Sequence[str], desk: Desk, length: int, wanted: int, draws: int) -> int:
    """Samples of ``length`` tokens that every one of the sets can give: at most ``wanted``, so that all get the same.

    With several ``draws`` a draw takes at most half of the smallest set: draws of nearly all there is are nearly the
    same, and would show no variance. A single draw leaves room for documents that turn out to be tested.
    """
    least = min(_capacity(name, desk, length) for name in names)
    most = least // 2 if draws > 1 else min(least, max(1, math.floor(least * (1 - MOST_LEFT_OUT))))
    return max(0, min(wanted, most))


@lru_cache(maxsize=256)
def _capacity(name: str, desk: Desk, length: int) -> int:
    return source_called(name).capacity(desk, length)
