r"""Recipes: which method quantizes which layer, from a TOML file or from Python.

    name = "attention-more"
    default = "gptq4"              # a row of the method table, or "none": stays 16 bit

    activations = "fp8-token"      # inputs of the layers of `default`; see `schemes.ACTIVATIONS`
    kv_cache = "int8"              # see `schemes.CACHES`
    settings = { group_size = 64 } # of `default`, where they differ from its row

    [[rules]]                      # the last rule that matches a layer decides
    method = "gptq8"
    component = "attention"        # attention, feed-forward or head
    blocks = "0-3,29"              # numbers of decoder blocks
    include = "[qk]_proj"          # regular expressions, searched in the layer's name
    exclude = 'layers\.2\.'

A rule may have ``activations`` and ``settings`` of its own; all its conditions have to hold. A recipe is a row of its
own (``recipe-attention-more``): selected, cached and reported like any method; the effective bits in its record are the
average over all its layers. Keys nobody knows and rules that no layer matches are errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from quantgate.core import reading
from quantgate.core.errors import MethodError, UsageError
from quantgate.core.reading import Unreadable
from quantgate.quantize.base import Method
from quantgate.quantize.catalogue.methods import METHODS, NO_WEIGHTS, get_methods
from quantgate.quantize.catalogue.schemes import CACHES, changed, named
from quantgate.quantize.settings import LATER

ALGORITHM: Final = "recipe"
NONE: Final = "none"
Component = Literal["attention", "feed-forward", "head"]


@dataclass(frozen=True)
class Rule:
    """``method`` for the layers that the other fields match, with ``activations`` and ``settings`` of its own; see the
    module's docstring.
    """

    method: str
    component: Component | None = None
    blocks: str | None = None
    include: str | None = None
    exclude: str | None = None
    activations: str | None = field(default=None, metadata=LATER)
    settings: Mapping[str, Any] = field(default_factory=dict, metadata=LATER)

    def matches(self, name: str) -> bool:
        """Whether the rule is about the layer called ``name``."""
        return (
            self.component in (None, component_of(name))
            and (self.blocks is None or _holds(self.blocks, block_of(name)))
            and (self.include is None or re.search(self.include, name) is not None)
            and (self.exclude is None or re.search(self.exclude, name) is None)
        )


@dataclass(frozen=True)
class Recipe:
    """Settings of a recipe's row. ``rows``: what the methods it names are, so that cache keys know their settings."""

    name: str
    default: str = NONE
    rules: tuple[Rule, ...] = ()
    rows: Mapping[str, Any] = field(default_factory=dict)
    activations: str | None = field(default=None, metadata=LATER)
    settings: Mapping[str, Any] = field(default_factory=dict, metadata=LATER)

    def row(self, number: int, who: str) -> Method:
        """The row that rule ``number`` (from 0; -1: the default) gives its layers. Raises UsageError, see `changed`."""
        rule = (
            self.rules[number]
            if number >= 0
            else Rule(self.default, activations=self.activations, settings=self.settings)
        )
        row = METHODS[rule.method]
        if not rule.settings and rule.activations is None:
            return row
        place = f"rule{number + 1}" if number >= 0 else "default"
        return changed(row, f"{row.id}-{place}", rule.settings, rule.activations, who)

    def assigned(self, names: Sequence[str], who: str) -> dict[str, Method]:
        """The row of every layer that is quantized, by name.

        Raises:
            MethodError: a rule that no layer matches, or one whose layers are all taken by later rules.
        """
        chosen = dict.fromkeys(names, -1)
        for number, rule in enumerate(self.rules):
            matched = [name for name in names if rule.matches(name)]
            if not matched:
                raise MethodError(who, f"rule {number + 1} matches no layer", expected=f"one like {names[0]}")
            chosen |= dict.fromkeys(matched, number)
        for number in range(len(self.rules)):
            if number not in chosen.values():
                raise MethodError(who, f"rule {number + 1} is overruled everywhere", hint="put it after broader rules")
        made = {at: self.row(at, who) for at in set(chosen.values()) if self.method_of(at) != NONE}
        spared = {name for name, at in chosen.items() if at < 0 and component_of(name) == "head"}
        return {name: made[at] for name, at in chosen.items() if at in made and name not in spared}

    def method_of(self, number: int) -> str:
        """The id that rule ``number`` (-1: the default) names."""
        return self.rules[number].method if number >= 0 else self.default


def component_of(name: str) -> Component:
    """Attention if its name says so, head outside the decoder blocks, feed-forward otherwise."""
    if block_of(name) is None:
        return "head"
    return "attention" if re.search(r"attn|attention", name) else "feed-forward"


def block_of(name: str) -> int | None:
    """Number of the decoder block: the first number in the layer's name."""
    numbers = [int(part) for part in name.split(".") if part.isdecimal()]
    return numbers[0] if numbers else None


