"""What a task asks of a model: items, requests, and what was left out of them so that they fit the model's context.

A prompt that is too long loses its few-shot examples one by one, the first ones first. An item that does not fit
without any is not asked, and is ``unscored`` with that reason; nor is an item whose answer nobody could score, one
that cannot be put into a prompt (an empty option, text that is no Unicode, a row that the chat template refuses), or
one that asks the same as an earlier one. An item never stands among its own examples. All of it depends on the task and
the reference's tokenizer and context alone, so reference and subject are asked the same, and all of it is counted in
the record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from quantgate.core.errors import ModelError
from quantgate.core.items import REPEATED, Item
from quantgate.core.requests import Generate, Likelihood, Request, digest_requests
from quantgate.tasks.base import Choosy, Shortening, Specific, Task
from quantgate.tasks.checked import requests_of
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.repeats import Copies, check_unique, is_text


@dataclass(frozen=True)
class Asked:
    """A task's items, their requests in one row, and which slice belongs to which item.

    By item id: ``shortened`` says what of the prompt was left out, ``unasked`` why nothing is asked. ``detail``: what
    the task's protocol leaves open and these items settle.
    """

    items: list[Item]
    requests: list[Request]
    slices: list[slice]
    shortened: Mapping[str, str] = field(default_factory=dict)
    unasked: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""

    @cached_property
    def digest(self) -> str:
        """Digest of the literal requests."""
        return digest_requests(self.requests)

    def part(self, indices: Iterable[int]) -> Asked:
        """Some of the items, in the order given."""
        found = Asked([], [], [], self.shortened, self.unasked, self.detail)
        for index in indices:
            found.add(self.items[index], self.requests[self.slices[index]])
        return found

    def add(self, item: Item, requests: Sequence[Request]) -> None:
        """Append an item with its requests."""
        self.items.append(item)
        self.slices.append(slice(len(self.requests), len(self.requests) + len(requests)))
        self.requests.extend(requests)

    def counts(self, names: Iterable[str]) -> dict[str, int]:
        """How many of the items called ``names`` were shortened, by what was left out."""
        return dict(Counter(self.shortened[name] for name in names if name in self.shortened))

    def notes(self, task: str) -> list[str]:
        """One sentence for what was settled, and for everything that was left out."""
        of = f"of {len(self.items)} items"
        short = [f"{count} {of} are asked with {what}" for what, count in self.counts(self.shortened).items()]
        left = [f"{count} {of} are not asked: {reason}" for reason, count in Counter(self.unasked.values()).items()]
        detail = [self.detail] if self.detail else []
        return [f"{task}: {what}" for what in (*detail, *short, *left)]


def ask_items(task: Task, items: Sequence[Item], prompts: Prompts) -> Asked:
    """The requests for ``items``, each as far as it fits.

    Raises:
        DataError: most items are copies of others.
        ModelError: no item at all can be put into a prompt.
    """
    shortened: dict[str, str] = {}
    unasked: dict[str, str] = {}
    copies = Copies(task, prompts)
    refused: list[ModelError] = []
    detail = str(task.as_asked(items, prompts)) if items and isinstance(task, Specific) else ""
    asked = Asked([], [], [], shortened, unasked, detail)
    for item in items:
        if reason := _unaskable(task, item) or (REPEATED if copies.earlier(item) else ""):
            unasked[item.id] = reason
            asked.add(item, [])
            continue
        apart = copies.apart_from_itself(item)
        try:
            fitting, requests = _fitted(task, apart, prompts)
        except ModelError as error:
            fitting, requests, reason = item, [], error.found
            refused.append(error)
        if reason := reason or _unfit(requests, prompts):
            unasked[item.id], requests = reason, []
        elif missing := _missing(task, (item, apart, fitting), requests, prompts):
            shortened[item.id] = missing
        asked.add(fitting, [prompts.ended(each) if isinstance(each, Generate) else each for each in requests])
    if refused and not asked.requests:
        raise refused[0]
    check_unique(task.id, copies.found, len(items))
    return asked


def _unaskable(task: Task, item: Item) -> str:
    """Why nobody could be asked this item, or nobody could score it; empty when it can."""
    if isinstance(task, Choosy) and (reason := task.unscorable(item)):
        return reason
    return "" if is_text(item.row) else "its text is no Unicode (a lone surrogate)"


def _unfit(requests: Sequence[Request], prompts: Prompts) -> str:
    """Why these requests cannot be asked; empty when they can."""
    if not all(_tokens_read(request, 1) <= prompts.max_length for request in requests):
        return f"its prompt is longer than the model's context of {prompts.max_length} tokens"
    pairs = [request for request in requests if isinstance(request, Likelihood)]
    if not all(request.context and request.continuation for request in pairs):
        return "an option has no token of its own behind its context"
    return "" if all(prompts.decode(request.continuation).strip() for request in pairs) else "an option is empty"


def _fitted(task: Task, item: Item, prompts: Prompts) -> tuple[Item, list[Request]]:
    """The item with as many of its last examples as fit (none at worst), and its requests."""
    requests = requests_of(task, item, prompts)
    while item.shots and not _fit(requests, prompts):
        item = replace(item, shots=item.shots[1:])
        requests = requests_of(task, item, prompts)
    return item, requests


def _missing(task: Task, stages: tuple[Item, Item, Item], requests: Sequence[Request], prompts: Prompts) -> str:
    """What was left out, for the record; empty when nothing. ``stages``: whole, apart from itself, as it fits."""
    item, apart, fitting = stages
    found = []
    if len(fitting.shots) < len(item.shots):
        found.append(f"{len(fitting.shots)} of {len(item.shots)} examples")
    if len(apart.shots) < len(item.shots):
        found.append("itself taken out of them")
    if isinstance(task, Shortening) and (cut := task.shortened(fitting, prompts)):
        found.append(cut)
    if not _fit(requests, prompts):
        found.append(f"room for fewer than {max(map(_new_tokens, requests))} new tokens")
    return ", ".join(found)


def _fit(requests: Sequence[Request], prompts: Prompts) -> bool:
    """Whether all requests fit the context with the longest answer they allow."""
    return all(_tokens_read(request, _new_tokens(request)) <= prompts.max_length for request in requests)


def _new_tokens(request: Request) -> int:
    return request.max_new_tokens if isinstance(request, Generate) else 0


def _tokens_read(request: Request, new: int) -> int:
    """Tokens that must be read for up to ``new`` generated ones. The last token, generated or scored, never is."""
    if isinstance(request, Generate):
        return len(request.prompt) + new - 1
    whole = len(request.context) + len(request.continuation) if isinstance(request, Likelihood) else len(request.tokens)
    return whole - 1
