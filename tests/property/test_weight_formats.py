"""Properties of the weight-only formats, for random weights, shapes and settings."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantgate.quantize.algorithms.easyquant import easyquant
from quantgate.quantize.algorithms.floats import (
    E2M1,
    e2m1_values,
    quantize_float4,
    quantize_float8,
    round_e2m1,
    round_float8,
)
from quantgate.quantize.algorithms.quip import quip
from quantgate.quantize.algorithms.slim import slim
from quantgate.quantize.algorithms.spqr import compress, spqr
from quantgate.quantize.numerics.columns import Processing
from quantgate.quantize.numerics.outliers import outliers_of, read_outliers
from quantgate.quantize.numerics.packing import pack_stream, unpack_stream
from quantgate.quantize.numerics.rotations import Rotation
from quantgate.quantize.settings import EasyQuantSettings, QuipSettings, SlimSettings, SpqrSettings

quick = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**31)


def normal(rows, columns, seed):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@st.composite
def layers(draw, multiple=1):
    """A weight ``[out, in]`` at an awkward shape, some of its entries far out."""
    rows, columns = draw(st.integers(1, 24)), draw(st.integers(1, 40)) * multiple
    seed = draw(seeds)
    weight = normal(rows, columns, seed) * 10.0 ** draw(st.integers(-3, 1))
    if draw(st.booleans()):
        weight = weight * torch.where(normal(rows, columns, seed + 1) > 2, 20.0, 1.0)
    return weight


def processing(columns, seed, desc_act=False):
    x = normal(2 * columns + 3, columns, seed)
    return Processing(x.t() @ x / len(x), damp_percent=0.01, desc_act=desc_act, who="test"), x


@quick
@given(layers(), st.sampled_from([2, 3, 4, 8]), st.sampled_from([-1, 16, 7]), seeds, st.sampled_from([None, 0.05, 0.5]))
def test_spqr_codes_are_in_range_and_outliers_are_kept(weight, bits, group_size, seed, threshold):
    run, _ = processing(weight.shape[1], seed, desc_act=True)
    stored, losses = spqr(weight, run, SpqrSettings(bits, group_size, threshold))
    assert int(stored.codes.max()) < 2**bits
    assert int(stored.scales.codes.max()) < 8
    assert int(stored.zeros.codes.max()) < 8
    assert torch.isfinite(stored.dequantize(torch.float32)).all()
    assert torch.isfinite(losses).all()
    values = stored.dequantize(torch.float32)[stored.outliers.rows.diff().bool()]
    assert torch.isin(stored.outliers.values.float(), values).all()


@quick
@given(seeds, st.integers(0, 63), st.integers(0, 31), st.sampled_from([2, 3, 4]), st.floats(0.01, 0.3))
def test_spqr_finds_a_planted_weight(seed, row, column, bits, threshold):
    """Thirty standard deviations out, anywhere: kept in 16 bit, exactly."""
    planted = normal(64, 32, seed)
    planted[row, column] = 30.0
    run = Processing(torch.eye(32), damp_percent=0.01, desc_act=False, who="test")
    stored, _ = spqr(planted, run, SpqrSettings(bits, 16, threshold))
    start, end = stored.outliers.rows[row : row + 2].tolist()
    assert column in stored.outliers.columns[start:end].tolist()
    assert stored.dequantize(torch.float32)[row, column] == 30.0


@quick
@example(torch.tensor([[-1e-4, 1.03e-4]]), 8, 2)
@given(layers(), st.integers(2, 8), st.integers(1, 20))
def test_second_level_statistics_are_within_half_a_step(weight, bits, width):
    statistic = compress(weight, bits, width)
    out = weight.shape[1]
    steps = statistic.steps.float().repeat_interleave(width, 1)[:, :out]
    # low and step are fp16; a step below its normal numbers is off by up to 2^-25, and a code takes it many times
    rounding = 2.0**-9 * weight.abs().amax() + 2.0**-25 * (2**bits - 1)
    assert ((statistic.values() - weight).abs() <= 0.5 * steps + rounding + 1e-6).all()


@quick
@given(layers(), st.sampled_from([2, 3, 4]), st.sampled_from([4, 8, 16]), seeds)
def test_slim_mean_bits_are_exactly_n(weight, bits, group_size, seed):
    run, x = processing(weight.shape[1], seed)
    stored, _ = slim(weight, run, x[:32], SlimSettings(bits, group_size, steps=2))
    sizes = [min(group_size, weight.shape[1] - start) for start in range(0, weight.shape[1], group_size)]
    assert sum(size * each for size, each in zip(sizes, stored.bits, strict=True)) == bits * weight.shape[1]
    for group, each in enumerate(stored.bits):
        assert int(stored.codes[group * group_size : (group + 1) * group_size].max()) < 2**each


@quick
@given(layers(), st.sampled_from([2, 3, 4, 8]), st.sampled_from([-1, 16]))
def test_easyquant_error_is_half_a_step_inside_its_range(weight, bits, group_size):
    stored = easyquant(weight.bfloat16(), EasyQuantSettings(bits, group_size))
    assert int(stored.codes.max()) < 2**bits
    values, original = stored.dequantize(torch.float32), weight.bfloat16().float()
    size = weight.shape[1] if group_size == -1 else group_size
    scales = stored.scales.float().repeat_interleave(size, 0)[: weight.shape[1]].t()
    low, high = -(2 ** (bits - 1)) + 1, 2 ** (bits - 1)
    inside = (original >= low * scales) & (original <= high * scales)
    assert ((values - original).abs() <= 0.5 * scales * (1 + 1e-5))[inside].all()


@quick
@given(layers(), st.sampled_from([2, 3, 4, 8]), seeds)
def test_quip_codes_are_in_range_and_before_rounding_nothing_changes(weight, bits, seed):
    rows, columns = weight.shape
    x = normal(2 * columns + 3, columns, seed)
    stored, _ = quip(weight, x.t() @ x / len(x), QuipSettings(bits, seed=seed))
    assert int(stored.codes.max()) < 2**bits
    assert torch.isfinite(stored.dequantize(torch.float32)).all()
    inner, outer = Rotation(columns, seed), Rotation(rows, seed + 1)
    there = outer.apply(inner.apply(weight).t()).t()
    back = inner.invert(outer.invert(there.t()).t())
    torch.testing.assert_close(back, weight, atol=float(weight.abs().max()) * 1e-5, rtol=1e-4)
    assert float(there.norm()) == pytest.approx(float(weight.norm()), rel=1e-4)


@quick
@given(layers(), seeds, st.floats(0, 1))
def test_outliers_there_and_back(weight, seed, share):
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < share
    outliers = outliers_of(weight, mask, torch.bfloat16)
    again = read_outliers(outliers.tensors(), tuple(weight.shape), "test")
    assert torch.equal(again.put_into(torch.zeros_like(weight)), torch.where(mask, weight.bfloat16().float(), 0.0))
    if outliers.count:
        bits = 8 * sum(tensor.nbytes for tensor in outliers.tensors().values())
        assert bits == 32 * outliers.count + 32 * (len(weight) + 1)


@quick
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 8), seeds)
def test_streams_there_and_back(shape, bits, seed):
    codes = torch.randint(0, 2**bits, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(unpack_stream(pack_stream(codes, bits), bits, shape), codes)


@quick
@given(layers(), st.sampled_from(["e4m3", "e5m2"]))
def test_float8_round_trip_is_idempotent(weight, kind):
    stored = quantize_float8(weight, kind)
    scales = stored.scales.float()
    assert torch.equal(round_float8(stored.dequantize(torch.float32) / scales, kind).float(), stored.values.float())
    assert stored.values.float().isfinite().all()


@quick
@given(layers(multiple=32), st.sampled_from(["nvfp4", "mxfp4"]))
def test_float4_round_trip_is_idempotent_and_errors_are_bounded(weight, kind):
    stored = quantize_float4(weight, kind)
    units = stored.block_scales().repeat_interleave(weight.shape[1] // stored.scales.shape[1], 1)
    values = stored.dequantize(torch.float32)
    assert torch.equal(e2m1_values(round_e2m1(values / units)), e2m1_values(stored.codes))
    assert set(e2m1_values(stored.codes).abs().unique().tolist()) <= set(E2M1)
    inside = weight.abs() <= 6 * units
    assert ((values - weight).abs() <= 1.0001 * units)[inside].all()  # half of the widest gap, 4 to 6
    if kind == "mxfp4":
        assert (weight.abs() <= 8 * units).all()


@settings(max_examples=8, deadline=None)  # eighteen quantizations an example
@given(seeds)
def test_error_falls_with_bits_and_with_smaller_groups(seed):
    """For a spread of weights; a single group may be lucky on a coarse grid."""
    weight = normal(16, 128, seed)
    eye = Processing(torch.eye(128), damp_percent=0.01, desc_act=False, who="test")

    def error(stored):
        return float((stored.dequantize(torch.float32) - weight).square().sum())

    for errors in (
        [error(easyquant(weight, EasyQuantSettings(bits))) for bits in (2, 3, 4, 5, 8)],
        [error(easyquant(weight, EasyQuantSettings(3, size))) for size in (-1, 32, 8)],
        [error(spqr(weight, eye, SpqrSettings(bits, relative_threshold=None))[0]) for bits in (2, 3, 4, 8)],
        [error(quip(weight, torch.eye(128), QuipSettings(bits))[0]) for bits in (2, 3, 4)],
    ):
        assert errors == sorted(errors, reverse=True)
