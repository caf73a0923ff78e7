"""What ``MANIFEST.json`` of a data directory says about a split: where its rows are from, and what they are not.

A directory may hold a part of a benchmark, or a set of the same name cut out of another source; a record must say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.reading import Unreadable
from quantgate.tasks.data import DataSource, DirectorySource

NAME: Final = "MANIFEST.json"
_MOST: Final = 1 << 24
_LONGEST: Final = 400


def manifest_note(data: DataSource, dataset: str, config: str, split: str) -> str:
    """Rows of how many, source, and what the manifest says of this configuration; empty where it says nothing."""
    if not isinstance(data, DirectorySource):
        return ""
    entry = _entry(data.root / NAME, dataset.replace("/", "__"))
    parts = _at(entry, "configs", config, split)
    said = []
    if isinstance(parts.get("rows"), int):
        whole = parts.get("rows_in_full_split")
        said.append(f"{parts['rows']}{f' of {whole}' if isinstance(whole, int) else ''} rows")
    if isinstance(parts.get("source"), str):
        said.append(f"from {parts['source']}")
    notes = entry.get("notes")
    found = (
        re.search(rf"(?<![\w-]){re.escape(config)}: ([^.]+)\.", notes) if config and isinstance(notes, str) else None
    )
    if found:
        said.append(found[1])
    return "; ".join(said)[:_LONGEST]


@lru_cache(maxsize=64)
def _entry(path: Path, folder: str) -> Mapping[str, Any]:
    try:
        return _at(reading.read_json(path, _MOST), "datasets", folder)
    except (OSError, Unreadable):
        return {}  # it is no part of the data: without it nothing more is known


def _at(content: Any, *names: str) -> Mapping[str, Any]:
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}
