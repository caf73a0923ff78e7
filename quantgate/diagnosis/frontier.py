"""Which method for which group of layers: the least estimated harm for every budget of bytes, as recipes.

Harm is taken to add up over groups, which a diagnosis shows to hold or not. So a frontier says what to try first; what
is believed is the verdict.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from quantgate.core.errors import MethodError
from quantgate.core.unprinted import unprinted
from quantgate.quantize.base import Method
from quantgate.quantize.catalogue.methods import get_method
from quantgate.quantize.catalogue.recipe import NONE, Rule, block_of, recipe_method

_SLACK: Final = 1e-9


@dataclass(frozen=True)
class Group:
    """Layers that runtimes keep in one format. ``weights``: how many; ``harm`` and ``nbytes``: by method."""

    modules: tuple[str, ...]
    weights: int
    harm: Mapping[str, float]
    nbytes: Mapping[str, int]


@dataclass(frozen=True)
class Mix:
    """A method for every group. ``harm``: sum of the estimates, nats a token; ``nbytes``: of all groups' weights."""

    methods: tuple[str, ...]
    harm: float
    nbytes: int
    bits: float

    @property
    def uniform(self) -> str:
        """The only method, or an empty string."""
        return self.methods[0] if len(set(self.methods)) == 1 else ""


def mix_of(groups: Sequence[Group], methods: Sequence[str]) -> Mix:
    """The mixture that gives ``methods`` to ``groups``, in their order."""
    nbytes = sum(group.nbytes[method] for group, method in zip(groups, methods, strict=True))
    harm = math.fsum(group.harm[method] for group, method in zip(groups, methods, strict=True))
    return Mix(tuple(methods), harm, nbytes, 8 * nbytes / sum(group.weights for group in groups))


def best_mix(groups: Sequence[Group], budget: int) -> Mix | None:
    """The mixture of the least harm within ``budget`` bytes; None where none fits.

    An integer programme: one method a group, sum of bytes at most the budget (scipy's HiGHS).

    Raises:
        MethodError: the solver gave up.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    choices = [(place, method) for place, group in enumerate(groups) for method in group.harm]
    harm = np.array([groups[place].harm[method] for place, method in choices])
    nbytes = np.array([groups[place].nbytes[method] for place, method in choices], dtype=np.float64)
    if sum(min(group.nbytes.values()) for group in groups) > budget:
        return None
    one = csr_array((np.ones(len(choices)), ([place for place, _ in choices], range(len(choices)))))
    scale = max(float(harm.max()), 1e-12)
    with unprinted():
        found = milp(
            harm / scale,
            integrality=np.ones(len(choices)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one, 1, 1),
                LinearConstraint(nbytes[None, :] / budget, -np.inf, 1 + _SLACK),
            ],
            options={"mip_rel_gap": 1e-4, "time_limit": 60},
        )
    if found.x is None:
        raise MethodError("the search", f"the integer programme was not solved ({found.message})", expected="a mixture")
    chosen = {place: method for (place, method), x in zip(choices, found.x, strict=True) if x > 0.5}
    return mix_of(groups, [chosen[place] for place in range(len(groups))])


def frontier(groups: Sequence[Group], points: int) -> list[Mix]:
    """Uniform mixtures of every method and the best mixtures of ``points`` budgets between them, fewest bytes first."""
    methods = list(dict.fromkeys(method for group in groups for method in group.harm))
    uniform = [mix_of(groups, [method] * len(groups)) for method in methods]
    sizes = [mix.nbytes for mix in uniform]
    budgets = np.linspace(min(sizes), max(sizes), points + 2)[1:-1].astype(int).tolist()
    budgets += [mix.nbytes for mix in uniform]  # as large as a uniform one: is mixing better at all?
    mixed = [mix for budget in budgets if (mix := best_mix(groups, budget)) is not None]
    found = {mix.methods: mix for mix in [*mixed, *uniform]}
    return sorted(found.values(), key=lambda mix: (mix.nbytes, mix.harm))


def as_method(groups: Sequence[Group], mix: Mix) -> Method:
    """The row that quantizes so: the table's own for a uniform mixture, else a recipe of few rules."""
    if mix.uniform and mix.uniform != NONE:
        return get_method(mix.uniform)
    default, rules = rules_of(groups, mix)
    return recipe_method(f"mixed-{round(1e4 * mix.bits):06d}", default, rules, "quantgate search")


def rules_of(groups: Sequence[Group], mix: Mix) -> tuple[str, list[Rule]]:
    """The most frequent method as the default, and a rule for each other method and kind of group."""
    default = Counter(mix.methods).most_common(1)[0][0]
    blocks: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for group, method in zip(groups, mix.methods, strict=True):
        if method != default:
            blocks.setdefault((method, _kind(group)), []).append(_block(group))
    rules = [
        Rule(method, blocks=_ranges(numbers), include="(" + "|".join(map(re.escape, kind)) + ")$")
        for (method, kind), numbers in blocks.items()
    ]
    return default, rules


def _block(group: Group) -> int:
    block = block_of(group.modules[0])
    assert block is not None
    return block


def _kind(group: Group) -> tuple[str, ...]:
    """Names inside the block, with the dot in front: ``.self_attn.q_proj``."""
    marker = f".{_block(group)}."
    return tuple("." + name.partition(marker)[2] for name in group.modules)


def _ranges(numbers: Sequence[int]) -> str:
    """``[0, 1, 2, 5]`` -> ``0-2,5``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in parts)


def as_toml(groups: Sequence[Group], mix: Mix, comments: Sequence[str]) -> str:
    """The recipe's file, which ``--recipe`` takes."""
    default, rules = rules_of(groups, mix)
    lines = [f"# {comment}" for comment in comments]
    lines += [f'name = "mixed-{round(1e4 * mix.bits):06d}"', f'default = "{default}"']
    for rule in rules:
        lines += ["", "[[rules]]", f'method = "{rule.method}"']
        lines += [f'blocks = "{rule.blocks}"', f"include = '{rule.include}'"]
    return "\n".join(lines) + "\n"
