"""Properties of uniform grids, for random weights, bits, groups and symmetry."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantgate.core.errors import MethodError
from quantgate.quantize.algorithms.rtn import rtn
from quantgate.quantize.grids import UniformGrid, dequantize, fit, fit_groups, group_bounds, group_index, quantize
from quantgate.quantize.settings import RtnSettings

quick = settings(max_examples=60, deadline=None)
grids = st.builds(UniformGrid, bits=st.integers(2, 8), symmetric=st.booleans())


@st.composite
def matrices(draw, max_rows=40, max_columns=12):
    rows, columns = draw(st.integers(1, max_rows)), draw(st.integers(1, max_columns))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(rows, columns, generator=generator) * 10.0 ** draw(st.integers(-9, 2))
    offset = draw(st.sampled_from([0.0, 3.0, -3.0]))  # groups that lie on one side of zero
    values = values + offset * values.std(unbiased=False)
    zeroed = draw(st.integers(0, columns - 1))
    if draw(st.booleans()):
        values[:, zeroed] = 0.0
    return values


def fitted(values, grid):
    scale, zero = fit(values, 0, grid)
    return scale, zero, quantize(values, scale, zero, grid)


@quick
@given(matrices(), grids)
def test_codes_are_in_range(values, grid):
    _, zero, codes = fitted(values, grid)
    assert codes.dtype == torch.uint8
    assert int(codes.max()) <= grid.top
    assert ((zero >= 0) & (zero <= grid.top) & (zero == zero.round())).all()


@quick
@given(matrices(), grids)
def test_scales_are_what_is_stored(values, grid):
    scale, _, _ = fitted(values, grid)
    assert (scale > 0).all()
    assert torch.equal(scale.to(torch.float16).to(torch.float32), scale)


@quick
@given(matrices(), grids)
def test_error_is_at_most_half_a_step_inside_the_range(values, grid):
    scale, zero, codes = fitted(values, grid)
    inside = (values >= -zero * scale) & (values <= (grid.top - zero) * scale)
    error = (dequantize(codes, scale, zero) - values).abs()
    assert (error <= 0.5 * scale * (1 + 1e-6))[inside].all()
    # beyond the ends of the grid: at most the half step of a symmetric grid's missing top code, or one rounding of zero
    normal = scale >= 2.0**-14  # a subnormal fp16 scale may be far off
    assert (error <= (0.5 + 0.6) * scale)[normal.expand_as(error)].all()


@quick
@given(matrices(), grids)
def test_round_trip_is_idempotent(values, grid):
    scale, zero, codes = fitted(values, grid)
    once = dequantize(codes, scale, zero)
    assert torch.equal(quantize(once, scale, zero, grid), codes)


@quick
@given(matrices(), grids)
def test_zero_is_represented_exactly(values, grid):
    scale, zero, _ = fitted(values, grid)
    nothing = torch.zeros_like(values)
    assert torch.equal(dequantize(quantize(nothing, scale, zero, grid), scale, zero), nothing)


def relative_error(values, bits, group_size, symmetric):
    error = rtn(values.t(), RtnSettings(bits, group_size, symmetric)).dequantize(torch.float32).t() - values
    return float(error.square().mean())


@quick
@given(st.integers(0, 2**31), st.booleans())
def test_error_falls_with_bits_and_with_smaller_groups(seed, symmetric):
    """For a spread of weights; a single group may be lucky on a coarse grid."""
    values = torch.randn(256, 16, generator=torch.Generator().manual_seed(seed))
    by_bits = [relative_error(values, bits, 64, symmetric) for bits in range(2, 9)]
    assert by_bits == sorted(by_bits, reverse=True)
    by_group = [relative_error(values, 4, size, symmetric) for size in (-1, 64, 16)]
    assert by_group == sorted(by_group, reverse=True)


@quick
@given(matrices(max_rows=100), grids, st.integers(1, 50))
def test_groups_are_fitted_on_their_own(values, grid, group_size):
    scales, zeros = fit_groups(values, group_size, grid)
    for number, (start, end) in enumerate(group_bounds(len(values), group_size)):
        scale, zero = fit(values[start:end], 0, grid)
        assert torch.equal(scales[number], scale[0])
        assert torch.equal(zeros[number], zero[0])
    assert torch.equal(group_index(len(values), group_size).unique(), torch.arange(len(scales), dtype=torch.int32))


@quick
@given(matrices(max_rows=100), st.integers(2, 8), st.booleans(), st.sampled_from([-1, 1, 16, 33]))
def test_rtn_stores_what_it_computes(values, bits, symmetric, group_size):
    stored = rtn(values.t(), RtnSettings(bits, group_size, symmetric))
    again = rtn(stored.dequantize(torch.float32), RtnSettings(bits, group_size, symmetric))
    assert stored.dequantize(torch.float32).shape == values.t().shape
    assert stored.scales.dtype == torch.float16
    assert again.codes.shape == stored.codes.shape


def test_hand_counted_column():
    grid = UniformGrid(4, symmetric=True)
    values = torch.tensor([[7.5], [-7.5], [0.0], [0.5], [1.5], [-3.2]])
    scale, zero, codes = fitted(values, grid)
    assert (scale.item(), zero.item()) == (1.0, 8.0)
    assert codes.flatten().tolist() == [15, 0, 8, 8, 10, 5]  # halves to even; the top code stops at +7


def test_hand_counted_asymmetric_column():
    grid = UniformGrid(2, symmetric=False)
    values = torch.tensor([[-1.0], [2.0], [0.4], [0.6]])
    scale, zero, codes = fitted(values, grid)
    assert (scale.item(), zero.item()) == (1.0, 1.0)
    assert codes.flatten().tolist() == [0, 3, 1, 2]


def test_per_tensor_and_per_token_are_the_same_function():
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    grid = UniformGrid(8)
    assert fit(values, (0, 1), grid)[0].shape == (1, 1)
    assert fit(values, -1, grid)[0].shape == (5, 1)


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range(bits):
    with pytest.raises(MethodError, match="expected 2 to 8 bits"):
        UniformGrid(bits)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e7])
def test_values_beyond_fp16_scales(bad):
    with pytest.raises(MethodError, match="finite weights"):
        fit(torch.tensor([[1.0], [bad]]), 0, UniformGrid(4))


def test_group_size_zero():
    with pytest.raises(MethodError, match="group size 0"):
        group_bounds(8, 0)
