"""What a benchmark gives is looked at before anything rests on it: it may be anybody's (entry point group
``quantgate.tasks``).

A benchmark of another package decides what is asked and what an answer scores, so it can say "all is well" without a
model. It has to ask of every item, ask the same twice, score the same twice, and score other answers otherwise. Its
faults are one sentence that names it, its errors no tracebacks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from quantgate.core.errors import DataError, translated
from quantgate.core.items import Item, ItemOutcome, digest_items
from quantgate.core.reading import visible
from quantgate.core.requests import (
    Generate,
    GenerateResponse,
    Likelihood,
    LikelihoodResponse,
    Request,
    Response,
    Rolling,
    RollingResponse,
    digest_requests,
    is_number,
)
from quantgate.tasks.base import Selection, Task
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts

_HINT: Final = "mend the benchmark, or leave it out with --tasks"
_LOOKED_AT: Final = 64  # items whose scores are asked for once more
_LONGEST: Final = 200


def is_guest(task: object) -> bool:
    """Whether another package brings it."""
    return not type(task).__module__.startswith("quantgate.")


@contextmanager
def told_of(task: Task, what: str) -> Iterator[None]:
    """Whatever a benchmark of another package raises in this block is a DataError that names it; see `translated`."""
    if not is_guest(task):
        yield
        return
    try:
        with translated(f"task {task.id}", what, kind=DataError, hint=_HINT, also=(Exception,)):
            yield
    except SystemExit as error:
        raise _fault(task, f"{what} (it ended the process: {error})") from error


def _fault(task: Task, found: str, expected: str = "") -> DataError:
    return DataError(f"task {task.id}", found, expected=expected, hint=_HINT)


def items_of(task: Task, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
    """Its items. Raises DataError where they are none, not the same twice, or two of them have one name."""
    with told_of(task, "cannot make its items"):
        items = list(task.items(data, selection, prompts))
        again = list(task.items(data, selection, prompts)) if is_guest(task) else items
    if not is_guest(task):
        return items
    for item in (*items, *again):
        _check_item(task, item)
    if len({item.id for item in items}) < len(items):
        raise _fault(task, "several items have the same id", expected="every item once")
    try:
        digests = {digest_items(items), digest_items(again)}
    except (TypeError, ValueError) as error:
        raise _fault(task, f"the row of an item is no JSON ({error})", expected="rows as the data has them") from error
    if len(digests) > 1:
        raise _fault(task, "its items differ from call to call", expected="the same for the same data and seed")
    return items


def _check_item(task: Task, item: Any) -> None:
    if not isinstance(item, Item):
        raise _fault(task, f"one of its items is a {type(item).__name__}", expected="an Item")
    for name in ("id", "group"):
        text = getattr(item, name)
        if not isinstance(text, str) or visible(text) != text or len(text) > _LONGEST:
            found = f"the {name} {repr(text)[:60]} of an item"
            raise _fault(task, found, expected=f"a text of one line, {_LONGEST} letters at most")
    if not isinstance(item.row, Mapping):
        raise _fault(task, f"the row of item {item.id} is a {type(item.row).__name__}", expected="a mapping")


def requests_of(task: Task, item: Item, prompts: Prompts) -> list[Request]:
    """What it asks about ``item``. Raises DataError where that is nothing, not the same twice, or no request."""
    if not is_guest(task):
        return task.requests(item, prompts)
    with told_of(task, f"cannot ask about item {item.id}"):
        requests, again = list(task.requests(item, prompts)), list(task.requests(item, prompts))
    if not requests:
        raise _fault(task, f"it asks nothing about item {item.id}", expected="a request at least")
    for request in requests:
        if wrong := _wrong(request, prompts.encoding.vocabulary):
            raise _fault(task, f"item {item.id}: a request {wrong}")
    if digest_requests(requests) != digest_requests(again):
        raise _fault(task, f"it asks otherwise about item {item.id} at the second call", expected="the same")
    return requests


def _wrong(request: Any, vocabulary: int) -> str:
    """Why nothing can be asked so; empty where it can. What is too long or empty is told of item by item elsewhere."""
    if type(request) not in (Likelihood, Rolling, Generate):
        return f"is a {type(request).__name__}"
    texts = {name: getattr(request, name, ()) for name in ("context", "continuation", "tokens", "prompt", "ends")}
    for name, tokens in texts.items():
        if not isinstance(tokens, tuple) or not all(type(each) is int and 0 <= each < vocabulary for each in tokens):
            return f"has other things than tokens of the model under {name}"
    if isinstance(request, Rolling) and len(request.tokens) < 2:
        return "is about a text of fewer than 2 tokens"
    if isinstance(request, Generate):
        if not request.prompt or type(request.max_new_tokens) is not int or request.max_new_tokens < 1:
            return "asks for no text"
        if not isinstance(request.stop, tuple) or not all(isinstance(each, str) for each in request.stop):
            return "has stop strings that are none"
    return ""


def outcome_of(task: Task, item: Item, responses: Sequence[Response]) -> ItemOutcome:
    """What ``item`` scores. Raises DataError where that is no outcome of this item, or no score of this metric."""
    with told_of(task, f"cannot score item {item.id}"):
        found = task.score(item, responses)
    if wrong := _wrong_outcome(task, item, found):
        raise _fault(task, f"item {item.id}: {wrong}")
    return found


def _wrong_outcome(task: Task, item: Item, found: Any) -> str:
    if not isinstance(found, ItemOutcome):
        return f"scored by a {type(found).__name__}, no ItemOutcome"
    if (found.item_id, found.group) != (item.id, item.group):
        return f"the outcome of item {str(found.item_id)[:40]!r} in group {str(found.group)[:40]!r}"
    if not isinstance(found.answer, str) or not isinstance(found.unscored, str):
        return "an answer that is no text"
    if found.score is not None and (wrong := _wrong_score(task, found.score)):
        return wrong
    numbers = (*found.companions.values(), *found.facts)
    return "" if all(map(is_number, numbers)) else "companions or facts that are no plain numbers"


def _wrong_score(task: Task, score: Any) -> str:
    metric = task.metric
    if not is_number(score):
        return f"a {type(score).__name__} for a score, no float"
    if math.isnan(score):  # of a broken model: the verdict says so
        return ""
    if metric.scale.either and score not in (0, 1):
        return f"the score {score} of a metric of 0 and 1"
    if metric.best is not None and metric.worst is not None:
        low, high = sorted((metric.best, metric.worst))
        return "" if low <= score <= high else f"the score {score}, which does not lie between {low:g} and {high:g}"
    return ""


def check_depends(task: Task, asked: Sequence[tuple[Item, Sequence[Response]]], found: Sequence[ItemOutcome]) -> None:
    """Raise DataError for a benchmark of another package whose scores differ from call to call, or hang on no answer.

    ``asked``: items with their responses; ``found``: their outcomes. Scores that stay whatever is answered compare no
    models, and would pass any.
    """
    if not is_guest(task):
        return
    looked_at = [(item, responses, old) for (item, responses), old in zip(asked, found, strict=True) if responses]
    looked_at = looked_at[:_LOOKED_AT]
    moved = False
    for item, responses, old in looked_at:
        if not _same(outcome_of(task, item, responses), old):
            raise _fault(task, f"item {item.id} scores otherwise at the second call", expected="the same")
        moved = moved or any(_moves(task, item, other, old) for other in _otherwise(responses))
    if looked_at and not moved:
        raise _fault(task, "its scores are the same whatever is answered", expected="scores of the answers")


def _moves(task: Task, item: Item, responses: Sequence[Response], old: ItemOutcome) -> bool:
    try:
        return not _same(outcome_of(task, item, responses), replace(old, answer=""), answers=False)
    except DataError:
        return True  # it cannot read them, so it looked at them


def _same(new: ItemOutcome, old: ItemOutcome, *, answers: bool = True) -> bool:
    def told(outcome: ItemOutcome) -> str:
        parts = [outcome.score, dict(outcome.companions), list(outcome.facts), outcome.unscored]
        return json.dumps([*parts, outcome.answer if answers else ""], sort_keys=True)

    return told(new) == told(old)


def _otherwise(responses: Sequence[Response]) -> Iterator[list[Response]]:
    """Other answers to the same: the likeliest option is least likely, texts empty or backwards, losses larger."""
    yield [_other(each, responses, 0) for each in responses]
    yield [_other(each, responses, -1) for each in responses]


def _other(response: Response, among: Sequence[Response], less: int) -> Response:
    if isinstance(response, GenerateResponse):
        return replace(response, text=response.text[::-1] if less else "")
    if isinstance(response, RollingResponse):
        return replace(response, nll=tuple(value + 1 for value in response.nll))
    if not isinstance(response, LikelihoodResponse):
        return response
    every = [each.logprob for each in among if isinstance(each, LikelihoodResponse)]
    opposite = min(every) + max(every) - response.logprob + less
    return replace(response, logprob=opposite, greedy=not response.greedy)


def guessing(task: Task, requests: Sequence[Sequence[Request]]) -> float | None:
    """What a guess among the options scores on 0/1 items of another package's benchmark; None where there are none.

    ``requests``: by item. A benchmark that calls chance less than that would judge a model that knows nothing.
    """
    if not is_guest(task) or not task.metric.scale.either or not task.metric.higher_is_better:
        return None
    options = [each for each in requests if each]
    chosen = [each for each in options if len(each) > 1 and all(isinstance(one, Likelihood) for one in each)]
    if not chosen or len(chosen) < len(options):
        return None
    return math.fsum(1 / len(each) for each in chosen) / len(chosen)
