"""What pure functions said of files whose digests are known, so that a second run need not call them.

A tokenizer that has to be loaded, and asked once more for every prompt of the run before, takes longer than all else
that a run does which finds its answers in the store. What it said is kept as `<root>/facts/<digest>.json`: under the
digests of the files, everything that is installed, and the digest of quantgate's own code, so that a changed line of it
forgets everything. A file of facts that is damaged, edited, too large or made for another key is as
good as none: all of it can be asked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

from quantgate.core import reading
from quantgate.core.errors import StoreError
from quantgate.core.keys import Key
from quantgate.core.reading import Unreadable
from quantgate.store import bound
from quantgate.store.store import write_atomically

MOST: Final = 24 << 20
"""Characters of a file of facts: the prompts of a hundred thousand short questions. What asks more takes minutes."""

MOST_KEPT: Final = 256 << 20
"""Bytes of all files of facts in a store."""

_ABANDONED_S: Final = 3600.0  # nobody writes a file of facts that long


@dataclass(frozen=True)
class FactsKey(Key):
    """What facts hang on. ``files``: digests of what was read; ``libraries``: what is installed, by which it was read
    (`quantgate.core.installed`); ``scope``: what they were asked for (a task, say); ``code``: see :func:`code_digest`.
    """

    kind: ClassVar[str] = "facts"
    files: Mapping[str, str]
    libraries: Mapping[str, str]
    scope: str
    code: str


class Facts:
    """What was said under one key.

    Args:
        root: directory of the store.
        key: everything that what is remembered hangs on, beside the arguments.
        certain: whether that still holds; asked before something is looked up, and again before something is kept.
    """

    def __init__(self, root: Path, key: FactsKey, certain: Callable[[], bool] = lambda: True) -> None:
        self._path, self._key = root / key.kind / f"{key.digest}.json", key.digest
        self._certain = certain
        self._used: dict[str, str] = {}
        self._room = MOST
        self._new = False

    def remember(self, name: str, of: bytes, ask: Callable[[], str]) -> str:
        """What ``name`` says of the argument ``of``: what it said before, or what ``ask`` says now."""
        place = hashlib.blake2b(name.encode() + b"\0" + of, digest_size=16).hexdigest()
        found = self._known.get(place, self._used.get(place))
        if found is None:
            found = ask()
            self._new = True
        if place not in self._used and self._room >= 0:
            self._used[place] = found
            self._room -= _size(place, found)
        return found

    def keep(self) -> None:
        """Write what was said for the next run: what was known with it where that is not too much, and where what this
        run asked is too much by itself, nothing.
        """
        if not self._new or self._room < 0 or not self._certain():
            return
        self._new = False
        both = self._known | self._used
        kept = both if sum(itertools.starmap(_size, both.items())) <= MOST else self._used
        with contextlib.suppress(StoreError, OSError):  # nothing is lost but time
            write_atomically(self._path, bound.sealed_text(self._path.name, kept, self._key))
            _trim(self._path.parent)

    @cached_property
    def _known(self) -> dict[str, str]:
        if not self._certain():
            return {}
        try:
            found = bound.read_json(self._path, self._key, MOST + (1 << 20))
        except (OSError, Unreadable):
            return {}
        whole = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
        return found if whole else {}


def remembered(facts: Facts, ask: Callable[[], Any]) -> Any:
    """The one thing that ``facts`` hold, as JSON (lists come for tuples): what ``ask`` said before, or says now."""
    said = facts.remember("", b"", lambda: json.dumps(ask()))
    facts.keep()
    return reading.parse_json(said)


def _size(place: str, said: str) -> int:
    return len(place) + len(json.dumps(said)) + 6  # as it is written, with quotes and commas


def _trim(folder: Path) -> None:
    """Delete the oldest files of facts while all of them take more than `MOST_KEPT`: those of earlier code, mostly; and
    what a killed run left of one.
    """
    for part in folder.glob(".*.part"):
        if part.stat().st_mtime < time.time() - _ABANDONED_S:
            part.unlink(missing_ok=True)
    known = sorted(
        ((path.stat().st_mtime_ns, path.stat().st_size, path) for path in folder.glob("*.json")), reverse=True
    )
    room = MOST_KEPT
    for _, size, path in known:
        room -= size
        if room < 0:
            path.unlink(missing_ok=True)


@cache
def code_digest() -> str:
    """sha256 over quantgate's own Python files."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        content = reading.read_bytes(file)
        digest.update(f"{file.relative_to(root).as_posix()}:{len(content)}\n".encode() + content)
    return digest.hexdigest()
