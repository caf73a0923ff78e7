"""Which answers turned between two runs of 0/1 scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from quantgate.core.items import ItemOutcome

FLIPS: Final[Mapping[str, str]] = {
    "right_to_wrong": "right to wrong",
    "wrong_to_right": "wrong to right",
    "wrong_to_other": "to another wrong answer",
}


def calls(reference: Sequence[ItemOutcome], subject: Sequence[ItemOutcome]) -> dict[str, int]:
    """Flips by kind: ``right_to_wrong``, ``wrong_to_right`` and ``wrong_to_other`` (another wrong answer)."""
    before = {outcome.item_id: outcome for outcome in reference}
    found = dict.fromkeys(FLIPS, 0)
    for after in subject:
        old = before.get(after.item_id)
        if old is None or old.score is None or after.score is None:
            continue
        if old.score != after.score:
            found["right_to_wrong" if after.score < old.score else "wrong_to_right"] += 1
        elif old.answer != after.answer:
            found["wrong_to_other"] += 1
    return found
