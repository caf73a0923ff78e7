"""What a reader of checkpoints is: it recognises a layout, lists the matrices in it, and gives the values of one.

A `Layout` is a row of the table (`quantgate.checkpoints.layouts.table`); other packages add theirs by the entry point
group ``quantgate.readers``. Whoever audits, converts or loads a checkpoint sees a `Checkpoint` and no layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from quantgate.checkpoints.findings import Finding

if TYPE_CHECKING:
    from torch import Tensor

CHANNEL: Final = -1  # `StoredModule.group`: one scale for a whole row
TENSOR: Final = 0  # one scale for the whole matrix


@dataclass(frozen=True)
class StoredModule:
    """How one weight matrix is stored.

    ``kind``: ``int`` (a uniform grid), ``float`` (8 or 4-bit floats), ``levels`` (a table, as NF4's), ``other``.
    ``bits``: of one code. ``group``: input features that share a scale; `CHANNEL`: all of a row; `TENSOR`: all there
    are; None: not known. ``rows``: output features that share a scale (blocks). ``symmetric``: whether the grid has no
    zero points of its own; None where the question has no meaning. ``scale_dtype``: as stored. ``nbytes``: of all
    tensors of the module, scales and all, its bias left out. ``shape``: ``(out, in)``.
    """

    kind: str
    bits: float
    group: int | None
    symmetric: bool | None
    scale_dtype: str
    nbytes: int
    shape: tuple[int, int]
    rows: int = 1

    def in_words(self) -> str:
        """``4-bit int, groups of 32, symmetric, F16 scales``."""
        size = {None: "", CHANNEL: ", by row", TENSOR: ", by matrix"}.get(self.group, f", groups of {self.group}")
        if self.rows > 1:
            size = f", blocks of {self.rows} x {self.group}"
        sign = {None: "", True: ", symmetric", False: ", zero points"}[self.symmetric]
        return f"{self.bits:g}-bit {self.kind}{size}{sign}" + (
            f", {self.scale_dtype} scales" if self.scale_dtype else ""
        )


class Reference(Protocol):
    """What an audit reads of the 16-bit original."""

    @property
    def plain(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """See `Checkpoint.plain`."""

    def tensor(self, name: str) -> Tensor:
        """See `Checkpoint.tensor`."""


@runtime_checkable
class Checkpoint(Protocol):
    """An opened checkpoint. Names of modules and tensors are those of the reference's architecture."""

    @property
    def layout(self) -> str:
        """Name of the row that opened it."""

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json, with its ``quantization_config``."""

    @property
    def modules(self) -> Mapping[str, StoredModule]:
        """Every matrix that is stored quantized, by its module's name."""

    @property
    def plain(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """All other tensors by name: dtype as safetensors spells it, and shape."""

    def weight(self, module: str) -> Tensor:
        """The values of a quantized matrix, float32 ``[out, in]``. Raises ModelError when it cannot be unpacked."""

    def tensor(self, name: str) -> Tensor:
        """A tensor of ``plain`` as it is stored. Raises ModelError when it cannot be read."""

    def scales(self, module: str) -> Mapping[str, Tensor]:
        """The stored tensors of a quantized matrix that values are multiplied by, by their names."""

    def suspicions(self) -> list[Finding]:
        """What the reader itself found."""


@runtime_checkable
class Layout(Protocol):
    """A row of the table."""

    @property
    def name(self) -> str:
        """Of the layout."""

    def recognises(self, place: Path, config: Mapping[str, Any]) -> bool:
        """Whether ``place`` is of this layout; ``config``: its config.json, empty where there is none."""

    def open(self, place: Path, reference: Path | None, who: str) -> Checkpoint:
        """The checkpoint in ``place``, from headers alone.

        ``reference``: directory of the 16-bit original, where one is known: for layouts with names of their own.

        Raises:
            ModelError: files are missing or damaged, or hold what the layout does not have.
        """
