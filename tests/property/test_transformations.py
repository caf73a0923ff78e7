"""Scaling what produces an input and what reads it is no change; quantized activations stay on their grid."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantgate.models.layers import Stage
from quantgate.quantize.algorithms.awq import candidate_scales
from quantgate.quantize.grids import UniformGrid
from quantgate.quantize.numerics.statistics import InputStatistics
from quantgate.quantize.settings import ActivationSettings
from quantgate.quantize.transforms.activations import quantize_dynamic, simulate_groups
from quantgate.quantize.transforms.fold import Fold, apply
from quantgate.quantize.transforms.smoothquant import smoothing_scale

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)
bits = st.sampled_from([2, 3, 4, 8])


def made(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(sizes, sizes, sizes, seeds, st.sampled_from(["norm", "linear", "heads"]))
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_a_fold_changes_nothing(features, outputs, rows, seed, kind):
    """In float64 to float32 precision, whatever the scales: a norm, a linear layer, value channels shared by heads."""
    repeat = 3 if kind == "heads" else 1
    source = nn.LayerNorm(features) if kind == "norm" else nn.Linear(5, features)
    reader = nn.Linear(features * repeat, outputs)
    for offset, parameter in enumerate([*source.parameters(), *reader.parameters()]):
        parameter.copy_(made(seed + offset, *parameter.shape))
    source, reader = source.double(), reader.double()
    x = made(seed, rows, features if kind == "norm" else 5).double()
    scale = made(seed + 9, features).exp().clamp(1e-3, 1e3)
    before = reader(source(x).repeat(1, repeat))
    channels = torch.arange(features).repeat(repeat)
    apply(Fold(Stage({"reader": reader}), "source", source, channels, kind == "norm"), scale, {})
    after = reader(source(x).repeat(1, repeat))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max() + 1))


@given(sizes, seeds, st.integers(1, 30))
def test_awq_candidates_are_positive_and_normalised(features, seed, grid):
    activation, weight = made(seed, features).abs(), made(seed + 1, features).abs().clamp(max=1)
    candidates = candidate_scales(activation, weight, grid)
    assert len(candidates) == grid + 1
    assert bool((candidates[0] == 1).all())
    for scale in candidates:
        assert bool((scale > 0).all())
        assert float(scale.max() * scale.min()) == pytest.approx(1, rel=1e-3)


@given(sizes, seeds, st.floats(0, 1))
def test_smoothing_is_positive_and_spares_silent_channels(features, seed, alpha):
    activation, weight = made(seed, features).abs(), made(seed + 1, features).abs()
    activation[::3] = 0
    scale = smoothing_scale(activation, weight, alpha)
    assert bool((scale > 0).all())
    assert bool((scale[::3] == 1).all())


@given(sizes, sizes, seeds, bits, st.booleans(), st.floats(1e-6, 1e6))
def test_dynamic_inputs_lie_on_their_grid_and_near(rows, features, seed, n_bits, sym, size):
    x, grid = made(seed, rows, features) * size, UniformGrid(n_bits, sym)
    before = x.clone()
    steps, scale = quantize_dynamic(x, grid, -1)
    assert torch.equal(x, before)
    assert torch.equal(steps, steps.round())
    assert float(steps.max() - steps.min()) <= 2 * grid.top
    # half a step inside the range; a symmetric grid has no code for its upper end, an asymmetric one rounds its zero
    assert bool(((steps * scale - x).abs() <= scale * 1.001).all())
    assert float((steps * scale - x).abs().mean()) <= float(0.51 * scale.max())


@given(sizes, st.integers(1, 50), st.integers(1, 16), seeds)
def test_groups_of_inputs_at_awkward_sizes(rows, features, group_size, seed):
    """The error falls with smaller groups' ranges: no group is worse than its own range allows."""
    x = made(seed, rows, features)
    found = simulate_groups(x, UniformGrid(8, False), group_size)
    assert found.shape == x.shape
    for start in range(0, features, group_size):
        part = x[:, start : start + group_size]
        reach = part.amax(1, True).clamp(min=0) - part.amin(1, True).clamp(max=0)
        assert bool(((found[:, start : start + group_size] - part).abs() <= reach / 255 + 1e-6).all())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), seeds)
def test_statistics_of_shards_add_up(lengths, seed):
    x = made(seed, sum(lengths), 7)
    whole = InputStatistics(7, x.device, ("hessian", "magnitude", "range"))
    whole.add(x)
    merged = InputStatistics(7, x.device, ("hessian", "magnitude", "range"))
    for part in torch.split(x, lengths):
        shard = copy.deepcopy(merged.__class__(7, x.device, merged.needs))
        shard.add(part)
        merged.merge(shard)
    assert merged.count == whole.count
    torch.testing.assert_close(merged.matrix(), whole.matrix(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged.mean_magnitude, whole.mean_magnitude)
    assert torch.equal(merged.max_magnitude, whole.max_magnitude)


@given(bits, st.booleans())
def test_settings_name_their_needs(n_bits, dynamic):
    wanted = ActivationSettings(n_bits, "tensor", dynamic).needs
    assert wanted == (frozenset() if dynamic else {"range"})
