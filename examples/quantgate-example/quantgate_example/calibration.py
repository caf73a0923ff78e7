"""A calibration source: a text that a method may look at. This one makes its text itself; most read a data source."""

from dataclasses import dataclass
from typing import ClassVar

from quantgate.quantize.calibration.protocol import Desk
from quantgate.quantize.calibration.samples import Drawn, Want
from quantgate.quantize.calibration.texts import running
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts


@dataclass(frozen=True)
class Sums:
    """Sums of two numbers below 60, written out: ``12 + 7 = 19``."""

    name: ClassVar[str] = "sums"
    domain: ClassVar[str] = "arithmetic"
    language: ClassVar[str] = "none"
    places: ClassVar[tuple[tuple[str, str], ...]] = ()
    chat: ClassVar[bool] = False

    def lacking(self, data: DataSource) -> str:
        """Nothing: it brings its text along."""
        return ""

    def samples(self, desk: Desk, want: Want) -> Drawn:
        """Segments of the text at seeded positions."""
        return running(self._tokens(desk.prompts), desk.prompts, want, self.name, "sums of two numbers below 60")

    def capacity(self, desk: Desk, length: int) -> int:
        """How many segments of that length lie in the text side by side."""
        return len(self._tokens(desk.prompts)) // length

    def _tokens(self, prompts: Prompts) -> tuple[int, ...]:
        return prompts.plain("\n".join(f"{a} + {b} = {a + b}" for a in range(60) for b in range(60)))


SUMS = Sums()
