"""Rotary embeddings whose tables depend on the length of what a pass reads: each item's own length decides, no company.

``longrope`` (Phi-3) has one table up to ``original_max_position_embeddings`` and another beyond, ``dynamic`` (NTK) one
for every length beyond the model's own. transformers chooses by the largest position in a forward pass, padding and
neighbours included, and keeps keys that were rotated by another table. Here sequences are read together only with those
of the same *regime*, and every pass of a regime is told its length. The tables are the model's own in each case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Switch:
    """A rotary embedding that changes its table once a pass reads more than ``limit`` tokens.

    ``each``: beyond it every length has its own table; otherwise all share one.
    """

    module: nn.Module
    limit: int
    each: bool

    def regime(self, length: int) -> int:
        """The length that stands for all those that are read like ``length``."""
        if length <= self.limit:
            return self.limit
        return length if self.each else self.limit + 1


class Regimes:
    """The switches of a model; most have none, and then everything is one regime."""

    def __init__(self, model: nn.Module) -> None:
        self.switches = [found for module in model.modules() for found in _switches(module)]

    def of(self, length: int) -> tuple[int, ...]:
        """What the tables of a sequence of ``length`` tokens depend on; grows with the length."""
        return tuple(switch.regime(length) for switch in self.switches)

    def reach(self, length: int) -> int | None:
        """The largest length of the same regime; None where there is no end to it."""
        ends = [
            switch.limit if length <= switch.limit else length
            for switch in self.switches
            if length <= switch.limit or switch.each
        ]
        return min(ends, default=None)

    @contextmanager
    def reading(self, length: int) -> Iterator[None]:
        """Within a block every pass uses the tables of a sequence of ``length`` tokens."""
        with ExitStack() as stack:
            for switch in self.switches:
                stack.enter_context(_told(switch.module, switch.regime(length)))
            yield


def _switches(module: nn.Module) -> Iterator[Switch]:
    """The kinds of table changes that transformers knows (`modeling_rope_utils.dynamic_rope_update`)."""
    kinds = getattr(module, "rope_type", None)
    settings = getattr(getattr(module, "config", None), "rope_parameters", None)
    if kinds is None or not isinstance(settings, Mapping):
        return
    by_layer = kinds.items() if isinstance(kinds, Mapping) else [(None, kinds)]
    for layer, kind in by_layer:
        mine = settings if layer is None else settings[layer]
        if kind == "longrope":
            yield Switch(module, int(mine["original_max_position_embeddings"]), each=False)
        elif "dynamic" in str(kind):
            yield Switch(module, int(module.original_max_seq_len), each=True)  # type: ignore[arg-type]


@contextmanager
def _told(module: Any, length: int) -> Iterator[None]:
    """Within a block ``module`` sees one more position, the last of ``length``, in every call."""
    own = vars(module).get("forward")
    forward: Callable[..., tuple[Tensor, Tensor]] = module.forward

    def called(x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        last = torch.full_like(position_ids[..., :1], length - 1)
        # Tables that have grown shrink again only for a pass within the model's own length.
        forward(x[:1, :1], torch.zeros_like(position_ids[..., :1]), *args, **kwargs)
        cos, sin = forward(x, torch.cat([position_ids, last], dim=-1), *args, **kwargs)
        return cos[..., :-1, :], sin[..., :-1, :]

    module.forward = called
    try:
        yield
    finally:
        if own is not None:
            module.forward = own
        else:
            del module.forward
