"""The stored scales of an opened checkpoint whose keys and values are in FP8; what they are is `static_cache`'s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from quantgate.checkpoints import cache_ranges
from quantgate.checkpoints.findings import ERROR, FACT, WARNING, Finding, named
from quantgate.checkpoints.static_cache import BITS, SIDES, number, scales_of
from quantgate.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from quantgate.checkpoints.fields import Declared
    from quantgate.checkpoints.layouts.protocol import Checkpoint


def is_read(declared: Declared) -> bool:
    """Whether scales of keys and values are stored and looked at here; our own layout has them in ranges."""
    return declared.cache_bits < 16 and declared.reader != "own"


def read(checkpoint: Checkpoint, declared: Declared, who: str) -> dict[str, dict[str, float]]:
    """`scales_of` of an opened checkpoint whose keys and values are quantized.

    Raises:
        ModelError: see `scales_of`; transformers takes nothing for a scale that is not there.
    """
    stored: Mapping[str, Tensor] = getattr(checkpoint, "cache_scales", dict)()
    unpacked = declared.reader == "unfolded"
    scales = {name: number(scale, f"{who}: {name}", alone=unpacked) for name, scale in stored.items()}
    found = scales_of([*checkpoint.modules, *checkpoint.plain], scales, who)
    if not unpacked and (lacking := [layer for layer, sides in found.items() if not sides]):
        raise ModelError(
            who, f"no scales of keys and values for {named(lacking)}", expected="one a layer and side",
            hint="finish the download, or write the checkpoint again",
        )  # fmt: skip
    return found


def completed(scales: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The same with 1 for both sides of every layer that has none."""
    return {layer: dict(sides) or dict.fromkeys(SIDES, 1.0) for layer, sides in scales.items()}


def findings(checkpoint: Checkpoint, declared: Declared, who: str) -> Iterator[Finding]:
    """What there is to say of the scales, for an audit."""
    try:
        scales = read(checkpoint, declared, who)
    except ModelError as error:
        yield Finding("cache_scales", ERROR, f"keys and values: {error.found}")
        return
    if lacking := tuple(layer for layer, sides in scales.items() if not sides):
        sentence = f"no scales of keys and values in FP8 for {named(lacking)}: 1 is taken, as vLLM does"
        yield Finding("cache_scales", FACT if len(lacking) == len(scales) else WARNING, sentence, lacking)
    if _is_fp8(checkpoint, declared):
        yield from cache_ranges.findings(checkpoint, scales)


def _is_fp8(checkpoint: Checkpoint, declared: Declared) -> bool:
    """Whether a scale reaches to the end of E4M3: always where we unpack, compressed-tensors' where they say so."""
    scheme = (checkpoint.config.get("quantization_config") or {}).get("kv_cache_scheme")
    if declared.reader == "unfolded" or not isinstance(scheme, Mapping):
        return declared.reader == "unfolded"
    return (
        scheme.get("type") == "float" and scheme.get("num_bits") == BITS and scheme.get("strategy") in (None, "tensor")
    )
