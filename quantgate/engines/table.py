"""The table of engines. Other packages add rows by the entry point group ``quantgate.engines``."""

from __future__ import annotations

from typing import Final

from quantgate.core.errors import UsageError
from quantgate.core.naming import suggestion
from quantgate.core.registry import rows_of
from quantgate.engines.protocol import EngineRow
from quantgate.engines.torch.row import TorchRow

GROUP: Final = "quantgate.engines"


def engines() -> dict[str, EngineRow]:
    """Name -> row, those of installed packages included.

    Raises:
        UsageError: a package brings what is no row, or one that is called like another.
    """
    own: list[EngineRow] = [TorchRow()]
    return rows_of(GROUP, EngineRow, own, lambda row: row.name)


def engine_called(name: str) -> EngineRow:
    """The row called ``name``. Raises UsageError, with the closest names, when there is none."""
    known = engines()
    if name not in known:
        raise UsageError("--engine", f"unknown engine {name!r}", hint=suggestion(name, list(known)))
    return known[name]
