"""What all tasks with a choice between options share: the outcome of comparing their likelihoods."""

from __future__ import annotations

import math
from collections.abc import Sequence

from quantgate.tasks.base import Item, ItemOutcome


def score_options(item: Item, logprobs: Sequence[float], right: int, names: Sequence[str]) -> ItemOutcome:
    """Outcome of a multiple-choice item: 1 when ``right`` is the likeliest; NaN likelihoods make it unscored.

    The companion ``prob_right`` is the probability of the right option among the options: it moves before the argmax
    does, so it needs fewer items to show a loss.
    """
    if not all(math.isfinite(value) for value in logprobs):
        return ItemOutcome(item.id, item.group, None, unscored="the model gave a likelihood that is not finite")
    best = max(range(len(logprobs)), key=lambda index: logprobs[index])
    total = math.fsum(math.exp(value - logprobs[best]) for value in logprobs)
    prob_right = math.exp(logprobs[right] - logprobs[best]) / total
    return ItemOutcome(item.id, item.group, float(best == right), names[best], {"prob_right": prob_right})
