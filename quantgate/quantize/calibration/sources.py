"""From a choice to a calibration set: which source, how much of it, drawn with which seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quantgate.quantize.calibration.protocol import Desk
from quantgate.quantize.calibration.samples import Calibration, Want
from quantgate.quantize.calibration.table import CORPORA, SOURCES, source_called
from quantgate.quantize.calibration.table import DIALOGUES as _DIALOGUES
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts

DIALOGUES: Final = _DIALOGUES.name
NAMES: Final = tuple(SOURCES)


@dataclass(frozen=True)
class CalibrationChoice:
    """``name``: what `source_called` takes. ``length``: tokens of a sample; whole documents (dialogues, Alpaca) keep
    their native length (paper A) unless ``packed`` asks for equal budgets."""

    name: str = DIALOGUES
    n_samples: int = 128
    length: int = 512
    seed: int = 1234
    packed: bool = False

    @property
    def label(self) -> str:
        """The set's name in the ids of cases; a draw of its own is named too."""
        return self.name if self.seed == CalibrationChoice.seed else f"{self.name}.s{self.seed}"


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
    choice: CalibrationChoice, data: DataSource, bundled: DataSource, prompts: Prompts
) -> Calibration:
    """The set called ``choice.name``; dialogues come from the bundled data, all else from ``data``.

    Raises:
        UsageError: an unknown name.
        DataError: the data source has no such text, or too little.
    """
    source = source_called(choice.name)
    want = Want(choice.n_samples, choice.length, choice.seed, choice.packed)
    drawn = source.samples(Desk(data, bundled, prompts), want)
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


def shared_budget(names: Sequence[str], desk: Desk, length: int, wanted: int, draws: int) -> int:
    """Samples of ``length`` tokens that every one of the sets can give: at most ``wanted``, so that all get the same.

    With several ``draws`` a draw takes at most half of the smallest set: draws of nearly all there is are nearly the
    same, and would show no variance.
    """
    least = min(source_called(name).capacity(desk, length) for name in names)
    return max(0, min(wanted, least // 2 if draws > 1 else least))
