"""Sentences for a terminal: broken between words, while a log keeps each as one line that can be searched."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import IO

_USUAL_WIDTH = 80


def counted(number: int, one: str, many: str = "") -> str:
    """``1 item``, ``2 items``; ``many`` where an ``s`` at the end does not make it: ``weight is``, ``weights are``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def folded(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` columns; names and paths stay whole, so that they can be copied."""
    return [
        line
        for paragraph in text.split("\n")
        for line in textwrap.wrap(
            paragraph, max(20, width), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        or [""]
    ]


def for_stream(text: str, stream: IO[str], before: int = 0) -> str:
    """``text`` as it is written to ``stream``, behind ``before`` columns: folded where that is a terminal."""
    if not stream.isatty():
        return text
    try:
        width = os.get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH
    except (OSError, ValueError):
        width = _USUAL_WIDTH
    return "\n".join(folded(" " * before + text, width - 1)).lstrip()


def say(text: str) -> None:
    """A sentence on stdout, at once."""
    print(for_stream(text, sys.stdout), flush=True)
