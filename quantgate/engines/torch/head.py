"""The output head block by block: what is asked of a distribution, without the distribution.

Logits over a large vocabulary cost more to write, read, exponentiate and sum than to compute. Here they are made for
some positions and a part of the vocabulary at a time, small enough for a processor's cache, and reduced at once: a
running maximum with the token that has it, a running sum of exponentials (float32, rescaled as the maximum grows), the
logits of the tokens that were asked about, and, where another model's hidden states are given beside these, the sum
that their divergence needs. Everything is computed from the model's own logits, in the dtype in which it gives them.

With r and s the logits of the reference and the subject and P the sum of exp(r - lse r), which is 1 up to rounding,

    KL(reference || subject) = sum exp(r - lse r) (r - s) / P - (lse r + log P) + lse s

over the whole vocabulary: exact but for rounding, since a wrong lse r shows in P and is taken out again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

_POSITIONS: Final = {"cpu": 1024}  # read at a time: with more, nothing is gained
_POSITIONS_ELSEWHERE: Final = 4096
ROWS_BYTES: Final = 16 << 20  # float32 logits of whole rows alive at once; more are page-faulted anew each time
_WIDTH: Final = 2048  # tokens of the vocabulary in a block on a CPU, at least
_BLOCK: Final = {"cpu": 1 << 21}  # logits of a block
_BLOCK_ELSEWHERE: Final = 1 << 26
_LOWEST: Final = torch.finfo(torch.float32).min


class Head(Protocol):
    """From hidden states to logits."""

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        ...

    @property
    def positions(self) -> int:
        """How many positions to read at a time."""
        ...

    def width(self, positions: int) -> int:
        """Tokens of the vocabulary in a block."""
        ...

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """Logits [n, stop - start] of hidden states [n, hidden], in the model's dtype."""
        ...


