"""The seam of calibration sources: what a row of the table must be able to do, and where it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from quantgate.quantize.calibration.samples import Drawn, Leaking, Want, nothing
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts


@dataclass(frozen=True)
class Desk:
    """What a source reads with: ``data`` as the run has it, ``bundled`` always at hand, and the model's tokenizer.

    ``leaking``: which of these documents (by number) have too much text in common with what is tested; a source that
    draws documents leaves them out, as `samples.packed` and `samples.whole` do.
    """

    data: DataSource
    bundled: DataSource
    prompts: Prompts
    leaking: Leaking = nothing


class CalibrationSource(Protocol):
    """One named text that a method may look at. Implementations are frozen dataclasses."""

    @property
    def name(self) -> str:
        """What ``--calibration`` and records call it; lower-case letters, digits, ``_``, ``-`` and ``.``."""

    @property
    def domain(self) -> str:
        """What kind of text it is, in a few words."""

    @property
    def language(self) -> str:
        """Its language in English, or what there is instead of one."""

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """(dataset, configuration) of everything it reads from a data source; empty where it brings its text along.

        A test over one of these places is in distribution for it.
        """

    @property
    def chat(self) -> bool:
        """Whether it needs the model's chat template."""

    def lacking(self, data: DataSource) -> str:
        """What ``data`` lacks of it, in a few words; empty when it can be read. Reads no rows."""

    def samples(self, desk: Desk, want: Want) -> Drawn:
        """Samples as wanted, the same for the same seed. Raises DataError when there is too little text."""

    def capacity(self, desk: Desk, length: int) -> int:
        """How many samples of ``length`` tokens there are when its documents are joined."""
