"""The stored scales by which inputs, keys and values are rounded: read, and refused, before anything is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints import cache_scales
from quantgate.checkpoints.layouts.parts import PartsCheckpoint, small
from quantgate.core.errors import ModelError
from quantgate.models.quantized import CACHE, INPUTS

if TYPE_CHECKING:
    from torch import Tensor

    from quantgate.checkpoints.fields import Declared
    from quantgate.checkpoints.layouts.protocol import Checkpoint

STATIC: Final = ("input_scale", "activation_scale")
_OF_VALUES: Final = (*STATIC, "input_global_scale", "output_scale")
_HINT: Final = "write the checkpoint again, or finish the download"


def check(checkpoint: Checkpoint, declared: Declared, who: str) -> None:
    """Check that every stored scale of inputs, keys and values that is computed with is there and a number above 0.

    Raises:
        ModelError: names the one that is not.
    """
    if cache_scales.is_read(declared):
        cache_scales.read(checkpoint, declared, who)
    if declared.reader == "unfolded":
        input_settings(checkpoint, declared.inputs)
    if declared.activation_bits < 16:
        for module in checkpoint.modules:
            for key, scale in _scales_of_values(checkpoint, module).items():
                _check_numbers(scale, f"{who}: {module}", key.partition("_")[0])


def input_settings(checkpoint: Checkpoint, inputs: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Matrix -> how its inputs are quantized: ``settings`` of `ActivationSettings`, and a static ``scale``.

    Raises:
        ModelError: inputs are declared static, and a matrix has no scale for them, or one that is no positive number.
    """
    if inputs is None:
        return {}
    by_blocks = inputs["kind"] == "nvfp4"  # blocks are dynamic, the scale they share is stored
    if inputs.get("dynamic", True) and not by_blocks:
        return {name: {"settings": dict(inputs)} for name in checkpoint.modules}
    return {name: {"settings": dict(inputs), "scale": _static_scale(checkpoint, name)} for name in checkpoint.modules}


def computed_with(checkpoint: Checkpoint, declared: Declared) -> dict[str, Any]:
    """What config.json says of inputs, and of keys and values, for `load_unfolded`; nothing where they stay in 16 bit.

    Raises:
        ModelError: see `input_settings` and `cache_scales.read`.
    """
    inputs = input_settings(checkpoint, declared.inputs)
    found: dict[str, Any] = {INPUTS: inputs} if inputs else {}
    if cache_scales.is_read(declared):
        who = getattr(checkpoint, "who", checkpoint.layout)
        found[CACHE] = cache_scales.completed(cache_scales.read(checkpoint, declared, who))
    return found


def _static_scale(checkpoint: Checkpoint, name: str) -> float:
    scales = [each for key, each in _scales_of_values(checkpoint, name).items() if key in STATIC]
    if len(scales) != 1 or scales[0].numel() != 1:
        raise ModelError(
            name, "no input scale", expected="one number, for inputs that are quantized by a stored scale", hint=_HINT
        )  # fmt: skip
    _check_numbers(scales[0], name, "input")
    return float(scales[0].float())


def _scales_of_values(checkpoint: Checkpoint, module: str) -> dict[str, Tensor]:
    """Those beside one matrix, without its own: they are read for all matrices before a run."""
    if isinstance(checkpoint, PartsCheckpoint):
        parts = checkpoint.found[module]
        return {key: small(part, module) for key, part in parts.items() if key in _OF_VALUES}
    return {key: scale for key, scale in checkpoint.scales(module).items() if key in _OF_VALUES}


def _check_numbers(scale: Tensor, who: str, what: str) -> None:
    wide = scale.float().flatten()
    wrong = wide[~(wide.isfinite() & (wide > 0))]
    if wrong.numel() or not wide.numel():
        found = f"an {what} scale of {float(wrong[0]):g}" if wrong.numel() else f"an {what} scale that holds nothing"
        raise ModelError(who, found, expected="a number above 0", hint=_HINT)
