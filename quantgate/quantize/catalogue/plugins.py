"""More methods from other packages.

A package that is installed beside quantgate names a `MethodPlugin` under the entry point group ``quantgate.methods``:

    [project.entry-points."quantgate.methods"]
    ours = "our_package.quantgate:PLUGIN"

Its rows then are rows of the table: selected, cached, judged and documented like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.errors import UsageError
from quantgate.core.registry import check_row, installed
from quantgate.quantize.base import Algorithm, Method, StoredWeight

if TYPE_CHECKING:
    from torch import Tensor

    from quantgate.quantize.transforms.fold import Transformation

GROUP: Final = "quantgate.methods"


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
        found.append(plugin)
    return found


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
