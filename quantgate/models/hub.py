"""Checkpoints named by their place on the hub: ``hub:ORG/REPO@REV``, or one file of it, ``hub:ORG/REPO/FILE.gguf@REV``.

Only files that a reader here reads are fetched: safetensors, JSON, vocabularies, templates, a GGUF file that is named.
A revision that moves (a branch) is looked up once a process, and offline in the cache that the hub's client keeps.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from quantgate.core.errors import UsageError
from quantgate.models.source import fetched, snapshot

PREFIX: Final = "hub:"
_PLACE: Final = re.compile(
    r"hub:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(?P<file>[\w./-]+\.gguf))?(?:@(?P<revision>[\w./-]+))?"
)
_FOUND: Final[dict[str, Path]] = {}


def is_on_hub(place: str) -> bool:
    """Whether ``place`` names a repository, not a directory."""
    return place.startswith(PREFIX)


def check_place(place: str, who: str) -> None:
    """Raise UsageError about ``who`` unless ``place`` is spelt as a place on the hub is."""
    match = _PLACE.fullmatch(place)
    if match is None or ".." in (match["file"] or "").split("/"):
        raise UsageError(who, repr(place), expected="hub:ORG/REPO, hub:ORG/REPO@REV or hub:ORG/REPO/FILE.gguf@REV")


def local(place: str, *, offline: bool = True) -> Path:
    """Where the files of ``place`` lie on this machine, fetched where they are not there and ``offline`` is false.

    Raises:
        UsageError: see `check_place`.
        ModelError: neither the hub nor its cache has it.
    """
    if place not in _FOUND:
        check_place(place, place)
        match = _PLACE.fullmatch(place)
        assert match is not None
        repo, file, revision = match["repo"], match["file"], match["revision"]
        _FOUND[place] = fetched(repo, file, revision, offline) if file else snapshot(repo, revision, offline)
    return _FOUND[place]
