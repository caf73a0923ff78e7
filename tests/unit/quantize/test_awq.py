import dataclasses
import math

import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.core.progress import Silent
from quantgate.models.layers import Stage
from quantgate.quantize.algorithms import awq
from quantgate.quantize.algorithms.awq import (
    Awq,
    ClippedRtn,
    candidate_scales,
    clip_ranges,
    rounding_loss,
    weight_magnitude,
)
from quantgate.quantize.grids import UniformGrid, dequantize, fit_groups, group_index, quantize
from quantgate.quantize.numerics.statistics import InputStatistics
from quantgate.quantize.settings import AwqSettings, ClipSettings
from quantgate.quantize.sweep.driver import Sweep
from quantgate.quantize.transforms.fold import Fold
from tests.unit.conftest import random_calibration, tiny_llama

INPUTS, OUTPUTS, GROUP = 40, 24, 16  # the last group is shorter


@pytest.fixture
def layer():
    """A weight ``[out, in]`` and inputs with a few loud channels."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator)
    rows = torch.randn(300, INPUTS, generator=generator)
    rows[:, [3, 20]] *= 30
    return weight, rows


def statistics_of(rows):
    statistics = InputStatistics(rows.shape[1], rows.device, ("hessian", "magnitude"))
    statistics.add(rows)
    return statistics


def reference_rounding(weight, settings):
    """Asymmetric or symmetric rounding by groups, in float64, straight from the definition."""
    grid = UniformGrid(settings.bits, settings.sym)
    columns = weight.t().contiguous()
    scales, zeros = fit_groups(columns, settings.group_size, grid)
    index = group_index(len(columns), settings.group_size)
    return dequantize(quantize(columns, scales[index], zeros[index], grid), scales[index], zeros[index]).t()


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("group_size", [-1, GROUP])
def test_loss_is_the_change_of_the_output(layer, sym, group_size):
    weight, rows = layer
    settings = AwqSettings(4, group_size, sym)
    scale = torch.rand(INPUTS) + 0.5
    rounded = reference_rounding(weight * scale, settings) / scale
    change = (rows.double() @ (rounded - weight).double().t()).square().sum() * 2 / len(rows)
    found = rounding_loss(weight.t().contiguous(), scale, statistics_of(rows).matrix(), settings)
    assert found == pytest.approx(float(change), rel=0.01)


def test_magnitude_of_weights_is_relative_to_their_group():
    weight = torch.tensor([[1.0, -4.0, 0.5, 0.25], [2.0, 2.0, -1.0, 1.0]])
    expected = torch.tensor([(0.25 + 1) / 2, 1.0, 1.0, (0.5 + 1) / 2])
    torch.testing.assert_close(weight_magnitude(weight.t(), 2), expected, rtol=1e-4, atol=0)


def test_candidates_by_hand():
    activation, weight = torch.tensor([1.0, 4.0]), torch.tensor([0.25, 1.0])
    found = candidate_scales(activation, weight, 2)
    assert len(found) == 3
    assert torch.equal(found[0], torch.ones(2))
    torch.testing.assert_close(found[1], torch.tensor([4.0, 1.0]) / 2, rtol=1e-3, atol=0)  # r = 0: 1/w
    torch.testing.assert_close(found[2], torch.tensor([2.0, 2.0]) / 2, rtol=1e-3, atol=0)  # r = 1/2


def fold_for(weight):
    linear = torch.nn.Linear(INPUTS, len(weight), bias=False)
    norm = torch.nn.LayerNorm(INPUTS)
    return Fold(Stage({"linear": linear}), "norm", norm, torch.arange(INPUTS), True)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_searched_scales_beat_rounding_alone(layer, bits):
    weight, rows = layer
    settings = AwqSettings(bits, GROUP)
    statistics = statistics_of(rows)
    scale = Awq(settings).scale(fold_for(weight), [weight], statistics)
    columns, hessian = weight.t().contiguous(), statistics.matrix()
    searched = rounding_loss(columns, scale, hessian, settings)
    plain = rounding_loss(columns, torch.ones(INPUTS), hessian, settings)
    assert searched < 0.8 * plain
    assert float(scale[[3, 20]].min()) > float(scale.median())  # loud channels get finer weights


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_best_candidate_is_taken(layer, bits, monkeypatch):
    """Giving up early, output by output, loses nothing: all candidates are worked out here."""
    monkeypatch.setattr(awq, "_CHUNK", INPUTS)
    weight, rows = layer
    settings, statistics = AwqSettings(bits, GROUP), statistics_of(rows)
    columns, hessian = weight.t().contiguous(), statistics.matrix()
    tried = candidate_scales(statistics.mean_magnitude, weight_magnitude(columns, GROUP), 20)
    losses = [rounding_loss(columns, scale, hessian, settings) for scale in tried]
    chosen = Awq(settings).scale(fold_for(weight), [weight], statistics)
    assert torch.equal(chosen, tried[losses.index(min(losses))])


def test_a_hopeless_candidate_is_given_up(layer):
    weight, rows = layer
    columns, hessian, scale = weight.t().contiguous(), statistics_of(rows).matrix(), torch.rand(INPUTS) + 0.5
    loss = rounding_loss(columns, scale, hessian, AwqSettings(3, GROUP))
    assert rounding_loss(columns, scale, hessian, AwqSettings(3, GROUP), loss) == loss  # equal is not larger
    assert rounding_loss(columns, scale, hessian, AwqSettings(3, GROUP), 0.9 * loss) == math.inf


def group_losses(weight, scales, zeros, hessian, settings):
    """Per group and output: the change of the group's part of the output, in float64."""
    index = group_index(INPUTS, settings.group_size)
    columns = weight.t()
    codes = quantize(columns, scales[index], zeros[index], UniformGrid(settings.bits, settings.sym))
    error = (dequantize(codes, scales[index], zeros[index]) - columns).double()
    parts = [(error[index == g], hessian[index == g][:, index == g].double()) for g in range(len(scales))]
    return torch.stack([torch.einsum("io,ij,jo->o", part, block, part) for part, block in parts])


