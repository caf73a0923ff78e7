"""Wrong usage as pytest is told of it."""

from __future__ import annotations

import sys
from typing import Final

import pytest

from quantgate.core.words import for_stream

_BEFORE: Final = len("ERROR: ")  # what pytest writes before it


def wrong_usage(text: str) -> pytest.UsageError:
    """pytest's error for a command that cannot be meant (exit code 4); in a terminal it is broken between words."""
    return pytest.UsageError(for_stream(text, sys.stderr, _BEFORE))
