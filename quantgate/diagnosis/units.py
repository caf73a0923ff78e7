"""What can be exchanged between a subject and its reference: modules, groups that runtimes fuse, components, blocks.

Nothing is taken from a record: a module counts as changed where its parameters or its class differ, or where something
is hooked into its forward (quantized keys and values). Modules that a fold ties together (AWQ and SmoothQuant divide a
norm by what they multiply a matrix with) compute nonsense one by one, so that the component they belong to is their
smallest unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from quantgate.core.errors import ModelError
from quantgate.models.layers import Block, head_of, hooks
from quantgate.quantize.catalogue.recipe import block_of, component_of

Level = Literal["module", "group", "component", "block", "part", "aspect"]
LEVELS: Final[tuple[Level, ...]] = ("part", "block", "component", "group", "module")
ASPECT: Final = "aspect"
"""The level of what is quantized in all layers at once (`quantgate.diagnosis.aspects`); there are no modules of it."""
_EVEN: Final = 0.1  # mean distance from 1 of factors that rounding to few bits may leave


@dataclass(frozen=True)
class Unit:
    """Modules that are exchanged together.

    ``first``: number of the first decoder block whose output may change: the blocks before it need not be run again.
    It is the number of blocks for what stands behind them, and 0 for the embedding. ``component``: ``attention``,
    ``feed-forward``, ``norm``, ``embedding``, ``head``, or empty for a mixture. ``block``: None outside the blocks.
    """

    name: str
    level: Level
    modules: tuple[str, ...]
    first: int
    component: str = ""
    block: int | None = None


@dataclass(frozen=True)
class Anatomy:
    """A model's changed modules. ``groups``: names of layers that read the same input, of every block.

    ``tied``: (block, component) whose modules a fold ties together. ``kinds``: component of every changed module.
    """

    kinds: Mapping[str, str]
    groups: Sequence[tuple[str, ...]]
    blocks: int
    tied: frozenset[tuple[int, str]] = frozenset()

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of all changed modules, in the model's order."""
        return tuple(self.kinds)

    def unit(self, name: str, level: Level, modules: Iterable[str]) -> Unit:
        """A unit of some changed modules, which are at least one."""
        found = tuple(modules)
        kinds = {self.kinds[each] for each in found}
        places = {block_of(each) for each in found}
        return Unit(
            name,
            level,
            found,
            min(self._first(each) for each in found),
            kinds.pop() if len(kinds) == 1 else "",
            places.pop() if len(places) == 1 else None,
        )

    def _first(self, module: str) -> int:
        place = block_of(module)
        if place is not None:
            return place
        return 0 if self.kinds[module] == "embedding" else self.blocks

    def units(self, level: Level) -> list[Unit]:
        """Every unit of ``level`` that has changed, in the model's order."""
        return [self.unit(name, level, modules) for name, modules in self._named(level) if modules]

    def _named(self, level: Level) -> Iterator[tuple[str, list[str]]]:
        if level == "part":
            for kind in ("embedding", "attention", "feed-forward", "norm", "head"):
                yield _PARTS[kind], [name for name, mine in self.kinds.items() if mine == kind]
        elif level == "block":
            for block in range(self.blocks):
                yield f"block {block}", [name for name in self.kinds if block_of(name) == block]
        elif level == "component":
            for block in range(self.blocks):
                for kind in ("attention", "feed-forward"):
                    yield f"{kind} of block {block}", self._component(block, kind)
        elif level == "group":
            for group in self.groups:
                mine = [name for name in group if name in self.kinds and not self._is_tied(name)]
                if len(group) > 1:
                    yield "/".join((group[0], *(name.rpartition(".")[2] for name in group[1:]))), mine
        else:
            yield from self._modules()

    def _modules(self) -> Iterator[tuple[str, list[str]]]:
        seen: set[tuple[int, str]] = set()
        for name in self.kinds:
            tie = self._tie(name)
            if tie is None:
                yield name, [name]
            elif tie not in seen:
                seen.add(tie)
                yield f"{tie[1]} of block {tie[0]}", self._component(*tie)

    def _component(self, block: int, kind: str) -> list[str]:
        tied = (block, kind) in self.tied
        return [
            name
            for name, mine in self.kinds.items()
            if block_of(name) == block and (mine == kind or (tied and self._tie(name) == (block, kind)))
        ]

    def _is_tied(self, name: str) -> bool:
        return self._tie(name) is not None

    def _tie(self, name: str) -> tuple[int, str] | None:
        """The folded component that ``name`` belongs to: a norm to what is tied in its block and reads it."""
        block, kind = block_of(name), self.kinds[name]
        if block is None:
            return None
        if kind == "norm":
            kind = "feed-forward" if "post" in name or "mlp" in name or "ffn" in name else "attention"
        return (block, kind) if (block, kind) in self.tied else None


