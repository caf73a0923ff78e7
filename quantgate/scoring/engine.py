"""The in-process engine: answers any mixture of requests with one transformers model.

All Likelihood and Rolling requests of a run are read over one prefix tree (``tree``, ``plan``, ``reader``, ``scored``);
Generate requests follow with continuous batching (``generation``). Sinks are called as soon as an answer is known, so
an interrupted run can go on with the requests that have no answer yet.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import torch

from quantgate.errors import DataError
from quantgate.memory import LARGEST_KEPT, kept_heap
from quantgate.progress import Progress
from quantgate.scoring.adapter import CausalModel
from quantgate.scoring.fidelity import TopKReader, TopKWriter
from quantgate.scoring.generation import GenerationRun
from quantgate.scoring.plan import Limits
from quantgate.scoring.requests import Generate, Likelihood, Request, Rolling, Sink
from quantgate.scoring.scored import ScoredRun

_BATCH_TOKENS: Final = {"cpu": 4096, "cuda": 16384}
_WIDE_BATCH_TOKENS: Final = 2048  # on CPU, for models whose activations would not be kept; above the noise run's size
_WIDTHS: Final = ("hidden_size", "intermediate_size", "ffn_dim", "n_inner")
_CONTEXT_PER_BATCH: Final = 8


@dataclass(slots=True)
class RunStats:
    """What a run did.

    Attributes:
        tokens_read: tokens forwarded in prompts and segments, repeats included, padding not.
        tokens_unique: those of them that are different nodes of the prefix tree.
        tokens_generated: new tokens of Generate requests.
        attended: pairs of query and key among the unique tokens (for the attention's share of the operations).
        positions_scored: positions whose logits were computed.
        seconds: wall time.
    """

    tokens_read: int = 0
    tokens_unique: int = 0
    tokens_generated: int = 0
    attended: int = 0
    positions_scored: int = 0
    seconds: float = 0.0


def wide_batch(config: Any, dtype: torch.dtype, device: str) -> int | None:
    """Tokens a pass for a model whose widest activation would cost page faults every time on a CPU; None for others.

    Measured with random weights of hidden size 2,048 (feed-forward 5,632), one thread: 12 to 19% more tokens a second
    with 2,048 a pass than with 4,096; with hidden size 4,096 it is 4 to 6%.

    Args:
        config: transformers' text configuration.
        dtype: of the activations.
        device: ``cpu``, ``cuda``, ...
    """
    widest = max(int(getattr(config, name, None) or 0) for name in _WIDTHS)
    too_wide = device == "cpu" and _BATCH_TOKENS[device] * widest * dtype.itemsize > LARGEST_KEPT
    return _WIDE_BATCH_TOKENS if too_wide else None


def limits_for(batch: int, model: CausalModel) -> Limits:
    """The usual limits for a model under a budget of ``batch`` tokens a pass."""
    plain = Limits()
    return replace(
        plain,
        batch=batch,
        context=_CONTEXT_PER_BATCH * batch,
        row=min(plain.row, batch),
        item=min(plain.item, batch),
        branching=model.branching,
        in_place=model.shares_prefixes,
    )


class TorchEngine:
    """Answers requests with a transformers causal LM.

    Args:
        model: any causal LM of transformers with a key/value cache, in evaluation mode, already on ``device``.
        tokenizer: decodes what is generated (always the reference's).
        device: where inputs go.
        batch_tokens: tokens read in one forward pass; bounds the memory. None chooses by device.
        progress: is told about tokens done.
        what: prefix of the progress text, for example ``gptq4 mmlu``.

    Raises:
        ModelError: the model cannot be scored this way.
    """

    version: ClassVar[int] = 4  # counts up whenever answers could change

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        device: str | torch.device = "cpu",
        batch_tokens: int | None = None,
        progress: Progress,
        what: str = "",
    ) -> None:
        self.model = CausalModel(model, device)
        self.tokenizer, self.progress, self.what = tokenizer, progress, what
        kind = self.model.device.type
        batch = batch_tokens or wide_batch(self.model.config, model.dtype, kind) or _BATCH_TOKENS.get(kind, 4096)
        self.limits = limits_for(batch, self.model)

    @torch.no_grad()
    def run(
        self,
        requests: Sequence[Request],
        sink: Sink,
        *,
        topk: TopKWriter | None = None,
        against: TopKReader | None = None,
    ) -> RunStats:
        """Answer all requests, calling ``sink(index, response)`` once for each, in any order.

        Args:
            requests: any mixture; their order does not change an answer.
            sink: may raise; the run then ends with that exception.
            topk: keeps the top-k log-probabilities of every Rolling request (on the reference).
            against: compares every Rolling request with the reference's (on a subject).

        Raises:
            DataError: a request is empty or longer than the model's maximum; nothing was run then.
        """
        started = time.perf_counter()
        for index, request in enumerate(requests):
            self._check(index, request)
        stats = RunStats()
        scored = {index: request for index, request in enumerate(requests) if isinstance(request, Likelihood | Rolling)}
        prompts = {index: request for index, request in enumerate(requests) if isinstance(request, Generate)}
        with kept_heap(), self.model.running():
            if scored:
                self._score(ScoredRun(self.model, scored, self.limits, sink, topk=topk, against=against), stats)
            if prompts:
                self._generate(GenerationRun(self.model, self.tokenizer, prompts, self.limits, sink), stats)
        stats.seconds = time.perf_counter() - started
        return stats

    def _score(self, run: ScoredRun, stats: RunStats) -> None:
        tree, total = run.plan.tree, run.plan.tokens_read
        what = f"{self.what} scoring".strip()
        done = 0
        self.progress.step(what, 0, total)
        for reading in run.read():
            stats.positions_scored += run.score(reading)
            done += sum(len(row.ids) for row in reading.batch.rows)
            self.progress.step(what, done, total)
        stats.tokens_read += total
        stats.tokens_unique += len(tree)
        stats.attended += sum(tree.depth) + len(tree)

    def _generate(self, run: GenerationRun, stats: RunStats) -> None:
        tree = run.plan.tree
        what = f"{self.what} generating".strip()
        self.progress.step(what, 0, run.total)
        for done in run.steps():
            self.progress.step(what, done, run.total)
        stats.tokens_read += run.plan.tokens_read
        stats.tokens_unique += len(tree)
        stats.attended += sum(tree.depth) + len(tree)
        stats.tokens_generated += run.generated
        stats.positions_scored += run.generated

    def _check(self, index: int, request: Request) -> None:
        who, limit = f"request {index}", self.model.max_length
        if isinstance(request, Likelihood):
            lengths = f"context of {len(request.context)} and continuation of {len(request.continuation)} tokens"
            empty = not request.context or not request.continuation
            read = len(request.context) + len(request.continuation) - 1
        elif isinstance(request, Rolling):
            lengths, empty = f"segment of {len(request.tokens)} tokens", len(request.tokens) < 2
            read = len(request.tokens) - 1
        else:
            lengths = f"prompt of {len(request.prompt)} tokens and up to {request.max_new_tokens} new ones"
            empty = not request.prompt or request.max_new_tokens < 1
            read = len(request.prompt)
        if empty:
            expected = "a segment of at least 2" if isinstance(request, Rolling) else "at least one token in each"
            raise DataError(who, f"has a {lengths}", expected=expected, hint="check the task's prompt and tokenizer")
        if limit is not None and read > limit:
            raise DataError(
                who,
                f"has a {lengths}, of which {read} must be read",
                expected=f"at most {limit}, the model's maximum",
                hint="use fewer few-shot examples (--num-fewshot) or a model with a longer context",
            )
