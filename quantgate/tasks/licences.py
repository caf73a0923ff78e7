"""Whose items a report may quote: those written for this project, and those of datasets under a permissive licence.

The licences are those on the datasets' own cards. What is not listed is named by its id alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from quantgate.tasks.data import BUNDLED

PERMISSIVE: Final[Mapping[str, str]] = {
    "cais/mmlu": "MIT",
    "openai/gsm8k": "MIT",
    "truthfulqa/truthful_qa": "Apache-2.0",
    "google/IFEval": "Apache-2.0",
}
_QUESTIONS: Final = ("question", "prompt")


def quotable(row: Mapping[str, Any], dataset: str, source: str) -> str:
    """The question of ``row``, where a report may show it; else an empty string. ``source``: the data source's name."""
    if source != BUNDLED and dataset not in PERMISSIVE:
        return ""
    return next((row[name] for name in _QUESTIONS if isinstance(row.get(name), str)), "")
