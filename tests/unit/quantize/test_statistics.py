import pytest
import torch

from quantgate.quantize.numerics.hessian import Hessian
from quantgate.quantize.numerics.statistics import InputStatistics

ALL = ("hessian", "magnitude", "range")


def filled(rows, needs=ALL):
    statistics = InputStatistics(rows.shape[1], rows.device, needs)
    statistics.add(rows)
    return statistics


@pytest.fixture
def rows():
    return torch.randn(5000, 12, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 13)


def test_against_float64(rows):
    found, exact = filled(rows), rows.double()
    torch.testing.assert_close(found.matrix().double(), 2 / 5000 * exact.T @ exact, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found.mean_magnitude.double(), exact.abs().mean(0), rtol=1e-6, atol=0)
    assert torch.equal(found.max_magnitude, rows.abs().amax(0))
    assert torch.equal(found.low, rows.amin(0))


@pytest.mark.parametrize("cuts", [(1,), (17, 4100), (2500,)])
def test_merged_shards_equal_the_whole(rows, cuts):
    whole = filled(rows)
    shards = [filled(part) for part in torch.tensor_split(rows, cuts)]
    merged = shards[-1]
    for shard in shards[:-1]:
        merged.merge(shard)
    assert merged.count == whole.count
    torch.testing.assert_close(merged.matrix(), whole.matrix(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(merged.mean_magnitude, whole.mean_magnitude, rtol=1e-5, atol=0)
    assert torch.equal(merged.low, whole.low)
    assert torch.equal(merged.high, whole.high)


def test_shards_that_keep_less_are_refused(rows):
    with pytest.raises(ValueError, match="different statistics"):
        filled(rows).merge(filled(rows, ("range",)))
    with pytest.raises(ValueError, match="different statistics"):
        filled(rows).merge(Hessian(12, rows.device))


def test_divided_is_what_the_divided_input_gives(rows):
    scale = torch.rand(12) + 0.5
    found, expected = filled(rows).divided(scale), filled(rows / scale)
    assert found.count == expected.count
    for name in ("mean_magnitude", "max_magnitude", "low"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.matrix(), expected.matrix(), rtol=1e-4, atol=1e-3)


def test_only_what_is_needed_is_kept(rows):
    found = filled(rows, ("range",))
    assert found.total.numel() == 0
    assert not found.magnitude_sum.any()
    assert found.count == 5000


def test_what_is_derived_is_made_once_until_more_is_added(rows):
    statistics = filled(rows[:10])
    first = statistics.derived("matrix", statistics.matrix)
    assert statistics.derived("matrix", statistics.matrix) is first
    statistics.add(rows[10:])
    torch.testing.assert_close(statistics.derived("matrix", statistics.matrix), filled(rows).matrix())
    statistics.merge(filled(rows))
    assert not torch.equal(statistics.derived("matrix", lambda: torch.zeros(1)), first)
    assert statistics.derived("matrix", statistics.matrix).numel() == 1
