"""Codes to weights, a few columns at a time, against the formula on whole matrices in float64."""

import os

import pytest
import torch

from quantgate.core.memory import large_pages
from quantgate.quantize.grids import UniformGrid
from quantgate.quantize.numerics import packing, uniform

OUT = 24


@pytest.mark.parametrize("pieces", [1, 7 * 96, 1 << 18])
@pytest.mark.parametrize(
    ("features", "groups"),
    [
        (96, torch.arange(96) // 32),
        (90, torch.arange(90) // 32),  # the last group is cut short
        (96, torch.arange(96).flip(0) // 32),
        (96, torch.arange(96) % 3),  # groups of equal size, not one behind the other
        (96, torch.zeros(96)),
    ],
)
def test_columns_in_pieces_are_the_formula(monkeypatch, pieces, features, groups) -> None:
    """Whatever the order of the groups, and wherever a piece ends."""
    monkeypatch.setattr(uniform, "_AT_A_TIME", pieces)
    generator = torch.Generator().manual_seed(1)
    count = int(groups.max()) + 1
    codes = torch.randint(0, 16, (features, OUT), dtype=torch.uint8, generator=generator)
    zeros = torch.randint(0, 16, (count, OUT), dtype=torch.uint8, generator=generator)
    scales = torch.rand(count, OUT, generator=generator).to(torch.float16)
    weight = uniform.UniformWeight(codes, scales, zeros, groups.to(torch.int32), UniformGrid(4, False))
    index = groups.long()
    wanted = scales.double()[index] * (codes.double() - zeros.double()[index])
    assert torch.equal(weight.dequantize(torch.float32), wanted.float().t())
    assert torch.equal(weight.dequantize(torch.bfloat16), wanted.float().t().to(torch.bfloat16))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("pieces", [1, 2 * OUT, 1 << 15])
def test_words_in_pieces_are_the_stream(monkeypatch, bits, pieces) -> None:
    """As Python's integers cut it."""
    monkeypatch.setattr(packing, "_AT_A_TIME", pieces)
    codes = torch.randint(0, 2**bits, (100, OUT), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    packed = packing.pack_rows(codes, bits)
    stream = sum((int(word) & 0xFFFFFFFF) << 32 * place for place, word in enumerate(packed[:, 5]))
    assert [stream >> bits * place & (2**bits - 1) for place in range(100)] == codes[:, 5].tolist()
    assert torch.equal(packing.unpack_rows(packed, bits, 100), codes)


def test_what_the_user_set_about_pages_stands(monkeypatch) -> None:
    """And is set where he said nothing."""
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    large_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    large_pages()
    assert os.environ.pop("THP_MEM_ALLOC_ENABLE") == "1"