@pytest.mark.parametrize("sym", [True, False])
def test_clipping_never_hurts_a_group(layer, sym):
    weight, rows = layer
    settings = ClipSettings(3, GROUP, sym)
    hessian = statistics_of(rows).matrix()
    clipped = clip_ranges(weight.t().contiguous(), hessian, settings)
    full = fit_groups(weight.t().contiguous(), GROUP, UniformGrid(3, sym))
    after, before = (group_losses(weight, *ranges, hessian, settings) for ranges in (clipped, full))
    assert bool((after <= before * (1 + 1e-5)).all())
    assert float(after.sum()) < 0.9 * float(before.sum())


def test_asymmetric_ranges_beat_symmetric_ones_at_two_bits(layer):
    """LLMC's finding, on weights that lean to one side."""
    weight, rows = layer
    weight = weight.abs() + 0.1 * weight
    losses = {
        sym: ClippedRtn(ClipSettings(2, GROUP, sym)).quantize([weight], statistics_of(rows))[0].loss
        for sym in (True, False)
    }
    assert losses[False] < 0.5 * losses[True]


def test_without_steps_it_is_rtn(layer):
    weight, rows = layer
    result = ClippedRtn(ClipSettings(4, GROUP, steps=1)).quantize([weight], statistics_of(rows))[0]
    expected = reference_rounding(weight, ClipSettings(4, GROUP))
    torch.testing.assert_close(result.weight.dequantize(torch.float32), expected, rtol=0, atol=0)


def test_any_number_of_outputs(layer):
    """The published code asserts that the outputs are a multiple of 256."""
    weight, rows = layer
    result = ClippedRtn(ClipSettings(4, GROUP)).quantize([weight[:7]], statistics_of(rows))[0]
    assert result.weight.dequantize(torch.float32).shape == (7, INPUTS)


def test_no_statistics():
    with pytest.raises(MethodError, match="no calibration statistics"):
        ClippedRtn(ClipSettings(4)).quantize([torch.ones(4, 8)], InputStatistics(8, torch.device("cpu")))


def test_folded_and_unfolded_models_are_the_same_but_for_rounding():
    """The sweep with eight bits: every norm, value and up projection changes, the logits hardly do."""
    model, original = tiny_llama().float(), tiny_llama().float()
    sweep = Sweep(model, ClippedRtn(ClipSettings(8, 16)), "awq8", Silent(), Awq(AwqSettings(8, 16)))
    results = sweep.run(random_calibration([12, 30]))
    assert len(results) == 14
    assert set(sweep.job.changed) <= {
        f"model.layers.{layer}.{norm}.weight"
        for layer in range(2)
        for norm in ("input_layernorm", "post_attention_layernorm")
    }
    ids = torch.arange(20).view(1, 20)
    with torch.no_grad():
        after, before = model(ids).logits, original(ids).logits
    assert float((after - before).norm() / before.norm()) < 0.02
    after, before = (each.model.layers[0].self_attn.v_proj.weight.detach() for each in (model, original))
    ratio = after / before
    assert float(ratio.std() / ratio.mean()) > 0.02  # the weights themselves are others


def test_statistics_are_those_of_the_float_model():
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Spy(ClippedRtn):
        def quantize(self, weights, statistics):
            seen.append(statistics.matrix())
            return super().quantize(weights, statistics)

    Sweep(tiny_llama(), Spy(ClipSettings(2, 32)), "spy", Silent()).run(random_calibration([20]))
    model, inputs = tiny_llama(), []
    model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0]))
    with torch.no_grad():
        model(torch.tensor(random_calibration([20]).samples))
    expected = statistics_of(inputs[0]).matrix()
    torch.testing.assert_close(seen[-1], expected, rtol=0.02, atol=0.01 * float(expected.abs().max()))


def test_ranges_are_searched_on_the_scaled_input():
    """After the fold the first stage reads what its norm, divided by the scale, now gives."""
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Spy(ClippedRtn):
        def quantize(self, weights, statistics):
            seen.append(statistics.matrix())
            return super().quantize(weights, statistics)

    model, inputs = tiny_llama().float(), []
    sweep = Sweep(model, Spy(ClipSettings(3, 32)), "spy", Silent(), Awq(AwqSettings(3, 32)))
    sweep.run(random_calibration([20]))
    assert "model.layers.0.self_attn.q_proj" in sweep.job.folds
    model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0]))
    with torch.no_grad():
        model(torch.tensor(random_calibration([20]).samples))
    expected = statistics_of(inputs[0]).matrix()
    torch.testing.assert_close(seen[0], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
