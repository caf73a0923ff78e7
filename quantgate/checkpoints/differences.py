"""What differs between two checkpoints of one model: storage, values, configuration, files beside the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantgate.checkpoints.layouts.table import open_checkpoint
from quantgate.checkpoints.matrices import plain_distance
from quantgate.checkpoints.stored_scales import STATIC

if TYPE_CHECKING:
    from torch import Tensor

    from quantgate.checkpoints.layouts.protocol import Checkpoint

_ABSENT = "-"


@dataclass(frozen=True)
class Difference:
    """One thing. ``first`` and ``second``: in words; ``distance``: of values, squared and relative to the first's."""

    what: str
    first: str
    second: str
    distance: float | None = None

    def as_record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def differences(first: Path, second: Path, reference: Path | None) -> list[Difference]:
    """All that differs, the configuration first, then tensor by tensor; reads one module of each at a time.

    Raises:
        ModelError: one of them is incomplete, or of no known layout.
    """
    one, other = (open_checkpoint(place, reference, str(place)) for place in (first, second))
    return [*_configurations(one.config, other.config), *_tensors(one, other)]


def _configurations(one: Mapping[str, Any], other: Mapping[str, Any], before: str = "") -> Iterator[Difference]:
    for name in sorted(one.keys() | other.keys()):
        ours, theirs = one.get(name), other.get(name)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from _configurations(ours, theirs, f"{before}{name}.")
        elif ours != theirs:
            yield Difference(f"config.json: {before}{name}", _shown(ours), _shown(theirs))


def _shown(value: Any) -> str:
    text = _ABSENT if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tensors(one: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    import torch

    places = [_names(each) for each in (one, other)]
    for name in sorted(places[0].keys() | places[1].keys()):
        ours, theirs = (each.get(name, _ABSENT) for each in places)
        if _ABSENT in (ours, theirs):
            yield Difference(name, ours, theirs)
            continue
        left, right = _values(one, name), _values(other, name)
        if left.shape != right.shape:
            yield Difference(name, str(tuple(left.shape)), str(tuple(right.shape)))
        elif ours != theirs or not torch.equal(left, right):
            yield Difference(name, ours, theirs, plain_distance(left, right))
    stored = [_beside(each) for each in (one, other)]
    for name in sorted(stored[0].keys() | stored[1].keys()):
        ours, theirs = (each.get(name, _ABSENT) for each in stored)
        if ours != theirs:
            yield Difference(name, ours, theirs)


def _beside(checkpoint: Checkpoint) -> dict[str, str]:
    """Stored scales of inputs, and of keys and values: by them the model computes, and no weight shows them."""
    found = {
        f"{module}.{key}": scale
        for module in checkpoint.modules
        for key, scale in checkpoint.scales(module).items()
        if key in STATIC
    }
    found |= getattr(checkpoint, "cache_scales", dict)()
    return {
        name: _shown([float(f"{value:.6g}") for value in scale.flatten().tolist()]) for name, scale in found.items()
    }


def _names(checkpoint: Checkpoint) -> dict[str, str]:
    """Every tensor of the architecture, and how it is stored."""
    plain = {name: dtype for name, (dtype, _) in checkpoint.plain.items()}
    return plain | {f"{module}.weight": stored.in_words() for module, stored in checkpoint.modules.items()}


def _values(checkpoint: Checkpoint, name: str) -> Tensor:
    module = name.removesuffix(".weight")
    return checkpoint.weight(module) if module in checkpoint.modules else checkpoint.tensor(name).float()
