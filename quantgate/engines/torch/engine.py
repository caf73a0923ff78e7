"""The in-process engine: answers any mixture of requests with one transformers model.

All Likelihood and Rolling requests of a run are read over one prefix tree (``tree``, ``plan``, ``reader``, ``scored``);
Generate requests follow with continuous batching (``generation``). Sinks are called as soon as an answer is known, so
an interrupted run can go on with the requests that have no answer yet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import torch

from quantgate.core.errors import DataError
from quantgate.core.memory import LARGEST_KEPT, kept_heap
from quantgate.core.progress import Progress
from quantgate.core.requests import Generate, Likelihood, Request, Rolling, Sink, Tokens
from quantgate.engines.torch.adapter import CausalModel
from quantgate.engines.torch.fidelity import TopKReader, TopKWriter
from quantgate.engines.torch.generation import GenerationRun
from quantgate.engines.torch.plan import Limits, Plan
from quantgate.engines.torch.scored import ScoredRun
from quantgate.engines.torch.states import StatesReader, StatesWriter

_BATCH_TOKENS: Final = {"cpu": 4096, "cuda": 16384}
_WIDE_BATCH_TOKENS: Final = 2048  # on CPU, for models whose activations would not be kept; above the noise run's size
_WIDTHS: Final = ("hidden_size", "intermediate_size", "ffn_dim", "n_inner")
_CONTEXT_PER_BATCH: Final = 8
_CONTEXT_SHARE: Final = 0.2  # of a GPU's memory: the keys and values of a pass, of which a step makes a second copy


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


def cache_bytes(model: CausalModel) -> int:
    """Bytes of keys and values a token, as far as the configuration tells."""
    config = model.config
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    size = int(getattr(config, "head_dim", None) or int(config.hidden_size) // heads)
    kept = int(getattr(config, "num_key_value_heads", None) or heads)
    return 2 * model.n_layers * kept * size * int(model.model.dtype.itemsize)


def limits_for(batch: int, model: CausalModel) -> Limits:
    """The usual limits for a model under a budget of ``batch`` tokens a pass."""
    plain, context = Limits(), _CONTEXT_PER_BATCH * batch
    if model.device.type == "cuda":
        memory = torch.cuda.get_device_properties(model.device).total_memory
        context = min(context, max(batch // _CONTEXT_PER_BATCH, int(_CONTEXT_SHARE * memory) // cache_bytes(model)))
        batch = min(batch, context)
    return replace(
        plain,
        batch=batch,
        context=context,
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

    version: ClassVar[int] = 5  # counts up whenever answers could change

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
        keep: TopKWriter | StatesWriter | None = None,
        against: TopKReader | StatesReader | None = None,
    ) -> RunStats:
        """Answer all requests, calling ``sink(index, response)`` once for each, in any order.

        Args:
            requests: any mixture; their order does not change an answer.
            sink: may raise; the run then ends with that exception.
            keep: takes what is left of the distributions of every Rolling request (on the reference).
            against: compares every Rolling request with what the reference left (on a subject).

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
                self._score(
                    [
                        ScoredRun(self.model, each, self.limits, sink, keep=keep, against=against)
                        for each in self._by_regime(scored)
                    ],
                    stats,
                )
            if prompts:
                self._generate(prompts, sink, stats)
        stats.seconds = time.perf_counter() - started
        return stats

    def _score(self, runs: Sequence[ScoredRun], stats: RunStats) -> None:
        total = sum(run.plan.tokens_read for run in runs)
        what = f"{self.what} scoring".strip()
        done = 0
        self.progress.step(what, 0, total)
        for run in runs:
            with self.model.regimes.reading(max(map(_read, run.requests.values()))):
                for reading in run.read():
                    stats.positions_scored += run.score(reading)
                    done += sum(len(row.ids) for row in reading.batch.rows)
                    self.progress.step(what, done, total)
            _count(run.plan, stats)

    def _generate(self, prompts: Mapping[int, Generate], sink: Sink, stats: RunStats) -> None:
        """Regime by regime: an answer that grows out of one goes on in the next, read anew as a whole."""
        what = f"{self.what} generating".strip()
        waiting: dict[int, Tokens] = dict.fromkeys(prompts, ())
        before = 0
        while waiting:
            by_length = {index: len(prompts[index].prompt) + len(begun) for index, begun in waiting.items()}
            shortest = min(by_length.values())
            regime, reach = self.model.regimes.of(shortest), self.model.regimes.reach(shortest)
            mine = {
                index: prompts[index] for index, length in by_length.items() if self.model.regimes.of(length) == regime
            }
            run = GenerationRun(
                self.model,
                self.tokenizer,
                mine,
                self.limits,
                sink,
                begun={index: waiting[index] for index in mine},
                reach=reach,
            )
            total = before + run.total + sum(prompts[index].max_new_tokens for index in waiting.keys() - mine.keys())
            self.progress.step(what, before, total)
            with self.model.regimes.reading(shortest):
                for done in run.steps():
                    self.progress.step(what, before + done, total)
            before += run.total
            waiting = {index: begun for index, begun in waiting.items() if index not in mine} | run.left
            _count(run.plan, stats)
            stats.tokens_generated += run.generated
            stats.positions_scored += run.generated

    def _by_regime(self, requests: Mapping[int, Likelihood | Rolling]) -> list[dict[int, Likelihood | Rolling]]:
        """Requests whose lengths let the model use the same tables; for most models all of them."""
        found: dict[tuple[int, ...], dict[int, Likelihood | Rolling]] = {}
        for index, request in requests.items():
            found.setdefault(self.model.regimes.of(_read(request)), {})[index] = request
        return list(found.values())

    def _check(self, index: int, request: Request) -> None:
        who, limit = f"request {index}", self.model.max_length
        if isinstance(request, Likelihood):
            lengths = f"context of {len(request.context)} and continuation of {len(request.continuation)} tokens"
            empty = not request.context or not request.continuation
        elif isinstance(request, Rolling):
            lengths, empty = f"segment of {len(request.tokens)} tokens", len(request.tokens) < 2
        else:
            lengths = f"prompt of {len(request.prompt)} tokens and up to {request.max_new_tokens} new ones"
            empty = not request.prompt or request.max_new_tokens < 1
        read = _read(request)
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


def _read(request: Request) -> int:
    """Tokens that must be read for a request; new ones are counted as they come."""
    if isinstance(request, Likelihood):
        return len(request.context) + len(request.continuation) - 1
    return len(request.tokens) - 1 if isinstance(request, Rolling) else len(request.prompt)


def _count(plan: Plan, stats: RunStats) -> None:
    stats.tokens_read += plan.tokens_read
    stats.tokens_unique += len(plan.tree)
    stats.attended += sum(plan.tree.depth) + len(plan.tree)
