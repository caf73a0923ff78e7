import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM

from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.core.errors import MethodError, ModelError
from quantgate.core.progress import Silent
from quantgate.quantize.algorithms.floats import (
    E2M1,
    FloatFormats,
    e2m1_values,
    from_compressed,
    quantize_float4,
    quantize_float8,
    round_e2m1,
    round_float8,
)
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.settings import FloatSettings
from quantgate.subjects.make import quantize_checkpoint


def enumerated(exponent_bits, mantissa_bits, bias, special):
    """All finite values of a small float format, from its definition; ``special``: codes of inf and NaN."""
    values = []
    for exponent, mantissa in itertools.product(range(2**exponent_bits), range(2**mantissa_bits)):
        if special(exponent, mantissa):
            continue
        fraction = mantissa / 2**mantissa_bits
        values.append(fraction * 2.0 ** (1 - bias) if exponent == 0 else (1 + fraction) * 2.0 ** (exponent - bias))
    return torch.tensor(sorted({*values, *(-value for value in values)}), dtype=torch.float64)


GRIDS = {
    "e4m3": enumerated(4, 3, 7, lambda e, m: e == 15 and m == 7),
    "e5m2": enumerated(5, 2, 15, lambda e, m: e == 31),
    "e2m1": enumerated(2, 1, 1, lambda e, m: False),
}


def test_the_grids_are_the_known_ones():
    assert (GRIDS["e4m3"].max(), GRIDS["e5m2"].max(), GRIDS["e2m1"].max()) == (448, 57344, 6)
    assert GRIDS["e2m1"][GRIDS["e2m1"] >= 0].tolist() == list(E2M1)
    for kind, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        codes = torch.arange(256, dtype=torch.uint8).view(dtype).to(torch.float64)
        assert torch.equal(codes[codes.isfinite()].unique(), GRIDS[kind])


def around(grid):
    """The grid, all midpoints, points just beside them, and points beyond both ends."""
    middles = (grid[1:] + grid[:-1]) / 2
    near = [middles * (1 + epsilon) for epsilon in (-(2.0**-20), 2.0**-20)]
    return torch.cat([grid, middles, *near, grid[[0, -1]] * 1.5]).float()


def rounded(kind, values):
    return e2m1_values(round_e2m1(values)) if kind == "e2m1" else round_float8(values, kind).to(torch.float32)


@pytest.mark.parametrize("kind", GRIDS)
def test_rounding_is_to_the_nearest_with_ties_to_even(kind):
    grid = GRIDS[kind]
    values = around(grid)
    found = rounded(kind, values).double()
    distance = (values.double()[:, None] - grid).abs()
    nearest = distance.amin(1)
    assert torch.equal((values.double() - found).abs(), nearest)
    tied = ((distance == nearest[:, None]).sum(1) == 2).nonzero().flatten()
    assert len(tied) >= len(grid) - 1
    place = torch.searchsorted(grid[grid >= 0].contiguous(), found[tied].abs())
    assert (place % 2 == 0).all()  # an even place among the non-negative values is an even code


@pytest.mark.parametrize("kind", GRIDS)
def test_grid_points_and_powers_of_two_are_exact(kind):
    assert torch.equal(rounded(kind, GRIDS[kind].float()).double(), GRIDS[kind])


def test_zero_has_no_sign():
    assert round_e2m1(torch.tensor([-0.0, -0.25, 0.0])).tolist() == [0, 0, 0]


def weights(rows=6, columns=64):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.05


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_float8_scales_bring_every_row_to_the_top(kind):
    stored = quantize_float8(weights(), kind)
    top = GRIDS[kind].max()
    assert torch.equal(stored.values.double().abs().amax(1), top.expand(6))
    half_step = {"e4m3": 2.0**-4, "e5m2": 2.0**-3}[kind]
    relative = ((stored.dequantize(torch.float32) - weights()) / weights()).abs()
    assert relative[weights().abs() > 1e-4].max() <= half_step * (
        1 + 1e-2
    )  # and the largest may be cut by the rounding of the scale


