"""The stored scales of an opened checkpoint whose keys and values are in FP8; what they are is `static_cache`'s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from quantgate.checkpoints.findings import ERROR, FACT, WARNING, Finding, named
from quantgate.checkpoints.static_cache import BITS, SIDES, number, scales_of
from quantgate.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from quantgate.checkpoints.fields import Declared
    from quantgate.checkpoints.layouts.protocol import Checkpoint


def is_read(declared: Declared) -> bool:
    """Whether scales of keys and values are read here: of checkpoints that are unpacked."""
    return declared.reader == "unfolded" and declared.cache_bits == BITS


def read(checkpoint: Checkpoint, who: str) -> dict[str, dict[str, float]]:
    """`scales_of` of an opened checkpoint whose keys and values are in FP8. Raises ModelError."""
    stored: Mapping[str, Tensor] = getattr(checkpoint, "cache_scales", dict)()
    scales = {name: number(scale, f"{who}: {name}") for name, scale in stored.items()}
    return scales_of([*checkpoint.modules, *checkpoint.plain], scales, who)


def completed(scales: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The same with 1 for both sides of every layer that has none."""
    return {layer: dict(sides) or dict.fromkeys(SIDES, 1.0) for layer, sides in scales.items()}


def findings(checkpoint: Checkpoint, who: str) -> Iterator[Finding]:
    """What there is to say of the scales, for an audit."""
    try:
        scales = read(checkpoint, who)
    except ModelError as error:
        yield Finding("cache_scales", ERROR, f"keys and values in FP8: {error.found}")
        return
    if lacking := tuple(layer for layer, sides in scales.items() if not sides):
        sentence = f"no scales of keys and values in FP8 for {named(lacking)}: 1 is taken, as vLLM does"
        yield Finding("cache_scales", FACT if len(lacking) == len(scales) else WARNING, sentence, lacking)
