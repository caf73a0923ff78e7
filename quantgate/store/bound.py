"""What an entry holds is tied to the entry's key, file by file: copied under another key it is damaged there.

``entry.json`` says whether files are those that were published, but anybody can write one anew. A checksum that begins
with the key, inside the file, shows a file that was made for something else, or edited by hand. It is no signature: who
computes it anew is not found out.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.reading import Unreadable

_CHECKSUM: Final = "checksum"
_CONTENT: Final = "content"


def checksum(key: str, parts: Iterable[Any]) -> str:
    """crc32 over the ``key`` (a digest, and what else names the content) and then all ``parts`` (buffers of bytes)."""
    found = zlib.crc32(key.encode())
    for part in parts:
        found = zlib.crc32(part, found)
    return f"{found:08x}"


def write_json(path: Path, content: Any, key: str) -> None:
    """Write ``content`` with the checksum that ties it to ``key``. The name of the file counts too."""
    path.write_text(sealed_text(path.name, content, key), encoding="utf-8")


def sealed_text(name: str, content: Any, key: str) -> str:
    """What `write_json` writes into the file called ``name``."""
    return json.dumps({_CHECKSUM: _json_checksum(name, content, key), _CONTENT: content}) + "\n"


def read_json(path: Path, key: str, most: int = reading.MOST_SETTINGS) -> Any:
    """What `write_json` was given, at most ``most`` bytes of it.

    Raises:
        OSError: the file cannot be opened.
        Unreadable: it is no JSON, was edited, or was written for another key.
    """
    sealed = reading.parse_object(reading.read_text(path, most))
    if sealed.keys() != {_CHECKSUM, _CONTENT}:
        raise Unreadable("its checksum is missing")
    if sealed[_CHECKSUM] != _json_checksum(path.name, sealed[_CONTENT], key):
        raise Unreadable("it was edited, or belongs to another entry")
    return sealed[_CONTENT]


def _json_checksum(name: str, content: Any, key: str) -> str:
    body = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return checksum(key, (name.encode(), body.encode()))
