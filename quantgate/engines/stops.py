"""Where a generated text ends, whoever generated it."""

from __future__ import annotations

from collections.abc import Sequence


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """``text`` up to the first place where any stop string begins."""
    places = [text.find(mark) for mark in stop if mark and mark in text]
    return text[: min(places)] if places else text
