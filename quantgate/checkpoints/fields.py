"""Fields of a ``quantization_config``: accounted for one by one, and what they say once they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from quantgate.core.errors import ModelError

_LONGEST_PATTERN: Final = 2000
_REPEAT: Final = re.compile(r"(?<!\\)[*+]")
_MOST_REPEATS: Final = 6


@dataclass(frozen=True)
class Declared:
    """What will be computed when the checkpoint is loaded.

    ``reader``: ``own`` (`load_quantized`); ``transformers``, which computes all that the configuration says; or
    ``unfolded``: its matrices are unpacked into 16-bit files first, which are then a plain model.
    ``kept``: whether a module of that name is declared to stay in 16 bit. ``bits``: nominal, None where nothing says.
    ``compute_dtype``: in which the runtime that it was written for unpacks and multiplies, where it says so; here that
    is always the run's ``--dtype``. ``inputs``: how an unpacked checkpoint quantizes the inputs of its matrices, as
    `ActivationSettings` takes it; static ones by the scale that is stored beside each matrix. ``beside``: the file that
    declares all this where config.json does not.
    """

    reader: Literal["own", "transformers", "unfolded"]
    kept: Callable[[str], bool]
    bits: int | None = None
    activation_bits: int = 16
    cache_bits: int = 16
    execution: str = "dequantized"
    compute_dtype: str = ""
    inputs: Mapping[str, Any] | None = None
    beside: str = ""


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
    """Raise ModelError unless ``pattern`` is a regular expression that is tried on a name within bounds.

    Repeats inside repeats, and many of them in a row, take exponentially long on a name that they do not match.
    """
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ModelError(who, f"{pattern!r} is no regular expression ({error})", expected="one") from error
    if len(pattern) > _LONGEST_PATTERN or len(_REPEAT.findall(pattern)) > _MOST_REPEATS or _repeats_in_repeats(pattern):
        raise ModelError(
            who, f"the pattern {pattern[:80]!r} may take without end", expected="no repeats inside repeats, and few",
            hint="name the modules, or write a simpler pattern",
        )  # fmt: skip


def check_patterns(config: Mapping[str, Any], who: str) -> None:
    """`check_pattern` for every pattern by which a ``quantization_config`` of any layout chooses modules."""
    groups = config.get("config_groups")
    parts = [config, *(groups.values() if isinstance(groups, Mapping) else ())]
    lists = [part.get(name) for part in parts if isinstance(part, Mapping) for name in ("targets", "ignore")]
    tables = [config.get(name) for name in ("dynamic", "extra_config")]
    found = [each for names in lists if isinstance(names, list) for each in names]
    found += [each for table in tables if isinstance(table, Mapping) for each in table]
    for each in found:
        if isinstance(each, str):
            check_pattern(each.removeprefix("re:").removeprefix("-:").removeprefix("+:"), who)


def _repeats_in_repeats(pattern: str) -> bool:
    """Whether a group with repeats or alternatives in it is repeated; groups are folded from the inside."""
    text = re.sub(r"\\.|\[(?:\\.|[^\]])+\]", "c", pattern)  # escapes and classes are a letter each
    while (group := re.search(r"\((?:\?(?:[:=!]|<[=!]|P<\w+>))?([^()]*)\)", text)) is not None:
        wild = re.search(r"[*+|{\0]", group[1]) is not None
        if wild and text[group.end() : group.end() + 1] in ("*", "+", "{"):
            return True
        text = f"{text[: group.start()]}{chr(0) if wild else 'c'}{text[group.end() :]}"
    return False


def torchao_type(config: Mapping[str, Any]) -> str:
    """The class of torchao's configuration, for example ``Int8WeightOnlyConfig``; empty where there is none."""
    kind: Any = config.get("quant_type")
    kind = kind.get("default", kind) if isinstance(kind, dict) else kind
    return str(kind.get("_type", "")) if isinstance(kind, dict) else str(kind or "")
