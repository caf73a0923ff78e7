"""What a run was told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.engines.protocol import Setting
from quantgate.quantize.calibration.sources import CalibrationChoice
from quantgate.tasks.base import Selection, Task
from quantgate.tasks.data import DataSource

if TYPE_CHECKING:
    from quantgate.subjects.spec import SubjectSpec


@dataclass(frozen=True)
class Options:
    """What the user chose. ``shared``: other workers use this machine and this store at the same time.
    ``sequential``: stop asking a subject as soon as its verdict is certain. ``guided``: do so on items
    drawn by what the reference's outcomes tell. ``family``: how many cases are judged together; a regression is certain
    only when it is so among that many. ``engine``: a row of the table of engines. ``forms``: subjects that are one
    model in several forms, in the order in which it goes through them. ``tokenizer``: the small files of a ``model``
    that is a server's address. ``called``: the model's name in ids, empty where it is the run's main one.
    """

    model: str = "bundled"
    revision: str | None = None
    dtype: str = "bfloat16"
    device: str = "cpu"
    offline: bool = False
    shared: bool = False
    sequential: bool = False
    guided: bool = False
    family: int = 1
    selection: Selection = field(default_factory=Selection)
    calibration: CalibrationChoice = field(default_factory=CalibrationChoice)
    engine: str = "torch"
    forms: tuple[str, ...] = ()
    tokenizer: Path | None = None
    called: str = ""

    @property
    def setting(self) -> Setting:
        """How models are run."""
        return Setting(self.dtype, self.device)


@dataclass(frozen=True)
class Sources:
    """Where benchmark rows come from (``data``), and what is always at hand for the calibration dialogues
    (``bundled``)."""

    data: DataSource
    bundled: DataSource


@dataclass
class Planned:
    """The tasks of a run: the reference answers all of them while it is loaded, and no calibration text is in any.

    ``subjects``: what will be judged, so that those that can share a pass over the model are made in one.
    """

    tasks: Sequence[Task]
    subjects: Sequence[SubjectSpec] = ()
