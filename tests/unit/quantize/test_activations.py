import dataclasses

import pytest
import torch
from torch import nn

from quantgate.checkpoints.checkpoint import load_quantized, stored_tensors
from quantgate.core.errors import MethodError, ModelError
from quantgate.core.progress import Silent
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.numerics.statistics import InputStatistics
from quantgate.quantize.settings import ActivationSettings, CacheSettings
from quantgate.quantize.transforms.activations import ActivationLinear, install, install_cache, static_grid
from quantgate.subjects.make import quantize_checkpoint
from quantgate.subjects.subject import unchanged_modules
from tests.unit.conftest import random_calibration, tiny_llama

FEATURES = 40


def wrapped(settings, static=None, bias=True):
    torch.manual_seed(0)
    linear = nn.Linear(FEATURES, 8, bias=bias)
    return linear, ActivationLinear(linear, settings, static or {})


def rows(n=30):
    x = torch.randn(n, FEATURES, generator=torch.Generator().manual_seed(1))
    x[3] *= 50  # a token that is much louder than the others
    return x


def nearest(x, low, high, settings):
    """``x`` on a uniform grid from ``low`` to ``high``, by definition (in float32, so that ties are the same ties)."""
    levels = 2**settings.bits - 1
    low, high = low.clamp(max=0), high.clamp(min=0)
    if settings.sym:
        high = torch.maximum(high, -low)
        scale, zero = 2 * high / levels, 2.0 ** (settings.bits - 1)
    else:
        scale = (high - low) / levels
        zero = (-low / scale).round()
    codes = ((x / scale).round() + zero).clamp(0, levels)
    return scale.double() * (codes - zero).double()


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("granularity", ["tensor", "token", "group"])
def test_dynamic_inputs_against_the_definition(granularity, bits, sym):
    settings = ActivationSettings(bits, granularity, sym=sym, group_size=16)
    linear, layer = wrapped(settings)
    x = rows()
    if granularity == "tensor":
        rounded = nearest(x, x.min(), x.max(), settings)
    else:
        parts = x.split(16, dim=1) if granularity == "group" else [x]
        rounded = torch.cat([nearest(p, p.amin(1, True), p.amax(1, True), settings) for p in parts], 1)
    expected = rounded @ linear.weight.double().t() + linear.bias.double()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-4)
    assert layer(x.view(3, 10, FEATURES)).shape == (3, 10, 8)


@pytest.mark.parametrize("granularity", ["tensor", "group"])
def test_static_ranges_come_from_calibration_only(granularity):
    settings = ActivationSettings(8, granularity, dynamic=False, sym=False, group_size=16)
    calibration, x = rows().clamp(-2, 1.5), 3 * rows()
    statistics = InputStatistics(FEATURES, x.device, settings.needs)
    statistics.add(calibration)
    linear, layer = wrapped(settings, static_grid(statistics, settings))
    parts = (
        list(zip(calibration.split(16, 1), x.split(16, 1), strict=True))
        if granularity == "group"
        else [(calibration, x)]
    )
    rounded = torch.cat([nearest(part, seen.min(), seen.max(), settings) for seen, part in parts], 1)
    assert float(rounded.abs().max()) < 2.1
    expected = rounded @ linear.weight.double().t() + linear.bias.double()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_loud_token_costs_the_others_nothing_with_scales_by_token():
    errors, quiet = {}, torch.arange(30) != 3
    for granularity in ("tensor", "token"):
        linear, layer = wrapped(ActivationSettings(8, granularity))
        errors[granularity] = (layer(rows()) - linear(rows()))[quiet].norm().item()
    assert errors["token"] < 0.1 * errors["tensor"]


def test_integers_are_exact_in_bf16():
    """Codes and weights that are integers: the product in bf16 equals the one in float64 until its own rounding."""
    linear, _ = wrapped(ActivationSettings(), bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.randint(-3, 4, linear.weight.shape))
    layer = ActivationLinear(linear.to(torch.bfloat16), ActivationSettings(8, "token", sym=False), {})
    x = torch.randint(0, 256, (5, FEATURES)).to(torch.bfloat16)
    x[:, 0], x[:, 1] = 0, 255  # so that the scale is 1
    expected = (x.double() @ linear.weight.double().t()).to(torch.bfloat16)
    assert torch.equal(layer(x), expected)


def test_inputs_are_not_changed_in_place():
    for granularity in ("tensor", "token", "group"):
        _, layer = wrapped(ActivationSettings(4, granularity))
        x = rows()
        before, weight = x.clone(), layer.weight.clone()
        layer(x)
        assert torch.equal(x, before)
        assert torch.equal(layer.weight, weight)


