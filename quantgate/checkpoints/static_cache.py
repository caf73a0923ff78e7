"""Keys and values in FP8 by stored scales, as ModelOpt and AutoFP8 write them and vLLM keeps them.

Keys are rounded behind their rotation, both by one scale an attention layer and side. Where none is stored the scale is
1, as vLLM takes it. What the attention sees is rounded as a cache would hold it; nothing is kept in 8 bit here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from quantgate.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

SCALES: Final = re.compile(r"(?P<layer>.+?)\.(?:[kv]_proj\.|qkv_proj\.)?(?P<side>k|v|kv)_(?:cache_)?scale")
"""``self_attn.k_proj.k_scale`` (ModelOpt), ``self_attn.kv_scale`` (AutoFP8), ``self_attn.k_scale``."""
BITS: Final = 8
_KEYS: Final = re.compile(r"(?P<layer>.+)\.(?:k_proj|qkv_proj)(?:\.weight)?")
SIDES: Final = ("k", "v")


def scales_of(names: Iterable[str], stored: Mapping[str, float], who: str) -> dict[str, dict[str, float]]:
    """Attention layer -> side (``k``, ``v``) -> scale.

    Args:
        names: of modules and tensors, which say where attention is.
        stored: what is stored, by the tensors' names.
        who: for messages.

    Raises:
        ModelError: no attention by the usual names, a scale of none, two of one side, or one that is no number above 0.
    """
    layers = sorted({match["layer"] for name in names if (match := _KEYS.fullmatch(name))})
    if not layers:
        raise ModelError(who, "no layers k_proj or qkv_proj", expected="attention whose keys and values can be rounded")
    found: dict[str, dict[str, float]] = {layer: {} for layer in layers}
    for name, scale in stored.items():
        match = SCALES.fullmatch(name)
        if match is None or match["layer"] not in found:
            raise ModelError(who, f"{name} belongs to no attention layer", expected=f"one of {', '.join(layers[:3])}")
        if not 0 < scale < float("inf"):
            raise ModelError(who, f"{name} is {scale:g}", expected="a number above 0")
        for side in match["side"]:
            if side in found[match["layer"]]:
                raise ModelError(who, f"{name}: a second scale of {side}", expected="one scale a side")
            found[match["layer"]][side] = scale
    return {layer: dict.fromkeys(SIDES, 1.0) | sides for layer, sides in found.items()}


def number(scale: Tensor, name: str) -> float:
    """The one number of a stored scale. Raises ModelError where there are more."""
    if scale.numel() != 1:
        raise ModelError(name, f"{scale.numel()} scales", expected="one number, for keys or values of a layer")
    return float(scale.float())


def install(model: PreTrainedModel, scales: Mapping[str, Mapping[str, float]], who: str) -> None:
    """Let every attention layer of ``model`` see its keys and values as an FP8 cache holds them.

    Raises:
        ModelError: a layer that the model does not have.
    """
    from compressed_tensors.modeling.kvcache import initialize_hooked_kv_cache, register_key_hook, register_value_hook

    layers = dict(model.named_modules())
    for name, sides in scales.items():
        if name not in layers:
            raise ModelError(
                who, f"keys and values of {name} are quantized", expected="an attention layer of the model"
            )
        initialize_hooked_kv_cache(model, layers[name])
        register_key_hook(layers[name], _rounding(sides["k"]))
        register_value_hook(layers[name], _rounding(sides["v"]))


def _rounding(scale: float) -> Callable[[nn.Module, Tensor], Tensor]:
    from quantgate.quantize.numerics.floats import round_float8

    def rounded(_: nn.Module, values: Tensor) -> Tensor:
        wide = values.float() / scale
        return (round_float8(wide, "e4m3").float() * scale).to(values.dtype)

    return rounded
