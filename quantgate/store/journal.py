"""Answers written as they come: a killed run goes on where it stopped.

One line per answer, ``<crc32> <json>``. A line that a crash cut short, or that was altered, fails its checksum and is
asked again; everything before and after it counts. The checksum begins with the key the answers belong to, so that a
line from another model's answers, or to another question, is damaged here. The journal lives under ``<root>/journals``
until the finished answers are published as a store entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantgate.core import reading
from quantgate.core.errors import StoreError
from quantgate.core.requests import Response, response_from_json, response_to_json
from quantgate.store.bound import checksum


def dump_line(index: int, response: Response, key: str = "") -> str:
    """One journal line, with its line feed. ``key``: digest of the key the answers belong to."""
    body = json.dumps([index, response_to_json(response)], separators=(",", ":"))
    return f"{_checksum(body, key)} {body}\n"


def _checksum(body: str, key: str) -> str:
    return checksum(key, (body.encode(),))


def parse_line(line: str, key: str = "") -> tuple[int, Response] | None:
    """Index and response of a line, or None when it is damaged or belongs to another key."""
    found, _, body = line.partition(" ")
    if found != _checksum(body, key):
        return None
    try:
        content: list[Any] = reading.parse_json(body, reading.MOST_LINE)
        return int(content[0]), response_from_json(content[1])
    except (LookupError, TypeError, ValueError):
        return None  # another version wrote it


def read(path: Path, key: str = "") -> tuple[dict[int, Response], int]:
    """All sound answers by index, and the number of damaged lines (0 for a missing file). Raises StoreError."""
    if not path.exists():
        return {}, 0
    try:
        content = reading.read_bytes(path, reading.MOST_ROWS)
    except (OSError, reading.Unreadable) as error:
        raise StoreError(f"answers in {path}", f"cannot be read ({error})", hint="delete the file") from error
    lines = content.decode("utf-8", errors="replace").split("\n")
    parsed = [parse_line(line, key) for line in lines if line]
    return dict(answer for answer in parsed if answer is not None), parsed.count(None)


class Journal:
    """Appends answers to an open file; each is handed to the operating system at once."""

    def __init__(self, file: Any, key: str = "") -> None:
        self._file, self.key = file, key

    def add(self, index: int, response: Response) -> None:
        """Append one answer. Survives ``kill -9`` of this process from here on."""
        self._file.write(dump_line(index, response, self.key))
        self._file.flush()


@contextmanager
def appending(path: Path, key: str = "") -> Iterator[Journal]:
    """Open ``path`` for further answers. A cut last line is ended first, so that it spoils no later one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as raw:
        if raw.tell() and not _ends_with_newline(raw):
            raw.write(b"\n")
    with path.open("a", encoding="utf-8", newline="\n") as file:
        yield Journal(file, key)


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")