def test_zeros_and_nan():
    _, layer = wrapped(ActivationSettings(), bias=False)
    assert not layer(torch.zeros(2, FEATURES)).any()
    x = torch.zeros(2, FEATURES)
    x[0, 0] = torch.nan
    assert layer(x)[0].isnan().all()
    assert not layer(x)[1].isnan().any()


def test_static_scales_by_token_are_refused():
    with pytest.raises(MethodError, match="static scales by token"):
        ActivationSettings(8, "token", dynamic=False)
    with pytest.raises(MethodError, match="9 bits"):
        ActivationSettings(9)


def test_unreadable_checkpoints_are_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ModelError, match="unreadable activation settings"):
        install(model, "0", {"bit": 8}, {})
    with pytest.raises(ModelError, match="no input_scale"):
        install(model, "0", dataclasses.asdict(ActivationSettings(8, "tensor", dynamic=False)), {})


@pytest.mark.parametrize(
    "name", ["rtn-token-a8-w8", "smoothquant8", "smoothquant-static-w8", "smoothquant-gptq-w8", "zeroquant8"]
)
def test_eight_bit_checkpoints_compute_nearly_what_the_original_does(name, model_dir, tmp_path):
    calibration = random_calibration([12, 30, 40])
    record = quantize_checkpoint(model_dir, METHODS[name], calibration, tmp_path, progress=Silent())
    assert record.execution == "simulated"
    assert record.activation_bits == 8
    assert unchanged_modules(model_dir, tmp_path, record) == []
    model, original = load_quantized(tmp_path, torch.float32), tiny_llama().float()
    assert sum(isinstance(module, ActivationLinear) for module in model.modules()) == 14
    ids = torch.tensor(random_calibration([30], seed=0).samples)
    with torch.no_grad():
        difference = (model(ids).logits - original(ids).logits).norm() / original(ids).logits.norm()
    assert 0 < float(difference) < 0.05


def test_static_grids_are_stored_in_float32(model_dir, tmp_path, calibration):
    quantize_checkpoint(model_dir, METHODS["rtn-static-a8-w8"], calibration, tmp_path, progress=Silent())
    stored = dict(stored_tensors(tmp_path))
    model = tiny_llama()
    inputs = []
    model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(
        lambda _, args: inputs.append(args[0].flatten(0, 1))
    )
    with torch.no_grad():
        for sample in calibration.samples:
            model(torch.tensor([sample]))
    scale = stored["model.layers.0.self_attn.q_proj.input_scale"]
    assert scale.dtype == torch.float32
    assert float(scale) == pytest.approx(2 * float(torch.cat(inputs).abs().max()) / 255, rel=1e-6)


def test_a_quantized_cache(model_dir, tmp_path):
    errors, ids = [], torch.tensor(random_calibration([30]).samples)
    with torch.no_grad():
        original = tiny_llama().float()(ids).logits
    for bits in (8, 4, 2):
        directory = tmp_path / str(bits)
        record = quantize_checkpoint(model_dir, METHODS[f"kv{bits}"], None, directory, progress=Silent())
        assert (record.cache_bits, record.execution, record.quantized_modules) == (bits, "simulated", ())
        assert unchanged_modules(model_dir, directory, record) == []
        with torch.no_grad():
            errors.append(float((load_quantized(directory, torch.float32)(ids).logits - original).norm()))
    assert 0 < 10 * errors[0] < 2 * errors[1] < errors[2]


def test_a_cache_that_is_not_quantized_is_found(model_dir, tmp_path):
    record = quantize_checkpoint(model_dir, METHODS["kv8"], None, tmp_path, progress=Silent())
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"kv_cache"', '"other"'))
    assert unchanged_modules(model_dir, tmp_path, record) == ["key/value cache"]


def test_bits_of_a_cache_element():
    assert CacheSettings(8, 64).bits_effective == 8 + 24 / 64
    assert CacheSettings(4, 64).bits_effective == 4 + 20 / 64


def test_cache_without_keys_and_values():
    with pytest.raises(MethodError, match="no layers k_proj and v_proj"):
        install_cache(nn.Sequential(nn.Linear(2, 2)), {}, "kv8")


def test_codes_do_not_overflow_in_fp16():
    """A thousand codes of 127 times weights of 1 are 127,000, more than fp16 holds; the result itself is small."""
    linear = nn.Linear(1000, 2, bias=False)
    nn.init.ones_(linear.weight)
    layer = ActivationLinear(linear.half(), ActivationSettings(), {})
    with torch.no_grad():
        assert layer(torch.full((1, 1000), 0.5, dtype=torch.float16)).tolist() == [[pytest.approx(500, rel=0.01)] * 2]
