"""How long a run may take and how much memory it wants, roughly, before anything is loaded."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from quantgate.core.requests import Generate, Likelihood, Request, Rolling, Tokens

_SAMPLE: Final = 50  # items of a task whose prompts are made; the others are taken to be like them
# Of the rate of matrix products, what a whole gate of the bundled model came to, quantizing left out: where products
# are made in float32 little else takes time (AMD EPYC with AVX2), with 16-bit ones what surrounds them does (Genoa).
_SHARE: Final = {torch.float32: 0.8, torch.bfloat16: 0.2, torch.float16: 0.2}
_WRITTEN: Final = 0.5  # of the tokens that answers may have at most
_SIDE: Final = 1024
_LOOK_S: Final = 0.2
SIDES: Final = 2  # the reference and a subject, each in memory in turn, and the one in the making


@dataclass(frozen=True)
class Work:
    """Tokens that tasks make a model read, prefixes in common counted once, and the most that they let it write."""

    read: int = 0
    written: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.read + other.read, self.written + other.written)


def work_of(requests: Iterable[Request], known: set[Tokens]) -> Work:
    """What these requests ask of a model; a text that is in ``known`` was read already, others are put in."""
    texts: set[Tokens] = set()
    written = 0
    for request in requests:
        match request:
            case Likelihood(context, continuation):
                texts.add((*context, *continuation))
            case Rolling(tokens):
                texts.add(tuple(tokens))
            case Generate(prompt, most):
                texts.add(tuple(prompt))
                written += most
    new = texts - known
    known |= texts
    return Work(_distinct(sorted(new)), written)


def _distinct(texts: Sequence[Tokens]) -> int:
    """Tokens of sorted ``texts`` that do not repeat the beginning of the one before."""
    count = 0
    before: Tokens = ()
    for text in texts:
        shared = next((at for at, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), None)
        count += len(text) - (min(len(before), len(text)) if shared is None else shared)
        before = text
    return count


def work_of_task(task: Any, data: Any, selection: Any, prompts: Any, known: set[Tokens]) -> Work:
    """What a task asks of a model, all items selected, from the prompts of some of them. Raises as the task does."""
    items = task.items(data, selection, prompts)
    some = items[:: max(1, len(items) // _SAMPLE)]
    found = work_of((request for item in some for request in task.requests(item, prompts)), known)
    times = len(items) / max(1, len(some))
    return Work(round(times * found.read), round(times * found.written))


def parameters(path: Path) -> int:
    """Numbers in the weights of the model in ``path``, from the files' headers. Raises ModelError."""
    import math

    from quantgate.models.tensors import stored

    return sum(math.prod(tensor.shape) for tensor in stored(path).values())


def multiplied_in(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a run multiplies matrices of ``dtype`` on this processor."""
    from quantgate.models.products import has_products

    return dtype if has_products(dtype) else torch.float32


def matmul_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of matrix products in ``dtype`` here."""
    left, right = (torch.ones(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
    left @ right
    begun, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < _LOOK_S:
        left @ right
        count += 1
    return float(2 * _SIDE**3 * max(1, count) / spent)


def seconds(work: Work, numbers: int, rate: float, dtype: torch.dtype) -> float:
    """About how long a model of that many ``numbers`` takes for ``work``; two operations a number and token.

    ``rate``: of products in ``dtype``, in which they are made.
    """
    return (work.read + _WRITTEN * work.written) * 2 * numbers / (_SHARE[dtype] * rate)
