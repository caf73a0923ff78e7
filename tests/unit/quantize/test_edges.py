"""Numbers at the edges of a grid, of an integer type and of a format."""

from __future__ import annotations

import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.quantize.numerics.columns import _has_digits
from quantgate.quantize.numerics.floats import simulate_float4
from quantgate.quantize.numerics.learned import rounded_tokens
from quantgate.quantize.numerics.outliers import outliers_of
from quantgate.quantize.numerics.packing import pack_rows
from quantgate.quantize.numerics.uniform import gptq_layout_config
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
