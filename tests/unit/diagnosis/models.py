"""A small model in float32 and copies of it that something was done to."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from quantgate.core.progress import Silent
from quantgate.diagnosis.passes import Segment
from quantgate.diagnosis.scan import Scanner
from tests.unit.conftest import VOCABULARY, tiny_llama

BLOCKS = 4


def reference() -> nn.Module:
    # larger initial weights than usual: with the usual ones a random model hardly looks at its input
    shape = {"num_hidden_layers": BLOCKS, "initializer_range": 0.15, "tie_word_embeddings": False}
    return tiny_llama(**shape).float().requires_grad_(False)


def segments(lengths: Sequence[int] = (16,) * 5, seed: int = 1) -> list[Segment]:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randint(0, VOCABULARY, (length,), generator=generator) for length in lengths)
    return [Segment(f"text/{number}", tuple(tokens.tolist())) for number, tokens in enumerate(drawn)]


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """To nearest, one symmetric scale a row."""
    top = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1, keepdim=True) / top
    return (weight / scale).round().clamp(-top, top) * scale


def subject(of: nn.Module, fault: Callable[[nn.Module], None] | None = None, bits: int = 8) -> nn.Module:
    """Every matrix of the blocks rounded to ``bits``, then ``fault`` done to it."""
    found = copy.deepcopy(of)
    for name, layer in found.named_modules():
        if isinstance(layer, nn.Linear) and ".layers." in name:
            layer.weight.copy_(rounded(layer.weight, bits))
    if fault is not None:
        fault(found)
    return found


def scanner(one: nn.Module, other: nn.Module, read: Sequence[Segment] | None = None) -> Scanner:
    return Scanner(one, other, segments() if read is None else read, {}, "subject", Silent())
