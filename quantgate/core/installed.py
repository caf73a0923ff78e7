"""What is installed here, told without importing any of it."""

from __future__ import annotations

import hashlib
import locale
import platform
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

_LOADED: Final = ("torch", "transformers", "tokenizers")  # the first on the path, whoever put it there


@cache
def installed() -> Mapping[str, str]:
    """Python, every installed distribution with its version, and where the libraries come from that load models.

    All distributions count: what has a say in a tokenizer (``mistral-common``, ``sacremoses``, ``jieba``, ...) shows
    only once transformers looks for it. A library that is built or put elsewhere has the same version, but another
    place or time.
    """
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}, {locale.getencoding()}",
        "distributions": _digest(sorted(set(_distributions()))),
        "libraries": _digest(map(_stamp, _LOADED)),
    }


def _distributions() -> Iterator[str]:
    """Folders of metadata, whose names hold a version: ``torch-2.9.0.dist-info``."""
    for place in sys.path:
        try:
            yield from (found.name for found in Path(place).iterdir() if found.suffix in (".dist-info", ".egg-info"))
        except OSError:  # none, or an archive
            continue


def _stamp(module: str) -> str:
    found = PathFinder.find_spec(module)
    if found is None or found.origin is None:
        return f"{module}: none"
    try:
        facts = Path(found.origin).stat()
    except OSError:
        return f"{module}: {found.origin}"
    return f"{module}: {found.origin}, {facts.st_size}, {facts.st_mtime_ns}"


def _digest(lines: Iterator[str] | list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
