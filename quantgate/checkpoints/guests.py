"""Readers of other packages: what they say of configurations. It stands below the table of readers and what asks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from quantgate.checkpoints.fields import Declared
from quantgate.core.registry import installed

GROUP: Final = "quantgate.readers"
"""Entry point group by which other packages add rows to `quantgate.checkpoints.layouts.table`."""


def declaring() -> dict[str, Callable[[Mapping[str, Any], str], Declared]]:
    """What they say of their configurations, by ``quant_method``; see `PartsLayout.declares`."""
    rows = [row for _, row in installed(GROUP) if callable(getattr(row, "declares", None))]
    return {method: row.declares for row in rows for method in getattr(row, "methods", ())}
