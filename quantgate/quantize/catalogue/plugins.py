"""More methods from other packages.

A package that is installed beside quantgate names a `MethodPlugin` under the entry point group ``quantgate.methods``:

    [project.entry-points."quantgate.methods"]
    ours = "our_package.quantgate:PLUGIN"

Its rows then are rows of the table: selected, cached, judged and documented like the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.errors import UsageError
from quantgate.core.reading import visible
from quantgate.core.registry import check_row, installed
from quantgate.quantize.base import Algorithm, Method, StoredWeight

if TYPE_CHECKING:
    from torch import Tensor

    from quantgate.quantize.transforms.fold import Transformation

GROUP: Final = "quantgate.methods"
_MOST: Final = 10_000
_STORAGES: Final = ("packed", "fake")


@dataclass(frozen=True)
class MethodPlugin:
    """What a package adds.

    ``rows``: of the method table. ``algorithms``: by the key that rows name, a function of the row's settings.
    ``transformations``: by the type of the settings. ``formats``: readers of layers in the ``quantgate`` layout (see
    docs/checkpoints.md) by format name; called with the layer's tensors, the configuration and the layer's name.
    """

    rows: tuple[Method, ...]
    algorithms: Mapping[str, Callable[[Any], Algorithm]] = field(default_factory=dict)
    transformations: Mapping[type, Callable[[Any], Transformation]] = field(default_factory=dict)
    formats: Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, Any], str], StoredWeight]] = field(
        default_factory=dict
    )


def installed_plugins() -> list[MethodPlugin]:
    """All that installed packages name, in the order of their names.

    Raises:
        UsageError: one cannot be imported, or is no `MethodPlugin`.
    """
    found = []
    for who, plugin in installed(GROUP):
        check_row(who, plugin, MethodPlugin)
        _check_parts(who, plugin)
        found.append(plugin)
    return found


def _check_parts(who: str, plugin: MethodPlugin) -> None:
    if not isinstance(plugin.rows, (list, tuple)):
        raise UsageError(who, f"its rows are a {type(plugin.rows).__name__}", expected="a tuple of methods")
    for row in plugin.rows:
        check_row(who, row, Method)
    for name in ("algorithms", "transformations", "formats"):
        parts = getattr(plugin, name)
        if not isinstance(parts, Mapping) or not all(map(callable, parts.values())):
            raise UsageError(who, f"its {name} are {str(parts)[:60]}", expected="functions by name")


def check_rows(plugins: Iterable[MethodPlugin], algorithms: Collection[str], transformations: Collection[type]) -> None:
    """Raise UsageError for a row of a plugin that no run could make, keep or show.

    ``algorithms``, ``transformations``: all that rows can name.
    """
    for plugin in plugins:
        for row in plugin.rows:
            if wrong := _wrong(row, algorithms, transformations):
                raise UsageError(f"method {row.id!r}", wrong, hint="mend the package that brings it, or uninstall it")


def _wrong(row: Method, algorithms: Collection[str], transformations: Collection[type]) -> str:
    if row.algorithm not in algorithms:
        return f"its algorithm {row.algorithm!r} is none of {', '.join(algorithms)}"
    if row.transformation is not None and type(row.transformation) not in transformations:
        return f"nothing is called for its transformation, a {type(row.transformation).__name__}"
    if row.storage not in _STORAGES:
        return f"its storage is {row.storage!r}"
    for name in ("bits", "activation_bits", "code_version"):
        if type(number := getattr(row, name)) is not int or not 1 <= number <= _MOST:
            return f"its {name} is {number!r}, no whole number from 1 to {_MOST}"
    texts = (row.summary, row.source)
    if not all(isinstance(text, str) and text and visible(text) == text for text in texts):
        return "its summary or source is no text of one line"
    if not isinstance(row.needs_calibration, bool) or not isinstance(row.standard, bool):
        return "needs_calibration and standard are not both True or False"
    try:
        json.dumps(row.as_record(), allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"its settings cannot be recorded ({error})"
    return ""


def table_of(rows: Iterable[Method]) -> dict[str, Method]:
    """The rows by id.

    Raises:
        UsageError: an id that is part of another one: ``-k`` could not tell them apart.
    """
    table: dict[str, Method] = {}
    for row in rows:
        for known in table:
            if row.id in known or known in row.id:
                raise UsageError("method table", f"ids {known!r} and {row.id!r}", expected="none to be part of another")
        table[row.id] = row
    return table


def merged(own: Mapping[Any, Any], added: Iterable[Mapping[Any, Any]], what: str) -> dict[Any, Any]:
    """``own`` and what plugins add to it. Raises UsageError when one would replace what is there."""
    found = dict(own)
    for each in added:
        for key, value in each.items():
            if key in found:
                raise UsageError("method table", f"{what} {key!r} twice", expected="names of its own in every plugin")
            found[key] = value
    return found
