"""Quantized activations, simulated: inputs of linear layers, and what goes into the key/value cache.

The quantizer works in the forward of a loaded checkpoint. Codes are real integers, or numbers of an 8 or 4-bit float
format; the product is then computed in the model's dtype. Up to 8 bits, codes are exact in bf16, so with one scale a
token or a tensor the product of codes and weights rounds no more than a kernel's result in that dtype would.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from quantgate.core.errors import MethodError, ModelError
from quantgate.quantize.grids import UniformGrid, cover, to_steps
from quantgate.quantize.numerics import floats
from quantgate.quantize.numerics.rotations import Rotation
from quantgate.quantize.numerics.statistics import InputStatistics
from quantgate.quantize.settings import ActivationSettings, CacheSettings, FloatFormat

PARTS: Final = ("input_scale", "input_zero")  # of a static grid, stored beside the layer's weight
_TINY: Final = 2.0**-120  # the smallest scale: its quotients stay finite
_ROWS: Final = 512  # tokens worked on at a time: a float32 copy of them stays in the cache


def static_grid(statistics: InputStatistics, settings: ActivationSettings) -> dict[str, Tensor]:
    """Scale and zero point of the calibrated range, float32 ``[1]`` or ``[groups]``, under the names of `PARTS`."""
    low, high = statistics.low, statistics.high
    if settings.kind != "int":
        largest = torch.maximum(high.amax(), -low.amin()).view(1)
        scale = float_scale(largest, settings.kind)
        return dict(zip(PARTS, (scale, torch.zeros_like(scale)), strict=True))
    size = settings.group_size if settings.granularity == "group" else len(low)
    lows = torch.stack([part.amin() for part in torch.split(low, size)])
    highs = torch.stack([part.amax() for part in torch.split(high, size)])
    found = cover(lows, highs, UniformGrid(settings.bits, settings.sym), torch.float32)
    return dict(zip(PARTS, found, strict=True))


def float_scale(largest: Tensor, kind: FloatFormat) -> Tensor:
    """What brings the ``largest`` magnitudes (float32) to the largest number of the 8-bit format; 1 where all is 0."""
    return torch.where(largest == 0, 1.0, (largest / torch.finfo(floats.FLOAT8[kind]).max).clamp(min=_TINY))


def float_steps(values: Tensor, scale: Tensor, kind: FloatFormat) -> Tensor:
    """``values / scale`` (float32) rounded to the 8-bit format, float32; NaN and infinity stay no numbers."""
    scaled = values / scale
    return torch.where(torch.isfinite(scaled), floats.round_float8(scaled, kind).to(torch.float32), torch.nan)


def quantize_dynamic(x: Tensor, grid: UniformGrid, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Steps from the zero point (integers) and scale of ``x``, float32, with one scale over ``dim``."""
    values = x.to(torch.float32)
    scale, zero = cover(values.amin(dim, keepdim=True), values.amax(dim, keepdim=True), grid, torch.float32)
    return to_steps(values, scale, -zero, grid.top - zero), scale


def simulate_groups(x: Tensor, grid: UniformGrid, group_size: int) -> Tensor:
    """``x`` (``[..., features]``) on a dynamic grid for each token and group of features, in its dtype."""
    parts = []
    for part in torch.split(x, group_size, dim=-1):
        steps, scale = quantize_dynamic(part, grid, -1)
        parts.append(steps.mul_(scale).to(x.dtype))
    return torch.cat(parts, -1)


def simulate_float_groups(x: Tensor, kind: FloatFormat, group_size: int) -> Tensor:
    """``x`` (``[tokens, features]``) in an 8-bit float format with a scale for each token and group, in its dtype."""
    parts = []
    for part in torch.split(x.to(torch.float32), group_size, dim=-1):
        scale = float_scale(part.abs().amax(-1, keepdim=True), kind)
        parts.append(float_steps(part, scale, kind).mul_(scale).to(x.dtype))
    return torch.cat(parts, -1)


