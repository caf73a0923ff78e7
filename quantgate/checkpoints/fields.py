"""Fields of a ``quantization_config``: accounted for one by one, and what they say once they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quantgate.core.errors import ModelError


@dataclass(frozen=True)
class Declared:
    """What will be computed when the checkpoint is loaded.

    ``reader``: ``own`` (`load_quantized`); ``transformers``, which computes all that the configuration says; or
    ``unfolded``: its matrices are unpacked into 16-bit files first, which are then a plain model.
    ``kept``: whether a module of that name is declared to stay in 16 bit. ``bits``: nominal, None where nothing says.
    ``compute_dtype``: in which the runtime that it was written for unpacks and multiplies, where it says so; here that
    is always the run's ``--dtype``.
    """

    reader: Literal["own", "transformers", "unfolded"]
    kept: Callable[[str], bool]
    bits: int | None = None
    activation_bits: int = 16
    cache_bits: int = 16
    execution: str = "dequantized"
    compute_dtype: str = ""


def account(
    config: Mapping[str, Any],
    who: str,
    *,
    honoured: Iterable[str],
    harmless: Iterable[str] = (),
    only: Mapping[str, tuple[Any, ...]] | None = None,
) -> None:
    """Check that every field of ``config`` is known.

    Args:
        config: what a configuration says.
        who: for messages.
        honoured: fields that the reader computes with; their values are its business.
        harmless: fields that say how the weights were found or where they run fastest, not what they are.
        only: fields that are harmless with these values alone.

    Raises:
        ModelError: the first field that may change what is computed.
    """
    known, fixed = {*honoured, *harmless}, only or {}
    for name, value in config.items():
        empty = value is None or value in ({}, [])
        if name in known or empty or (name in fixed and any(value == each for each in fixed[name])):
            continue
        allowed = " or ".join(map(repr, fixed[name])) if name in fixed else ""
        shown = repr(value)
        raise ModelError(
            who,
            f"{name} is {shown if len(shown) <= 80 else shown[:77] + '...'}",
            expected=f"{allowed or 'no such field'}: this is not computed here, and it may change the answers",
            hint="judge the checkpoint in a runtime that knows it, or export it without",
        )


def integer(config: Mapping[str, Any], name: str, allowed: Callable[[int], bool], who: str, expected: str) -> int:
    """The whole number ``name``, if ``allowed`` says yes. Raises ModelError with what was ``expected``."""
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not allowed(value):
        raise ModelError(who, f"{name} is {value!r}" if name in config else f"no {name}", expected=expected)
    return value


def flag(config: Mapping[str, Any], name: str, who: str) -> bool:
    """A truth value; False where nothing is said. Raises ModelError for anything else."""
    value = config.get(name, False)
    if value not in (True, False, None):
        raise ModelError(who, f"{name} is {value!r}", expected="true or false")
    return bool(value)


def names(value: Any, who: str) -> list[str]:
    """A list of names, or one. Raises ModelError for anything else."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ModelError(who, f"{value!r} in a list of modules", expected="names of modules")
    return value


def check_pattern(pattern: str, who: str) -> None:
    """Raise ModelError unless ``pattern`` is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ModelError(who, f"{pattern!r} is no regular expression ({error})", expected="one") from error
