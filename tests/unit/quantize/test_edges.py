"""Numbers at the edges of a grid, of an integer type and of a format."""

from __future__ import annotations

import pytest
import torch

from quantgate.core.errors import MethodError, ModelError
from quantgate.quantize.numerics.columns import _has_digits
from quantgate.quantize.numerics.exact import ExactStatistics
from quantgate.quantize.numerics.floats import simulate_float4
from quantgate.quantize.numerics.learned import rounded_tokens
from quantgate.quantize.numerics.outliers import outliers_of
from quantgate.quantize.numerics.packing import pack_rows
from quantgate.quantize.numerics.uniform import from_tensors, gptq_layout_config
from quantgate.quantize.settings import ActivationSettings


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_learned_grid_holds_zero_wherever_its_values_lie(sign: float) -> None:
    """Values between 5 and 6 on 4 bit: steps of 6/15, not of 1/15."""
    x = sign * torch.linspace(5.03, 6.0, 32).reshape(1, 32)
    found = rounded_tokens(x, ActivationSettings(bits=4, granularity="token", sym=False))
    step = 6.0 / 15
    torch.testing.assert_close(found, (x / step).round() * step)


def test_outliers_lie_in_columns_beyond_16_bits() -> None:
    weight = torch.zeros(1, 40000)
    mask = torch.zeros(1, 40000, dtype=torch.bool)
    weight[0, [7, 39999]], mask[0, [7, 39999]] = 3.0, True
    torch.testing.assert_close(outliers_of(weight, mask, torch.float16).put_into(torch.zeros(1, 40000)), weight)


@pytest.mark.parametrize("code", [-1, 16])
def test_a_code_of_more_bits_is_refused(code: int) -> None:
    with pytest.raises(MethodError, match="codes of 4 bit"):
        pack_rows(torch.tensor([[0], [code]]), 4)


def test_blocks_far_below_the_rows_largest_keep_their_4_bits() -> None:
    """NVFP4: a block's own scale has 3 bits of mantissa, so its largest value is off by a sixteenth at most."""
    factors = torch.tensor([1.0, 1 / 700, 1 / 1100, 1 / 1500, 1 / 2100, 1 / 3300])
    x = factors.repeat_interleave(16).reshape(1, -1)
    off = (simulate_float4(x, "nvfp4") / x - 1).abs()
    assert float(off.max()) <= 1 / 16 + 1e-6


def test_a_healthy_factor_is_believed_in_float32() -> None:
    assert _has_digits(torch.eye(4), torch.eye(4))
    assert not _has_digits(torch.diag(torch.tensor([1.0, 1.0, 1.0, 1e-5])), torch.eye(4))


def test_a_gptq_layout_says_that_its_head_is_whole() -> None:
    config = gptq_layout_config(bits=4, group_size=128, sym=True)
    assert (config["lm_head"], config["desc_act"], config["bits"]) == (False, False, 4)
    assert config["true_sequential"] is True  # AutoGPTQ's default


@pytest.mark.parametrize(
    ("named", "stored"),
    [
        ({}, 6),
        ({"format": "gptq"}, 6),
        ({"checkpoint_format": "gptq"}, 6),
        ({"format": "gptq_v2"}, 7),
        ({"checkpoint_format": "gptq_v2"}, 7),
    ],
)
def test_a_zero_point_is_one_more_than_stored_but_in_version_2(named: dict[str, str], stored: int) -> None:
    """Whichever of its two names tells the version, and where none does; 4 bit, eight to a word."""
    word = sum(stored << 4 * place for place in range(8))
    tensors = {
        "qweight": torch.full((1, 8), sum(9 << 4 * place for place in range(7)), dtype=torch.int32),
        "qzeros": torch.tensor([[word]], dtype=torch.int64).to(torch.int32),
        "scales": torch.full((1, 8), 0.5, dtype=torch.float16),
    }
    found = from_tensors(tensors, {"bits": 4, "group_size": 8, **named}, "layer")
    assert found.dequantize(torch.float32)[:, :7].unique().tolist() == [0.5 * (9 - 7)]


@pytest.mark.parametrize(
    ("groups", "members"), [(2, [5, 3]), (3, [4, 4, 0])], ids=["a group too large", "a group too many"]
)
def test_groups_that_contradict_their_size_are_refused(groups: int, members: list[int]) -> None:
    tensors = {
        "qweight": torch.zeros(1, 8, dtype=torch.int32),
        "qzeros": torch.zeros(groups, 1, dtype=torch.int32),
        "scales": torch.ones(groups, 8, dtype=torch.float16),
        "g_idx": torch.repeat_interleave(torch.arange(groups), torch.tensor(members)).to(torch.int32),
    }
    with pytest.raises(ModelError, match=f"{groups} groups of up to .* expected groups of 4"):
        from_tensors(tensors, {"bits": 4, "group_size": 4}, "layer")


def test_a_block_far_below_its_row_has_the_smallest_scale_there_is() -> None:
    """NVFP4 beside a 3: the row's scale is 1/512, E4M3 ends at 2^-9, so 0.5, 1, 1.5 and 2 of 2^-18 are held."""
    small = torch.tensor([0.5, 1.0, 1.5, -2.0] * 4) * 2.0**-18
    x = torch.cat([torch.full((16,), 3.0), torch.zeros(16), small, small / 4])[None]
    wanted = torch.cat([x[0, :48], torch.tensor([0.0, 0.0, 0.5, -0.5] * 4) * 2.0**-18])  # ties go to the even code
    torch.testing.assert_close(simulate_float4(x, "nvfp4")[0], wanted, rtol=0, atol=0)


def test_what_shards_keep_is_the_sum_of_what_they_read() -> None:
    rows = (torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2**12).round() / 2**12
    kept = ExactStatistics(6)
    kept.add(rows.float())
    found = kept.rounded()
    for mine, wanted in (
        (found.total, rows.t() @ rows),
        (found.magnitude_sum, rows.abs().sum(0)),
        (found.low, rows.amin(0)),
        (found.high, rows.amax(0)),
    ):
        assert torch.equal(mine, wanted.float())