def _ranges(text: str) -> list[tuple[int, int]]:
    """``0-3,29`` -> [(0, 3), (29, 29)]. Raises ValueError, also for a range that ends before it begins."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.append((int(first), int(last or first)))
        if found[-1][0] > found[-1][1]:
            raise ValueError(f"{part} ends before it begins")
    return found


def _holds(ranges: str, block: int | None) -> bool:
    return block is not None and any(first <= block <= last for first, last in _ranges(ranges))


def recipe_method(
    name: str,
    default: str = NONE,
    rules: Sequence[Rule] = (),
    who: str = "recipe",
    *,
    activations: str | None = None,
    settings: Mapping[str, Any] | None = None,
    kv_cache: str | None = None,
) -> Method:
    """A row of the method table from a recipe.

    Raises:
        UsageError: an unknown method, setting or scheme, a pattern or a range that is none, or a name that other ids
            are part of.
    """
    id = f"recipe-{name}"
    inside = [known for known in METHODS if known in id]
    if inside or not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", name):
        expected = "at most 64 lower-case letters, digits and '-', and no method's id in it"
        raise UsageError(who, f"name {name[:80]!r}", expected=expected)
    plain = get_methods([each for each in dict.fromkeys((default, *(rule.method for rule in rules))) if each != NONE])
    for row in plain:
        if row.algorithm == NO_WEIGHTS:
            raise UsageError(who, f"{row.id} quantizes no weights", expected="a method for layers")
        if row.rotation is not None:
            raise UsageError(who, f"{row.id} rotates the whole model", expected="methods that leave other layers alone")
    _check(rules, who)
    if not plain:
        raise UsageError(who, "no method", expected="a default or at least one rule")
    recipe = Recipe(name, default, tuple(rules), activations=activations, settings=settings or {})
    numbers = [number for number in range(-1, len(rules)) if recipe.method_of(number) != NONE]
    if default == NONE and (activations is not None or settings):
        raise UsageError(who, "activations or settings without a default", expected="a default they are about")
    used = {row.id: row for number in numbers for row in [recipe.row(number, who)]}
    return _method(id, replace(recipe, rows={each.id: each.as_record() for each in used.values()}), used, kv_cache, who)


def _method(id: str, recipe: Recipe, used: Mapping[str, Method], kv_cache: str | None, who: str) -> Method:
    rows = list(used.values())
    cache = None if kv_cache is None else named(CACHES, kv_cache, f"{who}, kv_cache")
    packed = all(row.storage == "packed" for row in rows)
    return Method(
        id=id,
        algorithm=ALGORITHM,
        settings=recipe,
        bits=rows[0].bits,
        needs_calibration=any(row.needs_calibration for row in rows),
        storage="packed" if packed else "fake",
        code_version=1,
        summary=f"recipe of {', '.join(used)}",
        source=who,
        activation_bits=min(row.activation_bits for row in rows),
        kv_cache=cache,
    )


def _check(rules: Sequence[Rule], who: str) -> None:
    for number, rule in enumerate(rules, 1):
        where = f"{who}, rule {number}"
        if rule.component not in (None, *get_args(Component)):
            raise UsageError(where, f"component {rule.component!r}", expected=" or ".join(get_args(Component)))
        try:
            _ranges("0" if rule.blocks is None else rule.blocks)
            re.compile(rule.include or "")
            re.compile(rule.exclude or "")
        except (ValueError, re.error) as error:
            raise UsageError(where, f"a range or pattern that is none ({error})", expected="as in 0-3,29") from error


def load_recipe(path: Path) -> Method:
    """The row that a TOML file describes.

    Raises:
        UsageError: the file cannot be read, holds keys nobody knows, or see `recipe_method`.
    """
    try:
        content = reading.read_toml(path)
    except (OSError, Unreadable) as error:
        raise UsageError(str(path), f"cannot be read ({error})", expected="a TOML file") from error
    _known(content, ("name", "default", "rules", "activations", "settings", "kv_cache"), str(path))
    rules = content.get("rules", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise UsageError(str(path), "rules that are no tables", expected="[[rules]]")
    for number, rule in enumerate(rules, 1):
        _known(rule, [each.name for each in fields(Rule)], f"{path}, rule {number}")
        if "method" not in rule:
            raise UsageError(f"{path}, rule {number}", "no method", expected="a row of the method table, or none")
    made = [Rule(**rule) for rule in rules]
    extra = {key: content[key] for key in ("activations", "settings", "kv_cache") if key in content}
    return recipe_method(content.get("name", path.stem.lower()), content.get("default", NONE), made, str(path), **extra)


def _known(content: Mapping[str, Any], keys: Sequence[str], who: str) -> None:
    unknown = sorted(set(content) - set(keys))
    if unknown:
        raise UsageError(who, f"unknown key {unknown[0]!r}", expected=f"only {', '.join(keys)}")
    kinds = {"rules": list, "settings": dict}
    odd = [key for key, value in content.items() if not isinstance(value, kinds.get(key, str))]
    if odd and odd[0] != "rules":
        expected = "a table, as in { group_size = 64 }" if odd[0] == "settings" else "a string"
        raise UsageError(who, f"{odd[0]} = {content[odd[0]]!r}", expected=expected)
