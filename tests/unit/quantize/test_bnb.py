import logging

import bitsandbytes as bnb
import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.quantize.algorithms.bnb import Float4, Int8, from_tensors, int8_linear
from quantgate.quantize.algorithms.int8 import has_exact_products, outlier_columns, products, quantize_rows
from quantgate.quantize.settings import Float4Settings, Int8Settings


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def theirs(weight, bias):
    linear = bnb.nn.Linear8bitLt(
        weight.shape[1], weight.shape[0], bias=bias is not None, has_fp16_weights=False, threshold=6.0
    )
    linear.weight = bnb.nn.Int8Params(weight.clone(), requires_grad=False, has_fp16_weights=False)
    if bias is not None:
        linear.bias = torch.nn.Parameter(bias)
    return linear.to("cpu").eval()


theirs_saturate = pytest.mark.skipif(
    not has_exact_products(), reason="bitsandbytes' own int8 products saturate on the instruction set that was chosen"
)


@theirs_saturate
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [1, 3, 700])  # 700 rows of 400: more than one chunk
@pytest.mark.parametrize("outliers", [[], [0], [5, 17, 399]])
@pytest.mark.parametrize("with_bias", [True, False])
def test_int8_forward_has_bitsandbytes_bits(dtype, rows, outliers, with_bias):
    weight, bias = seeded(24, 400, seed=1) * 0.05, seeded(24, seed=2).to(dtype) if with_bias else None
    x = seeded(2, rows, 400)
    x[..., outliers] *= 20
    x = x.to(dtype)
    ours = int8_linear(Int8(Int8Settings()).quantize([weight], None)[0].weight, bias, 6.0)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(weight, bias)(x))


@theirs_saturate
@pytest.mark.parametrize("with_bias", [True, False])
def test_int8_on_another_device_asks_bitsandbytes_the_same(with_bias):
    weight, bias = seeded(24, 400, seed=1) * 0.05, seeded(24, seed=2).bfloat16() if with_bias else None
    x = seeded(2, 3, 400).bfloat16()
    x[..., [5, 17]] *= 20
    ours = int8_linear(Int8(Int8Settings()).quantize([weight], None)[0].weight, bias, 6.0)
    with torch.no_grad():
        assert torch.equal(ours.by_bitsandbytes(x), theirs(weight, bias)(x))


