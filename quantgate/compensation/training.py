"""LoRA: a trained term ``scale * B A`` beside every matrix of the blocks, everything else frozen (arXiv 2106.09685).

Written here, not taken from peft, because it is one module and one loop; what is written is in peft's format, and
peft's own initial values and names are used (``A`` Kaiming uniform, ``B`` zero).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from quantgate.compensation.eora import Parts
from quantgate.core.errors import MethodError
from quantgate.core.progress import Progress
from quantgate.models.layers import decoder_blocks
from quantgate.models.products import wide_products

Loss = Literal["text", "original"]
_SHORTEST: Final = 8  # tokens of a piece that is trained on
_CLIP: Final = 1.0
_WARM_UP: Final = 0.1  # share of the steps


@dataclass(frozen=True)
class Budget:
    """What training may cost, the same for every order. ``length``: tokens of a piece; ``batch``: pieces of a step;
    ``rate``: the highest learning rate; ``alpha``: the term's scale times its rank. ``loss``: ``text``, the text's own
    next tokens; ``original``: the original's distributions, KL(original || tuned).
    """

    rank: int = 8
    alpha: float = 16.0
    steps: int = 60
    batch: int = 4
    length: int = 128
    rate: float = 3e-4
    loss: Loss = "text"
    seed: int = 0


class LowRankLinear(nn.Module):
    """``base(x) + scale * B A x``; ``A`` ``[r, in]`` and ``B`` ``[out, r]`` in float32 are trained."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        bound = 1 / math.sqrt(base.in_features)
        start = torch.rand(rank, base.in_features, generator=generator) * 2 * bound - bound
        self.a = nn.Parameter(start.to(base.weight.device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``[..., in]`` to ``[..., out]``, in the base's dtype."""
        out: Tensor = self.base(x)
        term = nn.functional.linear(nn.functional.linear(x.float(), self.a), self.b)
        return out + (self.scale * term).to(out.dtype)


def with_terms(model: nn.Module, budget: Budget) -> dict[str, LowRankLinear]:
    """Freeze ``model`` and put a trained term beside every linear layer of its blocks.

    Raises:
        MethodError: a layer holds codes, through which nothing can be trained here.
    """
    generator = torch.Generator().manual_seed(budget.seed)
    model.requires_grad_(False)
    found: dict[str, LowRankLinear] = {}
    for block in decoder_blocks(model, "lora"):
        for name, layer in block.linears.items():
            if not layer.weight.is_floating_point():
                raise MethodError(
                    "lora", f"{name} keeps {layer.weight.dtype} codes", expected="weights that gradients go through",
                    hint="rows that multiply integers (int8) are not compensated here",
                )  # fmt: skip
            found[name] = LowRankLinear(layer, budget.rank, budget.alpha, generator)
    for name, term in found.items():
        model.set_submodule(name, term)
    return found


def n_trainable(model: nn.Module) -> int:
    """Parameters that training changes."""
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def train(
    model: Any, teacher: Any, samples: Sequence[Sequence[int]], budget: Budget, progress: Progress
) -> tuple[Parts, list[float]]:
    """Train terms beside the frozen ``model``.

    Args:
        model: the 16-bit model, or a quantized one; terms are put into it.
        teacher: the original, for the loss that needs it; else None.
        samples: token ids of the text.
        budget: see `Budget`.
        progress: told about steps.

    Returns:
        ``B`` and ``A`` by layer, on the CPU, without their scale; and the loss of every step, nats a token.

    Raises:
        MethodError: too little text, or a loss that is no number.
    """
    terms = with_terms(model, budget)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=budget.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, budget.steps))
    losses: list[float] = []
    batches = _batches(pieces(samples, budget.length), budget)
    with wide_products(model.dtype):
        for step in range(budget.steps):
            progress.step("lora: training", step, budget.steps)
            loss = _loss(model, teacher, next(batches), next(model.parameters()).device)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise MethodError("lora", f"the loss of step {step + 1} is {losses[-1]}", expected="a number",
                                  hint="lower --rate")  # fmt: skip
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], _CLIP)
            optimizer.step()
            schedule.step()
    progress.step("lora: training", budget.steps, budget.steps)
    return {name: (term.b.detach().cpu(), term.a.detach().cpu()) for name, term in terms.items()}, losses


def _share(step: int, steps: int) -> float:
    """Of the highest rate: up over the first tenth, then straight down to zero behind the last step."""
    rising = max(1, round(_WARM_UP * steps))
    return (step + 1) / rising if step < rising else (steps - step) / max(1, steps - rising)


def pieces(samples: Sequence[Sequence[int]], length: int) -> list[Tensor]:
    """The samples cut into runs of at most ``length`` tokens. Raises MethodError where nothing is long enough."""
    found = [
        torch.tensor(sample[start : start + length])
        for sample in samples
        for start in range(0, len(sample), length)
        if len(sample[start : start + length]) >= _SHORTEST
    ]
    if not found:
        raise MethodError("lora", "no text to train on", expected=f"samples of at least {_SHORTEST} tokens")
    return found


def _batches(text: Sequence[Tensor], budget: Budget) -> Iterator[list[Tensor]]:
    """Without end: every piece once, in an order of its own each time."""
    draw = random.Random(budget.seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < budget.batch:
            order = list(range(len(text)))
            draw.shuffle(order)
            waiting += order
        yield [text[each] for each in waiting[: budget.batch]]
        del waiting[: budget.batch]


def _loss(model: Any, teacher: Any, batch: Sequence[Tensor], device: torch.device) -> Tensor:
    """Mean over the tokens of a batch, padded on the right: attention is causal, so padding reaches no token."""
    ids = nn.utils.rnn.pad_sequence(list(batch), batch_first=True).to(device)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for row, piece in enumerate(batch):
        real[row, : len(piece)] = True
    scored = real[:, 1:]
    logprobs = model(input_ids=ids, use_cache=False).logits[:, :-1][scored].float().log_softmax(-1)
    if teacher is None:
        return nn.functional.nll_loss(logprobs, ids[:, 1:][scored])
    with torch.no_grad():
        wanted = teacher(input_ids=ids, use_cache=False).logits[:, :-1][scored].float().log_softmax(-1)
    divergence: Tensor = (wanted.exp() * (wanted - logprobs)).sum(-1).mean()
    return divergence
