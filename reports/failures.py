"""What pytest's own summary shows of a case that is not green: in a terminal a sentence that is broken between words.

pytest writes such a sentence in one piece, which a terminal breaks wherever its width ends, and what it puts behind a
failed test's name overflows the line in colours (it takes the colours for columns that are there).
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, Final

import pytest

from quantgate.core.words import folded

_LEAST: Final = 30  # with less room a test's name stands alone: "gptq4 o..." says nothing


class Sentence:
    """A failure's sentence as pytest shows it: ``text`` in the failures, ``short`` behind the test's name."""

    def __init__(self, text: str, short: str) -> None:
        self.text = text
        if short:
            self.reprcrash = SimpleNamespace(message=short)

    def __str__(self) -> str:
        return self.text

    def toterminal(self, writer: Any) -> None:
        """Write it in the width there is."""
        for line in folded(self.text, writer.fullwidth - 1):
            writer.line(line)


def fold_failures(reporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Let every failure that is a sentence fit the terminal; a log is left as it is."""
    if not reporter.isatty:
        return
    for category, word in (("failed", "FAILED"), ("error", "ERROR")):
        for report in reporter.stats.get(category, []):
            if isinstance(report.longrepr, str) and report.longrepr:
                name = config.cwd_relative_nodeid(report.nodeid)
                room = reporter._tw.fullwidth - len(f"{word} {name} - ")
                text = report.longrepr
                report.longrepr = Sentence(text, text if _whole(config) else _cut(text, room))


def _whole(config: pytest.Config) -> bool:
    """Whether pytest itself would cut nothing."""
    asked = any(os.environ.get(name) for name in ("CI", "BUILD_NUMBER")) or config.option.verbose >= 2
    return asked and not getattr(config.option, "force_short_summary", False)


def _cut(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    return f"{text[: room - 3].rpartition(' ')[0]}..." if room >= _LEAST else ""
