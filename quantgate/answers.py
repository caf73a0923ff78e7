"""Ask a model once, keep the answers: journal while asking, store entry when done.

The store's key holds the digest of the literal requests, of the weights, and the engine's version and dtype. So two
tasks that ask the same share the answers, a changed scorer costs no model run, and the 16-bit model's answers can
never be served as a quantized model's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from quantgate.progress import Progress
from quantgate.scoring.requests import Request, Response, Sink
from quantgate.store import journal
from quantgate.store.keys import ResponsesKey
from quantgate.store.store import Store

RESPONSES: Final = "responses.jsonl"
STATS: Final = "stats.json"

Ask = Callable[[Sequence[Request], frozenset[int], Sink, Path], dict[str, float]]
"""Answers all requests but those whose index is in the set, calls the sink per answer, may write further files into
the given directory, and returns plain numbers (seconds, tokens)."""


@dataclass(frozen=True)
class Answered:
    """Responses in the order of the requests. ``path``: the store entry, which may hold further files."""

    responses: list[Response]
    stats: dict[str, float]
    path: Path
    from_cache: bool


def ask(
    store: Store, key: ResponsesKey, requests: Sequence[Request], answer: Ask, progress: Progress, what: str
) -> Answered:
    """The answers to ``requests``: from the store, or by ``answer``, going on where a killed run stopped."""
    log = store.root / "journals" / f"{key.digest}.jsonl"
    extra = log.with_suffix(".files")

    def build(target: Path) -> None:
        known, damaged = journal.read(log)
        known = {index: response for index, response in known.items() if index < len(requests)}
        if known or damaged:
            lost = f", {damaged} damaged lines are asked again" if damaged else ""
            progress.note(f"resuming {what}: {len(known)} of {len(requests)} answers were kept{lost}")
        extra.mkdir(parents=True, exist_ok=True)
        with journal.appending(log) as lines:

            def sink(index: int, response: Response) -> None:
                known[index] = response
                lines.add(index, response)

            stats = answer(requests, frozenset(known), sink, extra)
        _publish(target, [known[index] for index in range(len(requests))], stats, extra)

    entry = store.fetch(key, build, what=what)
    log.unlink(missing_ok=True)
    shutil.rmtree(extra, ignore_errors=True)
    responses, _ = journal.read(entry.path / RESPONSES)
    stats: dict[str, float] = json.loads((entry.path / STATS).read_text(encoding="utf-8"))
    return Answered([responses[index] for index in range(len(requests))], stats, entry.path, entry.from_cache)


def _publish(target: Path, responses: list[Response], stats: dict[str, Any], extra: Path) -> None:
    lines = [journal.dump_line(index, response) for index, response in enumerate(responses)]
    (target / RESPONSES).write_text("".join(lines), encoding="utf-8")
    (target / STATS).write_text(json.dumps(stats) + "\n", encoding="utf-8")
    for file in sorted(extra.iterdir()):
        shutil.copyfile(file, target / file.name)
