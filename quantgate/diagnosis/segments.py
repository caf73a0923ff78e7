"""What a diagnosis reads: a task's own requests as token sequences with the positions that its score hangs on.

Of a text its tokens, of a question with options the first one's, of a question answered freely the prompt and the
reference's own greedy answer. What is longer than asked for loses its beginning, a text its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch

from quantgate.core.errors import UsageError
from quantgate.core.requests import Generate, Likelihood, Request, Rolling, Tokens
from quantgate.diagnosis.passes import Segment
from quantgate.runs.asked import Asked
from quantgate.tasks.rolling import RollingTask

ANSWERED: Final = 24  # tokens of the reference's own answer


def segments_of(task: str, asked: Asked, length: int, model: Any) -> list[Segment]:
    """One segment an item, of at most ``length`` tokens. ``model``: the reference, which answers free questions.

    Raises:
        UsageError: none of the items has positions to look at.
    """
    found = list(_segments(task, asked, length, model))
    if not found:
        raise UsageError(
            f"task {task}", "no item with tokens to look at", expected="another task, or a greater --limit"
        )
    return found


def _segments(task: str, asked: Asked, length: int, model: Any) -> Iterator[Segment]:
    for item, part in zip(asked.items, asked.slices, strict=True):
        requests = asked.requests[part]
        if not requests:
            continue
        segment = _segment(item.id, requests[0], item.row, length, model)
        if segment.scored > 0:
            yield segment


def _segment(name: str, request: Request, row: Any, length: int, model: Any) -> Segment:
    if isinstance(request, Rolling):
        front = row.get("first", 0) if isinstance(row, dict) else 0
        return Segment(name, request.tokens[:length], max(1, front))
    if isinstance(request, Likelihood):
        return _tail(name, request.context, request.continuation, length)
    return _tail(name, request.prompt, _answer(request, length, model), length)


def _tail(name: str, context: Tokens, scored: Tokens, length: int) -> Segment:
    scored = scored[: max(1, length - 1)]
    context = context[-max(1, length - len(scored)) :]
    return Segment(name, (*context, *scored), len(context))


@torch.no_grad()
def _answer(request: Generate, length: int, model: Any) -> Tokens:
    """The likeliest next tokens one after the other, until one that ends the answer."""
    prompt: list[int] = list(request.prompt[-max(1, length - 1) :])
    device = next(model.parameters()).device
    answer: list[int] = []
    cache, ids = None, prompt
    for _ in range(min(ANSWERED, request.max_new_tokens)):
        out = model(input_ids=torch.tensor([ids], device=device), past_key_values=cache, use_cache=True)
        cache, ids = out.past_key_values, [int(out.logits[0, -1].argmax())]
        answer += ids
        if ids[0] in request.ends:
            break
    return tuple(answer)


def bounded(tasks: Sequence[Any], length: int) -> list[Any]:
    """Tasks over texts in segments of no more than ``length`` tokens: more of them are different text."""
    from dataclasses import replace

    return [replace(task, length=min(task.length, length)) if isinstance(task, RollingTask) else task for task in tasks]
