"""Where the linear layers of a causal language model are, and in which order data reaches them.

Nothing is looked up by architecture. The decoder blocks are the list of modules that has as many members as the
configuration has layers; the stages of a block are observed: linear layers that receive the very same input tensor
during a forward form one stage (q/k/v, gate/up), stages follow each other in call order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quantgate.core.errors import MethodError


@dataclass(frozen=True)
class Block:
    """One decoder block: its name in the model, the module, its linear layers by full name."""

    name: str
    module: nn.Module
    linears: dict[str, nn.Linear]


@dataclass(frozen=True)
class Stage:
    """Linear layers that read the same input, by full name, in call order."""

    linears: dict[str, nn.Linear]

    @property
    def first(self) -> nn.Linear:
        """The layer that is called first."""
        return next(iter(self.linears.values()))

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of the layers."""
        return tuple(self.linears)


def decoder_blocks(model: nn.Module, who: str) -> list[Block]:
    """The decoder blocks of ``model`` in order.

    Raises:
        MethodError: no list of blocks is found, or a block keeps matrices outside ``nn.Linear`` (GPT-2's Conv1D, fused
            experts), which would silently stay in 16 bit.
    """
    config: Any = model.config
    count = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = [
        (sum(p.numel() for p in module.parameters()), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not lists:
        raise MethodError(
            who, f"no list of {count} decoder blocks in {type(model).__name__}", expected="a decoder-only transformer"
        )
    _, prefix, members = max(lists, key=lambda entry: entry[0])
    return [_block(f"{prefix}.{index}", module, who) for index, module in enumerate(members)]


def head_of(model: Any) -> dict[str, nn.Linear]:
    """The output head by its name; empty if it is no linear layer."""
    head = model.get_output_embeddings()
    return {name: module for name, module in model.named_modules() if module is head and isinstance(module, nn.Linear)}


def _block(name: str, module: nn.Module, who: str) -> Block:
    linears = {f"{name}.{path}": part for path, part in module.named_modules() if isinstance(part, nn.Linear) and path}
    covered = {id(linear.weight) for linear in linears.values()}
    others = [path for path, p in module.named_parameters() if p.ndim >= 2 and id(p) not in covered]
    if others or not linears:
        raise MethodError(
            who,
            f"weights outside nn.Linear in {name}: {', '.join(others[:3]) or 'no linear layer at all'}",
            expected="decoder blocks whose matrices are all nn.Linear",
            hint="this architecture (Conv1D, fused experts, ...) is not supported",
        )
    return Block(name, module, linears)


@contextmanager
def hooks(handles: list[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks when the block is left, however it is left."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def observe_stages(block: Block, run: Callable[[], object], who: str) -> list[Stage]:
    """Call ``run`` (one forward of the block) and group its linear layers by the tensor they receive.

    Raises:
        MethodError: a layer was not called, or more than once: its statistics would be missing or mixed.
    """
    calls: list[tuple[str, Tensor]] = []  # the tensors are kept alive, so identity is not reused

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, args: calls.append((name, args[0]))

    with hooks([linear.register_forward_pre_hook(watch(name)) for name, linear in block.linears.items()]):
        run()
    called = [name for name, _ in calls]
    odd = [name for name in block.linears if called.count(name) != 1]
    if odd:
        raise MethodError(
            who,
            f"{odd[0]} was called {called.count(odd[0])} times in one forward of its block",
            expected="every linear layer to be called once",
        )
    groups: list[tuple[Tensor, dict[str, nn.Linear]]] = []
    for name, tensor in calls:
        for known, members in groups:
            if known is tensor:
                members[name] = block.linears[name]
                break
        else:
            groups.append((tensor, {name: block.linears[name]}))
    return [Stage(members) for _, members in groups]


def replace_weight(linear: nn.Linear, weight: Tensor) -> None:
    """Put ``weight`` (``[out, in]``) into ``linear``, in its dtype and on its device."""
    with torch.no_grad():
        linear.weight.copy_(weight)