_PARTS: Final = {
    "embedding": "the embedding",
    "attention": "attention, all blocks",
    "feed-forward": "feed-forward, all blocks",
    "norm": "norms",
    "head": "the output head",
}


def changed_modules(reference: nn.Module, subject: nn.Module, who: str) -> dict[str, str]:
    """Component of every module that computes something else in the subject, by name, in the model's order.

    Raises:
        ModelError: the subject lacks a module of the reference: nothing can be exchanged.
    """
    others = dict(subject.named_modules())
    kinds: dict[str, str] = {}
    for name, module in reference.named_modules():
        if not module._parameters:
            continue
        if name not in others:
            raise ModelError(
                who, f"no module {name}", expected="the modules of its 16-bit original, by the same names",
                hint="a model that was rebuilt (fused layers, experts in one tensor) cannot be taken apart this way",
            )  # fmt: skip
        if _differs(module, others[name]):
            kinds[name] = _kind(reference, name, module)
    return kinds


def _differs(one: nn.Module, other: nn.Module) -> bool:
    if type(one) is not type(other) or len(other._forward_hooks) != len(one._forward_hooks):
        return True
    ours, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    return ours.keys() != theirs.keys() or not all(_equal(ours[name], theirs[name]) for name in ours)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one, other.to(one.dtype)))


def _kind(model: Any, name: str, module: nn.Module) -> str:
    if module is model.get_input_embeddings() or isinstance(module, nn.Embedding):
        return "embedding"
    if name in head_of(model):
        return "head"
    if not isinstance(module, nn.Linear):
        return "norm"
    return component_of(name)


def groups_of(model: Any, blocks: Sequence[Block], ids: Tensor) -> list[tuple[str, ...]]:
    """Names of the linear layers that read the very same tensor, in call order: one forward of ``ids`` ``[1, n]``."""
    calls: list[tuple[str, Tensor]] = []  # tensors are kept alive, so identity is not reused

    def watch(name: str) -> Any:
        return lambda _, args: calls.append((name, args[0]))

    linears = {name: layer for block in blocks for name, layer in block.linears.items()}
    with torch.no_grad(), hooks([layer.register_forward_pre_hook(watch(name)) for name, layer in linears.items()]):
        model(input_ids=ids, use_cache=False)
    found: dict[int, list[str]] = {}
    for name, tensor in calls:
        found.setdefault(id(tensor), []).append(name)
    return [tuple(dict.fromkeys(names)) for names in found.values()]


def tied_components(
    reference: nn.Module, subject: nn.Module, kinds: Mapping[str, str], folds: Mapping[str, str]
) -> frozenset[tuple[int, str]]:
    """(block, component) with a scale folded in: those that ``folds`` names, and those whose norm shows it.

    Args:
        reference: the 16-bit model.
        subject: the quantized one.
        kinds: its changed modules.
        folds: layer -> module that carries the inverse of its scale, as a record of ours has it.
    """
    found = {(block_of(name), component_of(name)) for name in folds}
    for norm in (name for name, kind in kinds.items() if kind == "norm" and block_of(name) is not None):
        ours, theirs = (model.get_submodule(norm)._parameters.get("weight") for model in (reference, subject))
        if ours is None or theirs is None:
            continue
        ratio = (theirs.float() / ours.float()).nan_to_num(1.0)
        for name, kind in kinds.items():
            same_block = block_of(name) == block_of(norm) and kind in ("attention", "feed-forward")
            if same_block and _makes_up(ratio, reference.get_submodule(name), subject.get_submodule(name)):
                found.add((block_of(name), component_of(name)))
    return frozenset((block, kind) for block, kind in found if block is not None)


def _makes_up(ratio: Tensor, one: nn.Module, other: nn.Module) -> bool:
    """Whether the columns of a matrix were multiplied by what the norm before it was divided by."""
    ours, theirs = getattr(one, "weight", None), getattr(other, "weight", None)
    if ours is None or theirs is None or ours.shape != theirs.shape or ours.shape[1] != len(ratio):
        return False
    ours, theirs = ours.detach().float(), theirs.detach().float()
    columns = (ours * theirs).sum(0) / ours.square().sum(0).clamp_min(1e-30)
    moved = float((ratio - 1).abs().mean())
    return moved > 2 * _EVEN and float((columns * ratio - 1).abs().mean()) < min(_EVEN, moved / 2)
