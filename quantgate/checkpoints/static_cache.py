"""Keys and values in FP8 by stored scales, as ModelOpt and AutoFP8 write them and vLLM keeps them.

Keys are rounded behind their rotation, both by one scale an attention layer and side. Where a layer has none the scale
is 1, as vLLM takes it. What the attention sees is rounded as a cache would hold it; nothing is kept in 8 bit here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from quantgate.checkpoints.findings import named
from quantgate.core.errors import ModelError, translated

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

SCALES: Final = re.compile(r"(?P<layer>.+?)\.(?:[kv]_proj\.|qkv_proj\.)?(?P<side>k|v|kv)_(?:cache_)?scale")
"""``self_attn.k_proj.k_scale`` (ModelOpt), ``self_attn.kv_scale`` (AutoFP8), ``self_attn.k_scale``."""
BITS: Final = 8
_KEYS: Final = re.compile(r"(?P<layer>.+)\.(?:k_proj|qkv_proj)(?:\.weight)?")
SIDES: Final = ("k", "v")
_BY_SERVER: Final = "judge it by its server: --candidate NAME=URL"


def scales_of(names: Iterable[str], stored: Mapping[str, float], who: str) -> dict[str, dict[str, float]]:
    """Attention layer -> side (``k``, ``v``) -> scale; both sides or none.

    Args:
        names: of modules and tensors, which say where attention is.
        stored: what is stored, by the tensors' names.
        who: for messages.

    Raises:
        ModelError: no attention by the usual names, a scale of none, two of one side, one side alone (vLLM takes a lone
            ``k_scale`` for both and fails on the other), or a scale that is no number above 0.
    """
    layers = sorted({match["layer"] for name in names if (match := _KEYS.fullmatch(name))})
    if not layers:
        raise ModelError(
            who, "no layers k_proj or qkv_proj", expected="attention whose keys and values can be rounded",
            hint=_BY_SERVER,
        )  # fmt: skip
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
    for layer, sides in found.items():
        if len(sides) == 1:
            raise ModelError(
                who, f"{layer} has a scale of {next(iter(sides))} alone", expected="one a side, or none of the layer",
                hint="finish the download, or write the checkpoint again",
            )  # fmt: skip
    return found


def number(scale: Tensor, name: str, *, alone: bool = True) -> float:
    """The one number of a stored scale; the smallest where there may be more (``alone`` false: one a head).

    Raises:
        ModelError: there are more, or none.
    """
    if scale.numel() != 1 and (alone or not scale.numel()):
        raise ModelError(name, f"{scale.numel()} scales", expected="one number, for keys or values of a layer")
    return float(scale.float().min())  # NaN, where one of them is


def install(model: PreTrainedModel, scales: Mapping[str, Mapping[str, float]], who: str) -> None:
    """Let every attention layer of ``model`` see its keys and values as an FP8 cache holds them.

    Raises:
        ModelError: a layer that the model does not have, or see `check_taken`.
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
    check_taken(model, who)


def check_taken(model: PreTrainedModel, who: str) -> None:
    """Run two tokens, to see that every layer hands its keys and values to what rounds them.

    An attention that calls its cache by another name would go on in 16 bit, and be judged as if it did not.

    Raises:
        ModelError: names a layer that does not.
    """
    import torch
    from compressed_tensors.modeling.kvcache import KV_CACHE_ATTR, QuantizedKVCache

    caches = {name: getattr(layer, KV_CACHE_ATTR, None) for name, layer in model.named_modules()}
    ours = {name: cache for name, cache in caches.items() if isinstance(cache, QuantizedKVCache)}
    seen: set[str] = set()
    handles = [
        cache.register_forward_pre_hook(lambda *_, name=name: seen.add(name)) for name, cache in ours.items()
    ]  # fmt: skip
    found, expected = "its attention does not take keys and values in 8 bit", "attention as Llama's, Mistral's or OPT's"
    try:
        with (
            torch.no_grad(),
            translated(who, found, expected=expected, hint=_BY_SERVER, also=(TypeError, AttributeError)),
        ):
            model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    left_out = [name for name in ours if name not in seen]
    if left_out or not ours:
        raise ModelError(who, f"{found} ({named(left_out) or 'no layer'})", expected=expected, hint=_BY_SERVER)


def _rounding(scale: float) -> Callable[[nn.Module, Tensor], Tensor]:
    from quantgate.quantize.numerics.floats import round_float8

    def rounded(_: nn.Module, values: Tensor) -> Tensor:
        wide = values.float() / scale
        return (round_float8(wide, "e4m3").float() * scale).to(values.dtype)

    return rounded
