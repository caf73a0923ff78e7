"""The readers, in the order in which they are asked; entry point group ``quantgate.readers``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from quantgate.checkpoints.guests import GROUP
from quantgate.checkpoints.layouts import adapter, awq, compressed, gguf, hqq, mlx, native, plain, quanto, scaled
from quantgate.checkpoints.layouts.protocol import Checkpoint, Layout
from quantgate.checkpoints.lone import declaring_config
from quantgate.core.errors import ModelError
from quantgate.core.registry import rows_of
from quantgate.models.files import check_links

_PACKINGS: Final = ("quant_method", "version", "format", "checkpoint_format", "packing_format")


@cache
def layouts() -> dict[str, Layout]:
    """All rows by name, those of installed packages behind our own. Raises UsageError: see `rows_of`."""
    return rows_of(GROUP, Layout, _ROWS, lambda row: row.name)


def layout_of(place: Path, who: str) -> Layout:
    """The row that recognises the directory or file ``place``.

    Raises:
        ModelError: none does, or a link in the directory leads out of it.
    """
    if place.is_dir():
        check_links(place, who)
    elif not place.is_file():
        raise ModelError(who, f"{place.name} is no plain file", expected="a directory or a file that is there")
    config = declaring_config(place, who) if (place / "config.json").is_file() else {}
    for row in layouts().values():
        if row.recognises(place, config):
            return row
    found = config.get("quantization_config")
    packed = {name: found[name] for name in _PACKINGS if found.get(name)} if isinstance(found, Mapping) else {}
    named = ", ".join(f"{name} {value!r}" for name, value in packed.items())
    raise ModelError(
        who,
        named or f"{'config.json' if config else place.name} is of no known layout",
        expected=f"one of {', '.join(layouts())}",
        hint="pack it otherwise with the tool that made it, or judge it by its server: --candidate NAME=URL",
    )


_ROWS: Final[tuple[Layout, ...]] = (
    gguf.LAYOUT, adapter.Adapter(layout_of), native.GPTQ, native.BITSANDBYTES, native.OWN, compressed.LAYOUT, awq.AWQ,
    awq.AWQ_GEMV, awq.AUTO_ROUND_GPTQ, awq.AUTO_ROUND_AWQ, scaled.FP8, scaled.MODELOPT, scaled.TORCHAO, hqq.LAYOUT,
    quanto.LAYOUT, mlx.LAYOUT, plain.LAYOUT,
)  # fmt: skip


def open_checkpoint(place: Path, reference: Path | None, who: str) -> Checkpoint:
    """The checkpoint in ``place``, opened by the row that recognises it. Raises ModelError; see `Layout.open`."""
    return layout_of(place, who).open(place, reference, who)