@dataclass(frozen=True, slots=True)
class After:
    """What a model does with each logit by itself, and with which number; ``kind`` is a key of its configuration."""

    kind: str
    value: float

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits as the model gives them, of those that its linear layer gives."""
        if self.kind == "final_logit_softcapping":
            return torch.tanh(logits / self.value) * self.value
        return logits * self.value if self.kind == "logit_scale" else logits / self.value


AFTER: Final = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Gemma 2's, Cohere's and Granite's."""


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A head that is one linear layer, and perhaps a function of each logit by itself.

    Attributes:
        weight: [vocabulary, hidden].
        bias: [vocabulary] or None.
        after: what the model does with its logits; None for nothing.
        whole: the layer as the model calls it, [n, hidden] -> [n, vocabulary], if it is at hand.
    """

    weight: Tensor
    bias: Tensor | None = None
    after: After | None = None
    whole: Callable[[Tensor], Tensor] | None = None

    @property
    def vocabulary(self) -> int:
        """See `Head`."""
        return len(self.weight)

    @property
    def positions(self) -> int:
        """See `Head`."""
        return _POSITIONS.get(self.weight.device.type, _POSITIONS_ELSEWHERE)

    def width(self, positions: int) -> int:
        """See `Head`."""
        room = _BLOCK.get(self.weight.device.type, _BLOCK_ELSEWHERE)
        return min(self.vocabulary, max(_WIDTH, room // max(positions, 1)))

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """See `Head`."""
        if self.whole is not None and stop - start == self.vocabulary:
            found = self.whole(hidden)
        else:
            bias = None if self.bias is None else self.bias[start:stop]
            found = torch.nn.functional.linear(hidden, self.weight[start:stop], bias)
        return found if self.after is None else self.after(found)


@dataclass(frozen=True, slots=True)
class OpaqueHead:
    """A head that gives whole rows of logits only: quantized ones, and those that more than `After` follows."""

    whole: Callable[[Tensor], Tensor]
    vocabulary: int

    @property
    def positions(self) -> int:
        """See `Head`."""
        return max(1, ROWS_BYTES // (4 * self.vocabulary))

    def width(self, positions: int) -> int:
        """See `Head`."""
        return self.vocabulary

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """See `Head`; always all of them."""
        return self.whole(hidden)


@dataclass(frozen=True, slots=True)
class States:
    """A model's own hidden states at n positions, as the head's input, and what its distribution there was.

    Attributes:
        hidden: [n, hidden] in the model's dtype.
        top: int32 [n], the likeliest token.
        logsum: float64 [n], log of the sum of the exponentials of its logits.
    """

    hidden: Tensor
    top: Tensor
    logsum: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of them by name."""
        return {"hidden": self.hidden, "top": self.top, "logsum": self.logsum}

    def __getitem__(self, part: slice | Tensor) -> States:
        return States(self.hidden[part], self.top[part], self.logsum[part])

    def to(self, device: torch.device) -> States:
        """The same on another device."""
        return States(self.hidden.to(device), self.top.to(device), self.logsum.to(device))

    @classmethod
    def joined(cls, parts: Sequence[States]) -> States:
        """The positions of all parts, in order."""
        return (
            parts[0]
            if len(parts) == 1
            else cls(*(torch.cat([each.tensors[name] for each in parts]) for name in ("hidden", "top", "logsum")))
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """What was read off n positions, of which m tokens were asked.

    Attributes:
        top: int64 [n], the likeliest token, the first of equals; -1 where no logit is a number.
        logsum: float64 [n], log of the sum of the exponentials of all logits.
        asked: float32 [m], logits.
        divergence: float64 [n], KL(reference || this), nats; None without a reference.
    """

    top: Tensor
    logsum: Tensor
    asked: Tensor
    divergence: Tensor | None = None


def scores(
    head: Head, hidden: Tensor, rows: Tensor, tokens: Tensor, reference: tuple[Head, States] | None = None
) -> Scores:
    """Read n positions.

    Args:
        head: of the model.
        hidden: [n, hidden], its input.
        rows: int64 [m] on the CPU, positions that tokens are asked at.
        tokens: int64 [m] on the CPU, those tokens.
        reference: another head and its states at the same positions, to be compared with.
    """
    running, asked = _Running(hidden), _Asked(rows, tokens, hidden.device)
    against = None if reference is None else _Divergence(*reference)
    width = head.width(len(hidden))
    for start in range(0, head.vocabulary, width):
        block = head.logits(hidden, start, min(start + width, head.vocabulary)).float()
        stop = start + block.shape[1]
        asked.take(block, start, stop)
        if against is not None:
            against.take(block, start, stop)
        running.take(block, start)
    logsum = running.logsum()
    return Scores(running.top, logsum, asked.found, None if against is None else against.value(logsum))


class _Running:
    """The largest logit so far, the first token that has it, and the sum of exponentials below it."""

    def __init__(self, hidden: Tensor) -> None:
        count = len(hidden)
        self.largest = torch.full((count,), -torch.inf, device=hidden.device)
        self.total = torch.zeros(count, device=hidden.device)
        self.top = torch.full((count,), -1, dtype=torch.int64, device=hidden.device)

    def take(self, block: Tensor, start: int) -> None:
        """Float32 [n, width], which is overwritten."""
        if block.device.type != "cpu":
            self.largest, self.total, self.top = fold(block, start, self.largest, self.total, self.top)
            return
        high = block.amax(-1)
        better = (high > self.largest).nonzero()[:, 0]
        # rows whose maximum lies here are few once some blocks were seen
        self.top[better] = start + first_argmax(block if len(better) == len(block) else block[better])
        before = self.largest.clamp_min(_LOWEST)  # infinity less infinity is no number
        self.largest = torch.maximum(self.largest, high)
        shift = self.largest.clamp_min(_LOWEST)
        self.total.mul_((before - shift).exp_()).add_(block.sub_(shift[:, None]).exp_().sum(-1))

    def logsum(self) -> Tensor:
        """See `Scores`."""
        return self.largest.double() + self.total.double().log()


def fold(block: Tensor, start: int, largest: Tensor, total: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`_Running.take` on an accelerator: nothing is written in place, and nothing waits for the device."""
    high, at = block.max(-1)
    top = torch.where(high > largest, start + at, top)
    grown = torch.maximum(largest, high)
    shift = grown.clamp_min(_LOWEST)
    total = total * (largest.clamp_min(_LOWEST) - shift).exp() + (block - shift[:, None]).exp().sum(-1)
    return grown, total, top


class _Asked:
    """Picks the logits of the asked tokens out of the blocks that hold them."""

    def __init__(self, rows: Tensor, tokens: Tensor, device: torch.device) -> None:
        order = tokens.argsort(stable=True)
        self._sorted: list[int] = tokens[order].tolist()
        self.order, self.rows, self.tokens = order.to(device), rows[order].to(device), tokens[order].to(device)
        self.found = torch.full((len(tokens),), torch.nan, device=device)
        self._at = 0

    def take(self, block: Tensor, start: int, stop: int) -> None:
        """Blocks come in order, so that those of the next one follow those of this one."""
        first = self._at
        while self._at < len(self._sorted) and self._sorted[self._at] < stop:
            self._at += 1
        if first < self._at:
            mine = slice(first, self._at)
            self.found[self.order[mine]] = block[self.rows[mine], self.tokens[mine] - start]


class _Divergence:
    """Sums what the divergence from a reference needs; see the module."""

    def __init__(self, head: Head, states: States) -> None:
        self.head, self.states = head, states
        self.logsum = states.logsum.float()[:, None]
        self.mass = torch.zeros_like(states.logsum)
        self.apart = torch.zeros_like(states.logsum)

    def take(self, block: Tensor, start: int, stop: int) -> None:
        """Float32 [n, width], the subject's logits."""
        logits = self.head.logits(self.states.hidden, start, stop).float()
        share = (logits - self.logsum).exp_()
        self.mass += share.sum(-1)
        difference = logits.sub_(block)
        # a token that the reference excludes adds nothing, whatever the subject gives it
        self.apart += torch.where(share == 0, 0.0, difference.mul_(share)).sum(-1)

    def value(self, logsum: Tensor) -> Tensor:
        """KL(reference || subject), the subject having this ``logsum``."""
        return self.apart / self.mass - (self.logsum[:, 0].double() + self.mass.log()) + logsum


def first_argmax(values: Tensor) -> Tensor:
    """Index of the first largest value in each row: float32 [n, m] -> int64 [n].

    On the CPU by numpy, which is ten times faster than torch over a vocabulary and also takes the first of equals.
    """
    if values.device.type != "cpu":
        return values.argmax(-1)
    return torch.from_numpy(values.numpy().argmax(-1)) if len(values) else values.new_zeros(0, dtype=torch.int64)
