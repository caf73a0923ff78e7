"""What is timed: batch, tokens in, tokens out; and one run of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quantgate.core.errors import UsageError
from quantgate.core.naming import closest, same_name

FEWEST_REPETITIONS: Final = 5  # of a timing: fewer show no spread


@dataclass(frozen=True, slots=True)
class Workload:
    """``batch`` sequences of ``prompt`` tokens, ``new`` tokens written after each (two at least)."""

    batch: int
    prompt: int
    new: int

    @property
    def name(self) -> str:
        """As the option spells it."""
        return f"{self.batch}x{self.prompt}x{self.new}"


WORKLOADS: Final[dict[str, Workload]] = {
    "quick": Workload(1, 128, 16),  # a 135M model on two cores: about a second a run
    "paper-a": Workload(1, 256, 512),  # the point of table 2 in Jin et al. 2024
    "batch": Workload(8, 128, 16),
    "long": Workload(1, 1024, 16),
}


def parse_workloads(text: str) -> list[Workload]:
    """``quick,8x64x32`` -> workloads. Raises UsageError for anything that is neither a row's name nor BxINxOUT."""
    return [_parse(each.strip()) for each in text.split(",")]


def _parse(text: str) -> Workload:
    if name := same_name(text, WORKLOADS):
        return WORKLOADS[name]
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if match is None or int(match[3]) < 2:
        raise UsageError(
            "--workloads",
            f"{text!r}",
            expected=f"{', '.join(WORKLOADS)}, or BATCHxINxOUT with at least two tokens out, as 1x256x512",
            hint=f"did you mean {close[0]!r}?" if (close := closest(text, WORKLOADS)) else "",
        )
    return Workload(*map(int, match.groups()))


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one run: ``first`` until the first token of every sequence is known, ``rest`` for the others."""

    first: float
    rest: float

    def rates(self, workload: Workload) -> dict[str, float]:
        """Tokens per second: read in the prefill, written after the first, and written in all (paper A's figure)."""
        batch, new = workload.batch, workload.new
        return {
            "prefill": batch * workload.prompt / self.first,
            "decode": batch * (new - 1) / self.rest,
            "generate": batch * new / (self.first + self.rest),
        }


class Generator:
    """Greedy generation of exactly ``new`` tokens by a transformers model; no token ends it.

    The output head is applied to the last position only, as a two-dimensional product: with a slice of a
    three-dimensional input, torch copies the whole head's weight at every prefill.
    """

    def __init__(self, model: Any, finish: Callable[[], object]) -> None:
        self.decoder, self.head, self.finish = model.get_decoder(), model.get_output_embeddings(), finish

    def step(self, tokens: Any, cache: Any) -> Any:
        """The next token of every sequence, ``[batch]``."""
        hidden = self.decoder(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state
        return self.head(hidden[:, -1]).argmax(-1)


def run_in_turns(
    generators: Sequence[Generator], tokens: Any, new: int, order: Sequence[int]
) -> tuple[list[Timing], list[Any]]:
    """Let all generators read ``tokens`` (int64 ``[batch, prompt]``) and write ``new``, a token each in ``order``.

    Turns are that short because disturbances last for seconds: so they hit all alike, and the ratio stays. Returns the
    times of each generator, and the caches as they are then.
    """
    from transformers import DynamicCache

    caches = [DynamicCache() for _ in generators]
    inputs, first, rest = [tokens] * len(generators), [0.0] * len(generators), [0.0] * len(generators)
    for step in range(new):
        spent = rest if step else first
        for index in order:
            generator = generators[index]
            start = time.perf_counter()
            token = generator.step(inputs[index], caches[index])
            generator.finish()
            spent[index] += time.perf_counter() - start
            inputs[index] = token[:, None]
    return [Timing(*each) for each in zip(first, rest, strict=True)], caches


def prompt_of(workload: Workload, vocabulary: int, seed: int) -> Any:
    """Random tokens, int64 ``[batch, prompt]``, the same for everyone with this ``seed``."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (workload.batch, workload.prompt), generator=generator)


def cache_size(cache: Any) -> int:
    """Bytes of the keys and values in a transformers cache."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
