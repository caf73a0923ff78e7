"""Which items turned between the reference and a subject: ids, both answers or scores, and the text where it may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import PROB_RIGHT, scale_of
from quantgate.core.records import Result
from quantgate.tasks.licences import Quotable
from quantgate.verdict.evidence import outcomes_from_json

MOST: Final = 8
"""Items shown of a case in text."""
MOST_SHOWN: Final = 40
"""Items shown of a case on the page."""
_LETTERS: Final = 120
_OPTION: Final = 60
_MOST_OPTIONS: Final = 10
HEADER: Final = ("item", "question", "16-bit", "subject", "change")
MEANING: Final = (
    "Each side: what was answered, then its score, then p, the probability that it gave the right option among the "
    "options. ✓ marks the right option where the options may be quoted."
)


@dataclass(frozen=True)
class Turned:
    """One item that came out otherwise; ``harm``: how much worse its score is, above 0 when it is worse."""

    item: str
    before: str
    after: str
    harm: float

    @property
    def change(self) -> str:
        """In a word."""
        return "worse" if self.harm > 0 else "better" if self.harm < 0 else "another answer"


def turned(result: Result, sides: Mapping[str, Any]) -> list[Turned]:
    """The items of a case that came out otherwise, the most harmed first.

    Args:
        result: the case's record.
        sides: ``rule``, ``reference`` and ``subject`` as the evidence holds them.
    """
    before = {outcome.item_id: outcome for outcome in outcomes_from_json(sides["reference"])}
    sign = -1.0 if result.higher_is_better else 1.0
    either = scale_of(sides.get("rule", {}).get("metric", {}).get("kind", "")).either
    found = []
    for after in outcomes_from_json(sides["subject"]):
        earlier = before.get(after.item_id)
        if earlier is None or (earlier.score, earlier.answer) == (after.score, after.answer):
            continue
        harm = sign * (after.score - earlier.score) if None not in (after.score, earlier.score) else 0.0  # type: ignore[operator]
        found.append(Turned(after.item_id, _told(earlier, either), _told(after, either), harm))
    return sorted(found, key=lambda each: -each.harm)


def _told(outcome: ItemOutcome, either: bool) -> str:
    """Answer, score and the right option's probability, as far as there are any."""
    if outcome.score is None:
        return f"unscored: {outcome.unscored}"
    score = {0.0: "wrong", 1.0: "right"}.get(outcome.score, "") if either else ""
    score = score or f"{outcome.score:.4g}"
    if (right := outcome.companions.get(PROB_RIGHT.name)) is not None:
        score += f", p {right:.2f}"
    return f"{_short(outcome.answer)} ({score})" if outcome.answer else score


def scores(outcomes: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Item -> score, of outcomes as the evidence holds them."""
    return {each.item_id: each.score for each in outcomes_from_json(outcomes) if each.score is not None}


def rows(found: Sequence[Turned], texts: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The first `MOST` of ``found`` as rows; ``texts``: item -> what may be quoted."""
    return [(each.item, texts.get(each.item, ""), each.before, each.after, each.change) for each in found[:MOST]]


def quotes(found: Iterable[Turned], quotable: Mapping[str, Quotable]) -> dict[str, str]:
    """Item -> a short piece of its question and of its options, of the items that are shown."""
    shown = [each.item for each in found][:MOST_SHOWN]
    return {item: _quote(quotable[item]) for item in shown if item in quotable and quotable[item].question}


def _quote(item: Quotable) -> str:
    options = [
        f"{name}{' ✓' if name in item.right else ''}: {_short(text, _OPTION)}"
        for name, text in item.options[:_MOST_OPTIONS]
    ]
    return " | ".join([_short(item.question), *options])


def _short(text: str, most: int = _LETTERS) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"
