"""What of a layer is quantized: its weights, its inputs, or the keys and values that it puts into the cache.

A module that is exchanged takes all of it along. Here one aspect of every module is exchanged alone: the original's
weights behind quantized inputs, quantized weights behind plain ones, or the original's keys and values rounded.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from functools import reduce
from typing import Final

from torch import nn

from quantgate.quantize.transforms.activations import ActivationLinear

WEIGHTS: Final = "weights alone"
INPUTS: Final = "inputs of layers alone"
CACHE: Final = "keys and values alone"
BOTH: Final = "weights and inputs, which a rotation or a fold ties together"

Modules = Mapping[str, nn.Module]


def aspects_of(originals: Modules, donors: Modules, *, tied: bool) -> tuple[str, ...]:
    """What is quantized in ``donors``; empty where it is weights and nothing else: modules say all of that.

    ``tied``: scales are folded between weights and inputs, so that one without the other computes nonsense.
    """
    inputs = [each for each in donors.values() if isinstance(each, ActivationLinear)]
    cached = any(_hooked(donors[name], originals[name]) for name in donors)
    if not inputs and not cached:
        return ()
    whole = tied or any(each.rotation is not None for each in inputs)
    weights = any(_other_weights(donors[name], originals[name]) for name in donors)
    first = (BOTH,) if whole and inputs else (WEIGHTS,) * weights + (INPUTS,) * bool(inputs)
    return (*first, *(CACHE,) * cached)


def without(aspect: str, donor: nn.Module, original: nn.Module) -> nn.Module:
    """A copy of ``donor`` in which ``aspect`` is the original's; tensors are shared, neither module is changed."""
    if aspect == CACHE:
        found = copy.copy(donor)
        found._forward_hooks = OrderedDict(original._forward_hooks)
        return found
    if aspect == WEIGHTS and donor._parameters.keys() & original._parameters.keys():
        found = copy.copy(donor)
        shared = {name: each for name, each in original._parameters.items() if name in donor._parameters}
        found._parameters = dict(donor._parameters) | shared
        return found
    if aspect == INPUTS and not isinstance(donor, ActivationLinear):
        return donor
    found = copy.copy(original)
    found._forward_hooks = OrderedDict(donor._forward_hooks)
    if aspect == INPUTS:
        shared = {name: each for name, each in donor._parameters.items() if name in original._parameters}
        found._parameters = dict(original._parameters) | shared
    return found


def alone(aspect: str, every: tuple[str, ...], donors: Modules, originals: Modules) -> dict[str, nn.Module]:
    """Modules in which only ``aspect``, one of ``every``, is quantized: for the original."""
    others = [each for each in every if each != aspect]
    return {
        name: reduce(lambda module, other: without(other, module, originals[name]), others, donor)
        for name, donor in donors.items()
    }


def all_but(aspect: str, donors: Modules, originals: Modules) -> dict[str, nn.Module]:
    """Modules in which everything but ``aspect`` is quantized: for the subject."""
    return {name: without(aspect, donor, originals[name]) for name, donor in donors.items()}


def _hooked(donor: nn.Module, original: nn.Module) -> bool:
    return len(donor._forward_hooks) != len(original._forward_hooks)


def _other_weights(donor: nn.Module, original: nn.Module) -> bool:
    ours, theirs = original._parameters.get("weight"), donor._parameters.get("weight")
    return ours is None or theirs is None or ours.shape != theirs.shape or not bool((ours == theirs).all())
