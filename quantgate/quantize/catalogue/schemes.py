"""Names for the ways in which inputs and caches are quantized, and rows that differ from the table's by a few settings.

A recipe joins them freely: any row that loads as a plain linear layer, with any of these inputs, under any cache. What
cannot be joined is refused where the recipe is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from quantgate.core.errors import MethodError, UsageError
from quantgate.core.naming import suggestion
from quantgate.quantize.base import Method
from quantgate.quantize.settings import FLOAT_BLOCK, ActivationSettings, CacheSettings

ACTIVATIONS: Final = {
    "int8-token": ActivationSettings(8, "token"),
    "int8-tensor": ActivationSettings(8, "tensor"),
    "int8-static": ActivationSettings(8, "tensor", dynamic=False),
    "int8-group": ActivationSettings(8, "group"),
    "int6-token": ActivationSettings(6, "token"),
    "int4-token": ActivationSettings(4, "token"),
    "int4-group": ActivationSettings(4, "group"),
    "fp8-token": ActivationSettings(8, "token", kind="e4m3"),
    "fp8-tensor": ActivationSettings(8, "tensor", kind="e4m3"),
    "fp8-static": ActivationSettings(8, "tensor", dynamic=False, kind="e4m3"),
    "nvfp4": ActivationSettings(4, "group", group_size=FLOAT_BLOCK["nvfp4"], kind="nvfp4"),
    "mxfp4": ActivationSettings(4, "group", group_size=FLOAT_BLOCK["mxfp4"], kind="mxfp4"),
}
"""Inputs of linear layers, by bits and by what shares a scale."""

CACHES: Final = {"int8": CacheSettings(8), "int4": CacheSettings(4), "int2": CacheSettings(2)}
"""Keys and values."""

_COMPUTES_ITSELF: Final = "llm_int8"  # its inputs are int8 already


def named(table: Mapping[str, Any], name: str, who: str) -> Any:
    """The entry of `ACTIVATIONS` or `CACHES` called ``name``. Raises UsageError, with the closest names."""
    if name not in table:
        raise UsageError(who, repr(name), expected=f"one of {', '.join(table)}", hint=suggestion(name, table))
    return table[name]


def changed(row: Method, id: str, settings: Mapping[str, Any], activations: str | None, who: str) -> Method:
    """``row`` under the name ``id``, with other ``settings`` (of its algorithm) and quantized inputs.

    A setting that its transformation has too is changed there as well: the scales are searched for the same grid.

    Raises:
        UsageError: a setting the row does not have, a value of another type, or inputs it cannot be given.
    """
    if settings:
        row = replace(row, settings=_with(row.settings, settings, row.id, who), bits=settings.get("bits", row.bits))
        shared = {each.name for each in fields(row.transformation)} & set(settings) if row.transformation else set()
        if shared:
            mine = {name: settings[name] for name in shared}
            row = replace(row, transformation=_with(row.transformation, mine, row.id, who))
    if activations is not None:
        if row.algorithm == _COMPUTES_ITSELF:
            raise UsageError(who, f"activations {activations!r} for {row.id}", expected="none: it has its own")
        found: ActivationSettings = named(ACTIVATIONS, activations, f"{who}, activations")
        calibrated = row.needs_calibration or not found.dynamic
        row = replace(row, activations=found, activation_bits=found.bits, needs_calibration=calibrated)
    return replace(row, id=id)


def _with(old: Any, settings: Mapping[str, Any], id: str, who: str) -> Any:
    known = {each.name: getattr(old, each.name) for each in fields(old)}
    for name, value in settings.items():
        if name not in known:
            raise UsageError(who, f"setting {name!r} of {id}", expected=f"one of {', '.join(known)}")
        wanted = type(known[name])
        if known[name] is not None and type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UsageError(who, f"{name} = {value!r}", expected=f"a {wanted.__name__}, as in {known[name]!r}")
    try:
        return replace(old, **settings)
    except MethodError as error:
        raise UsageError(who, str(error)) from error