def test_mxfp4_by_hand():
    block = torch.zeros(1, 32)
    block[0, :5] = torch.tensor([7.9, 1.0, -0.3, 5.0, 2.6])  # floor(log2 7.9) = 2: unit 1, 7.9 saturates at 6
    stored = quantize_float4(block, "mxfp4")
    assert stored.scales.tolist() == [[127]]
    assert stored.dequantize(torch.float32)[0, :5].tolist() == [6.0, 1.0, -0.5, 4.0, 3.0]
    assert quantize_float4(block / 4, "mxfp4").scales.tolist() == [[125]]


@pytest.mark.parametrize("kind", ["nvfp4", "mxfp4"])
def test_two_codes_a_byte_and_back(kind):
    algorithm = FloatFormats(FloatSettings(kind))
    stored = algorithm.quantize([weights()], None)[0].weight
    tensors = stored.tensors()
    first = tensors["weight_packed"][2, 5]
    assert int(first) == int(stored.codes[2, 10]) + 16 * int(stored.codes[2, 11])
    assert torch.equal(from_compressed(tensors, algorithm.checkpoint_config(), "layer").codes, stored.codes)


def test_nvfp4_block_scales():
    weight = weights()
    weight[0, :16] *= 100
    stored = quantize_float4(weight, "nvfp4")
    assert stored.scales.dtype == torch.float8_e4m3fn
    assert 224 <= float(stored.scales.float().max()) <= 448
    exact = 448 * 6 / float(weight.abs().max())
    assert exact / 2 < float(stored.divisor) <= exact
    assert float(stored.divisor.log2()) % 1 == 0
    largest = weight.view(6, 4, 16).abs().amax(2)
    torch.testing.assert_close(stored.block_scales(), largest / 6, rtol=0.07, atol=1e-4)
    error = (stored.dequantize(torch.float32) - weight).view(6, 4, 16).abs().amax(2)
    assert (error <= 1.1 * stored.block_scales()).all()  # half of the widest gap of E2M1 is 1


@pytest.mark.parametrize("kind", ["nvfp4", "mxfp4"])
def test_zeros_stay_zero(kind):
    assert torch.equal(quantize_float4(torch.zeros(2, 64), kind).dequantize(torch.float32), torch.zeros(2, 64))


@pytest.mark.parametrize("kind", ["nvfp4", "mxfp4"])
def test_a_rest_that_fills_no_block_is_refused(kind):
    with pytest.raises(MethodError, match="40 input features; expected a multiple of"):
        quantize_float4(torch.ones(2, 40), kind)


def test_not_finite():
    with pytest.raises(MethodError, match="not finite"):
        quantize_float8(torch.full((2, 4), torch.inf), "e4m3")


@pytest.mark.parametrize("name", ["float8-e4m3", "nvfloat4", "mxfloat4"])
def test_transformers_reads_the_compressed_tensors_layout(name, model_dir, tmp_path):
    quantize_checkpoint(model_dir, METHODS[name], None, tmp_path, progress=Silent())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    ours = load_quantized(tmp_path, torch.bfloat16)
    ids = torch.tensor([[5, 9, 2, 33]])
    torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, rtol=0.02, atol=0.02)
    layer = "model.layers.1.mlp.down_proj"
    theirs_weight, ours_weight = (model.get_submodule(layer).weight.float() for model in (theirs, ours))
    rounding = 2.0**-7 if name == "nvfloat4" else 0.0  # they divide the block scale in bf16
    torch.testing.assert_close(theirs_weight, ours_weight, rtol=rounding, atol=0)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("e4m3", lambda t: t.pop("weight_scale"), "no weight_scale"),
        ("e4m3", lambda t: t.update(weight_scale=t["weight_scale"][:3]), "E4M3, one a row"),
        ("nvfp4", lambda t: t.pop("weight_global_scale"), "no weight_global_scale"),
        ("mxfp4", lambda t: t.update(weight_scale=t["weight_scale"][:, :1]), "1 block scales for 64"),
    ],
)
def test_damage_is_named(kind, change, message):
    algorithm = FloatFormats(FloatSettings(kind))
    tensors = algorithm.quantize([weights()], None)[0].weight.tensors()
    change(tensors)
    with pytest.raises(ModelError, match=f"layer: .*{message}"):
        from_compressed(tensors, algorithm.checkpoint_config(), "layer")


def test_other_formats_of_the_library_are_refused():
    with pytest.raises(ModelError, match="format 'marlin-24'"):
        from_compressed({}, {"format": "marlin-24"}, "layer")
