"""Inputs in floating point: against every value of the format, one by one."""

import pytest
import torch
from torch import nn

from quantgate.core.errors import MethodError
from quantgate.quantize.numerics.floats import E2M1, simulate_float4
from quantgate.quantize.numerics.statistics import InputStatistics
from quantgate.quantize.settings import ActivationSettings
from quantgate.quantize.transforms.activations import ActivationLinear, static_grid

FEATURES = 64
E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
E4M3 = E4M3[E4M3.isfinite()].unique()
SIXTEEN = torch.tensor([*E2M1, *(-value for value in E2M1)], dtype=torch.float64).unique()


def inputs():
    x = torch.randn(20, FEATURES, generator=torch.Generator().manual_seed(1))
    x[3] *= 100
    x[:, 5] *= 30
    x[7] = 0
    return x


def distance(values, levels):
    """How far each value is from the nearest of ``levels``."""
    return (values.double().unsqueeze(-1) - levels).abs().amin(-1)


def product(settings, x, static=None):
    linear = nn.Linear(FEATURES, FEATURES, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(FEATURES))  # what comes out is what went in, rounded
    return ActivationLinear(linear, settings, static or {})(x).detach()


@pytest.mark.parametrize("granularity", ["token", "tensor"])
def test_e4m3_inputs_are_the_nearest_numbers_of_the_format(granularity):
    x = inputs()
    out = product(ActivationSettings(8, granularity, kind="e4m3"), x)
    largest = x.abs().amax(1, keepdim=True) if granularity == "token" else x.abs().amax()
    scale = torch.where(largest == 0, 1, largest / 448).double()
    assert bool((distance(out.double() / scale, E4M3) < 1e-4).all())
    assert bool(((out - x).double().abs() <= (distance(x / scale, E4M3) + 1e-4) * scale).all())
    assert bool((out[7] == 0).all())


def test_static_e4m3_saturates_at_the_calibrated_range():
    settings = ActivationSettings(8, "tensor", dynamic=False, kind="e4m3")
    statistics = InputStatistics(FEATURES, torch.device("cpu"), settings.needs)
    statistics.add(inputs().clamp(-2, 1))
    grid = static_grid(statistics, settings)
    assert float(grid["input_scale"]) == pytest.approx(2 / 448)
    out = product(settings, inputs(), grid)
    assert float(out.abs().max()) == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize(("kind", "block"), [("nvfp4", 16), ("mxfp4", 32)])
def test_blocks_of_four_bit_inputs(kind, block):
    x = inputs()
    out = simulate_float4(x, kind)
    for row, rounded in zip(x.split(block, 1), out.split(block, 1), strict=True):
        largest = row.abs().amax(1, keepdim=True).double()
        if kind == "mxfp4":
            scale = 2.0 ** ((largest.clamp(min=1e-30)).log2().floor() - 2)
        else:  # the scale is itself a number of E4M3 times a power of two that the token shares
            shared = 2.0 ** (448 * 6 / x.abs().amax(1, keepdim=True).double().clamp(min=2.0**-100)).log2().floor()
            wanted = (largest / 6 * shared).clamp(min=2.0**-9)
            nearest = (wanted.unsqueeze(-1) - E4M3).abs().argmin(-1)
            scale = E4M3[nearest] / shared
        assert bool((distance(rounded.double() / scale, SIXTEEN) < 1e-6).all())
        assert bool(((rounded - row).double().abs() <= (distance(row / scale, SIXTEEN) + 1e-6) * scale).all())
    assert torch.equal(product(ActivationSettings(4, "group", group_size=block, kind=kind), x), out)


@pytest.mark.parametrize("kind", ["e4m3", "e5m2", "nvfp4", "mxfp4"])
def test_a_broken_models_inputs_do_not_look_well(kind):
    x = inputs()
    x[0, 0] = torch.inf
    x[1, 0] = torch.nan
    block = {"nvfp4": 16, "mxfp4": 32}.get(kind)
    settings = ActivationSettings(4, "group", group_size=block, kind=kind) if block else ActivationSettings(kind=kind)
    assert bool(product(settings, x)[:2].isnan().any(1).all())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bits": 4, "kind": "e4m3"}, "symmetric e4m3 of 4 bit; expected symmetric, 8 bit"),
        ({"kind": "e4m3", "sym": False}, "asymmetric e4m3"),
        ({"kind": "e4m3", "granularity": "group", "dynamic": False}, "static e4m3 by group"),
        ({"bits": 4, "kind": "nvfp4"}, "nvfp4 by token.*expected dynamic groups of 16"),
        ({"bits": 4, "kind": "mxfp4", "granularity": "group", "group_size": 16}, "dynamic groups of 32"),
    ],
)
def test_what_a_format_does_not_have_is_refused(settings, said):
    with pytest.raises(MethodError, match=said):
        ActivationSettings(**settings)