def test_int8_moves_as_a_whole():
    """bitsandbytes' own module leaves codes and scales behind when a model that holds it moves to a GPU."""
    stored = Int8(Int8Settings()).quantize([seeded(24, 400)], None)[0].weight
    model = torch.nn.Sequential(int8_linear(stored, torch.zeros(24), 6.0)).to("meta")
    assert set(model.state_dict()) == {"0.weight", "0.scales", "0.bias"}
    assert {each.device.type for each in model.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("exact", [True, False])
def test_products_are_exact_on_any_processor(monkeypatch, exact):
    """Codes of full range: without VNNI instructions oneDNN's sums of pairs saturate."""
    if not exact:
        monkeypatch.setattr("quantgate.quantize.algorithms.int8.has_exact_products", lambda: False)
    codes, weight = (torch.randint(-127, 128, (size, 512), dtype=torch.int8) for size in (40, 24))
    codes[0], weight[0] = 127, 127
    assert torch.equal(products(codes, weight), codes.int() @ weight.int().t())


def test_threshold_limits():
    """Threshold 0+: everything is an outlier, so activations are exact. Infinite: none is."""
    weight, x = seeded(24, 400, seed=1) * 0.05, seeded(5, 400)
    stored = Int8(Int8Settings()).quantize([weight], None)[0].weight
    exact = x @ stored.dequantize(torch.float32).t()
    with torch.no_grad():
        torch.testing.assert_close(int8_linear(stored, None, 1e-9)(x), exact, rtol=1e-4, atol=1e-4)
        coarse = int8_linear(stored, None, float("inf"))(x)
    assert 1e-3 < (coarse - exact).abs().max() < 0.1


def test_outliers_are_what_makes_the_difference():
    weight, x = seeded(24, 400, seed=1) * 0.05, seeded(50, 400)
    x[:, 7] *= 100
    stored = Int8(Int8Settings()).quantize([weight], None)[0].weight
    exact = x @ weight.t()
    with torch.no_grad():
        split = (int8_linear(stored, None, 6.0)(x) - exact).abs().mean()
        plain = (int8_linear(stored, None, float("inf"))(x) - exact).abs().mean()
    assert split < 0.5 * plain


def test_outlier_columns_are_those_of_the_batch():
    x = torch.zeros(4, 6)
    x[2, 1], x[3, 4], x[0, 5] = 6.0, -7.0, 5.99
    assert outlier_columns(x, 6.0).tolist() == [1, 4]
    codes, maxima = quantize_rows(x.half(), torch.tensor([1, 4]), 6.0)
    assert (codes[:, [1, 4]] == 0).all()
    assert maxima.tolist() == [pytest.approx(5.99, rel=1e-3), 0, 0, 0]


def test_int8_input_is_left_alone():
    x = seeded(3, 400) * 10
    before = x.clone()
    with torch.no_grad():
        int8_linear(Int8(Int8Settings()).quantize([seeded(24, 400)], None)[0].weight, None, 6.0)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("columns", [64, 128, 96, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_four_bit_values_are_level_times_absmax(kind, columns, dtype):
    """Widths that are no multiple of the block size included: bitsandbytes' CPU kernel alone gets those wrong."""
    weight = (seeded(24, columns) * 0.05).to(torch.bfloat16)
    stored = Float4(Float4Settings(kind)).quantize([weight], None)[0].weight
    packed, state = bnb.functional.quantize_4bit(weight, blocksize=64, quant_type=kind)
    assert torch.equal(stored.packed, packed)
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten().long()
    absmax = state.absmax.repeat_interleave(64)[: len(codes)]
    assert torch.equal(stored.dequantize(dtype), (state.code[codes] * absmax).view(24, columns).to(dtype))
    assert (stored.dequantize(torch.float32) - weight).abs().max() < 0.2 * state.absmax.max()


@pytest.mark.parametrize("algorithm", [Int8(Int8Settings()), Float4(Float4Settings("nf4"))])
def test_bad_weights(algorithm):
    weight = seeded(8, 64)
    weight[0, 0] = float("nan")
    with pytest.raises(MethodError, match="not finite"):
        algorithm.quantize([weight], None)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("columns", [64, 96])
def test_double_quantization_is_read_with_both_levels(kind, columns):
    """The absmax of each block is stored in 8 bit itself (QLoRA's usual setting): its own scale and offset count."""
    weight = (seeded(48, columns) * 0.05).to(torch.bfloat16)
    packed, state = bnb.functional.quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=True)
    tensors = {"weight": packed, **{f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}}
    stored = from_tensors(tensors, {"load_in_4bit": True}, "layer")
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten().long()
    nested = state.state2
    absmax = nested.code[state.absmax.long()] * nested.absmax.repeat_interleave(nested.blocksize)[: len(state.absmax)]
    spread = (absmax + state.offset).repeat_interleave(64)[: len(codes)]
    torch.testing.assert_close(
        stored.dequantize(torch.float32), (state.code[codes] * spread).view(48, columns), rtol=1e-6, atol=0
    )
    assert stored.tensors().keys() == tensors.keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_int8_quantizes_in_fp16_and_says_so_when_that_is_too_small(dtype):
    weight, x = seeded(24, 400, seed=1) * 0.05, seeded(5, 400).to(dtype)
    x[2, 7] = 70_000  # an outlier: multiplied in 16 bit, as long as there is a threshold
    stored = Int8(Int8Settings()).quantize([weight], None)[0].weight
    exact = x.float() @ stored.dequantize(torch.float32).t()
    with torch.no_grad():
        split = int8_linear(stored, None, 6.0)(x).float()
        torch.testing.assert_close(split, exact, rtol=2e-2, atol=0.1)
        with pytest.raises(MethodError, match=r"an activation of 7(\.01)?e\+04.*fp16"):
            int8_linear(stored, None, 0.0)(x)


@theirs_saturate
def test_int8_threshold_zero_means_no_outliers():
    weight, x = seeded(24, 400, seed=1) * 0.05, seeded(50, 400)
    x[:, 7] *= 100
    linear = bnb.nn.Linear8bitLt(400, 24, bias=False, has_fp16_weights=False, threshold=0.0)
    linear.weight = bnb.nn.Int8Params(weight.clone(), requires_grad=False, has_fp16_weights=False)
    stored = Int8(Int8Settings()).quantize([weight], None)[0].weight
    with torch.no_grad():
        assert torch.equal(int8_linear(stored, None, 0.0)(x), linear.to("cpu").eval()(x))


def test_int8_weights_beyond_fp16():
    weight = seeded(8, 64)
    weight[0, 0] = 65_600.0
    with pytest.raises(MethodError, match=r"not finite in fp16 .*6\.56e\+04"):
        Int8(Int8Settings()).quantize([weight], None)
