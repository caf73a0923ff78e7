"""The reference's hidden states, kept for an exact divergence: its distributions follow from them and its head.

2 bytes a hidden feature and position (bf16), where the likeliest 256 tokens and 128 draws of the others take 3 KiB, and
the head once (``head.safetensors``). Comparing costs one more product with a head (`head`). Above ``LARGEST`` features
the states would be larger than what else is kept, many times over, and the estimate (`fidelity`) is taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from quantgate.core.errors import StoreError
from quantgate.engines.torch.head import After, Head, LinearHead, States
from quantgate.engines.torch.kept import KeptReader, KeptWriter, load, save

LARGEST: Final = 4096
"""Features of a hidden state, up to which they are kept."""
_HEAD: Final = "head.safetensors"


def can_keep(head: Head) -> bool:
    """Whether distributions can be told from kept hidden states."""
    return isinstance(head, LinearHead) and head.weight.shape[1] <= LARGEST


def were_kept(directory: Path) -> bool:
    """Whether a `StatesWriter` wrote into ``directory``."""
    return (directory / _HEAD).exists()


class StatesWriter(KeptWriter[States]):
    """Writes the reference's states of each Rolling request, and its head; see `KeptWriter`."""

    def __init__(self, directory: Path, head: Head, start: int = 0, key: str = "") -> None:
        super().__init__(directory, start, key)
        assert isinstance(head, LinearHead)
        if not were_kept(directory):
            biases = {} if head.bias is None else {"bias": head.bias}
            notes = {} if head.after is None else {"after": head.after.kind, "value": repr(head.after.value)}
            save(directory / _HEAD, {"weight": head.weight, **biases}, key, notes)


class StatesReader(KeptReader[States]):
    """Reads what a :class:`StatesWriter` left under ``key``, counting from ``start``."""

    kind = States

    def head(self, own: Head, device: torch.device) -> LinearHead:
        """The reference's head on ``device``; the very tensors of ``own``, a head there, where it is the same.

        Raises:
            StoreError: the file is damaged, or its head is of another shape than ``own``.
        """
        path = self.directory / _HEAD
        tensors, notes = load(path, self.key, ({"weight"}, {"weight", "bias"}))
        weight, bias = tensors["weight"].to(device), tensors.get("bias")
        bias = None if bias is None else bias.to(device)
        if len(weight) != own.vocabulary:
            raise StoreError(
                f"fidelity file {path}",
                f"a head of {len(weight)} tokens",
                expected=f"one of {own.vocabulary}, as the subject's",
                hint="compare models with the same vocabulary",
            )
        after = After(notes["after"], float(notes["value"])) if "after" in notes else None
        if isinstance(own, LinearHead) and own.after == after and _equal(own.weight, weight) and _equal(own.bias, bias):
            return own
        return LinearHead(weight, bias, after)


def _equal(found: Tensor | None, wanted: Tensor | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return found.dtype == wanted.dtype and torch.equal(found, wanted)