class ActivationLinear(nn.Linear):
    """A linear layer that quantizes its input; ``scale`` and ``zero``: a static grid as `static_grid` gives it."""

    def __init__(self, linear: nn.Linear, settings: ActivationSettings, static: Mapping[str, Tensor]) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.settings, self.grid = settings, UniformGrid(settings.bits, settings.sym)
        self.rotation = None if settings.rotation is None else Rotation(linear.in_features, settings.rotation)
        for name in PARTS:
            self.register_buffer(name, static.get(name), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """``input`` (``[..., in]``) on its grid, times the weight."""
        rows = input.reshape(-1, input.shape[-1])
        if self.rotation is not None:
            rows = torch.cat([self.rotation.apply(each.to(torch.float32)) for each in torch.split(rows, _ROWS)])
            rows = rows.to(input.dtype)
        if (kind := self.settings.kind) in ("nvfp4", "mxfp4"):
            chunks = torch.split(rows, _ROWS)
            common = cast("Tensor | None", self.input_scale)
            found = [floats.simulate_float4(each.to(torch.float32), kind, common) for each in chunks]
            rounded = torch.cat(found).to(rows.dtype)
            return nn.functional.linear(rounded, self.weight, self.bias).view(*input.shape[:-1], -1)
        if self.settings.granularity == "group":
            return nn.functional.linear(self._grouped(rows), self.weight, self.bias).view(*input.shape[:-1], -1)
        steps, scale = self._steps(rows)
        product = self._product(steps, scale)
        product = product if self.bias is None else product.add_(self.bias)
        return product.view(*input.shape[:-1], -1)

    def _product(self, steps: Tensor, scale: Tensor) -> Tensor:
        """Integers times weights times ``scale``, in the dtype of ``steps``; sums of codes may overflow in fp16."""
        if steps.dtype == torch.float16:
            wide = nn.functional.linear(steps.to(torch.float32), self.weight.to(torch.float32))
            return wide.mul_(scale).to(torch.float16)
        return nn.functional.linear(steps, self.weight).mul_(scale.to(steps.dtype))

    def _steps(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Integers in the dtype of ``rows``, and the scale that broadcasts over the product."""
        if self.settings.kind != "int":
            return self._float_steps(rows.to(torch.float32), rows.dtype)
        if self.settings.granularity == "token":
            found = [quantize_dynamic(chunk, self.grid, -1) for chunk in torch.split(rows, _ROWS)]
            return torch.cat([steps.to(rows.dtype) for steps, _ in found]), torch.cat([scale for _, scale in found])
        if self.settings.dynamic:
            steps, scale = quantize_dynamic(rows, self.grid, (0, 1))
            return steps.to(rows.dtype), scale
        scale, zero = cast(Tensor, self.input_scale), cast(Tensor, self.input_zero)
        return to_steps(rows.to(torch.float32), scale, -zero, self.grid.top - zero).to(rows.dtype), scale

    def _float_steps(self, values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        kind = cast(FloatFormat, self.settings.kind)
        if self.settings.granularity == "token":
            scale = float_scale(values.abs().amax(-1, keepdim=True), kind)
        elif self.settings.dynamic:
            scale = float_scale(values.abs().amax().view(1), kind)
        else:
            scale = cast(Tensor, self.input_scale)
        return float_steps(values, scale, kind).to(dtype), scale

    def _grouped(self, rows: Tensor) -> Tensor:
        size = self.settings.group_size
        if (kind := self.settings.kind) != "int":
            return torch.cat([simulate_float_groups(chunk, kind, size) for chunk in torch.split(rows, _ROWS)])
        if self.settings.dynamic:
            return torch.cat([simulate_groups(chunk, self.grid, size) for chunk in torch.split(rows, _ROWS)])
        index = torch.arange(rows.shape[1], device=rows.device) // size
        scale, zero = cast(Tensor, self.input_scale)[index], cast(Tensor, self.input_zero)[index]
        steps = to_steps(rows.to(torch.float32), scale, -zero, self.grid.top - zero)
        return steps.mul_(scale).to(rows.dtype)


def install(model: nn.Module, name: str, config: Mapping[str, Any], static: Mapping[str, Tensor]) -> None:
    """Let the linear layer ``name`` of a loaded model quantize its input.

    Raises:
        ModelError: a static grid that the checkpoint lacks, or settings that are none.
    """
    try:
        settings = ActivationSettings(**config)
    except (TypeError, MethodError) as error:
        raise ModelError(name, f"unreadable activation settings ({error})") from error
    if not settings.dynamic and set(static) != set(PARTS):
        raise ModelError(name, "no input_scale or input_zero", expected="both, for static activations")
    model.set_submodule(name, ActivationLinear(cast(nn.Linear, model.get_submodule(name)), settings, static))


def cache_layers(model: nn.Module, who: str) -> list[str]:
    """Names of the layers whose outputs go into the key/value cache.

    Raises:
        MethodError: there are none by the usual names (a fused projection, latent attention).
    """
    found = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in ("k_proj", "v_proj")]
    if not found:
        raise MethodError(who, "no layers k_proj and v_proj", expected="attention with separate keys and values")
    return found


def install_cache(model: nn.Module, config: Mapping[str, Any], who: str) -> None:
    """Let a loaded model keep its keys and values quantized; raises as `cache_layers`."""
    settings = CacheSettings(**config)
    grid = UniformGrid(settings.bits, symmetric=False)
    for name in cache_layers(model, who):
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output: simulate_groups(output, grid, settings.group_size)
        )
