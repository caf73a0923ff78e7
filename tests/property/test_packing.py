"""Packing and its inverse, for every bit width and awkward shapes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantgate.core.errors import MethodError, ModelError
from quantgate.quantize.numerics.packing import (
    checkpoint_format,
    pack_rows,
    pack_zeros,
    packed_rows,
    unpack_rows,
    unpack_zeros,
)

quick = settings(max_examples=80, deadline=None)
shapes = st.tuples(st.integers(1, 140), st.integers(1, 70))


def random_codes(shape, bits, seed, low=0):
    return torch.randint(low, 2**bits, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def bit_stream(codes, bits):
    """The definition, bit by bit, in numpy: value k of a column is at bits k*bits.., low bits first, 32-bit words."""
    rows, columns = codes.shape
    bits_of = (codes.numpy()[:, None, :] >> np.arange(bits)[None, :, None]) & 1
    stream = bits_of.reshape(rows * bits, columns)
    padded = np.zeros((packed_rows(rows, bits) * 32, columns), dtype=np.uint64)
    padded[: len(stream)] = stream
    words = (padded.reshape(-1, 32, columns) << np.arange(32, dtype=np.uint64)[None, :, None]).sum(1)
    return torch.from_numpy(words.astype(np.uint32).view(np.int32))


@quick
@given(shapes, st.integers(2, 8), st.integers(0, 2**31))
def test_unpack_inverts_pack(shape, bits, seed):
    codes = random_codes(shape, bits, seed)
    packed = pack_rows(codes, bits)
    assert packed.dtype == torch.int32
    assert torch.equal(unpack_rows(packed, bits, shape[0]), codes)


@quick
@given(shapes, st.integers(2, 8), st.integers(0, 2**31))
def test_layout_is_the_bit_stream(shape, bits, seed):
    codes = random_codes(shape, bits, seed)
    assert torch.equal(pack_rows(codes, bits), bit_stream(codes, bits))


@quick
@given(shapes, st.sampled_from([2, 3, 4, 8]), st.integers(0, 2**31), st.sampled_from(["gptq", "gptq_v2"]))
def test_zeros_round_trip(shape, bits, seed, version):
    zeros = random_codes(shape, bits, seed, low=1 if version == "gptq" else 0)
    packed = pack_zeros(zeros, bits, version)
    assert packed.shape == (shape[0], packed_rows(shape[1], bits))
    assert torch.equal(unpack_zeros(packed, bits, shape[1], version), zeros)


@pytest.mark.parametrize(("bits", "word"), [(2, 0x55555555), (4, 0x77777777), (8, 0x7F7F7F7F)])
def test_symmetric_zeros_are_the_known_words(bits, word):
    packed = pack_zeros(torch.full((2, 32), 2 ** (bits - 1)), bits, checkpoint_format(symmetric=True))
    assert (packed == word).all()


def test_asymmetric_weights_use_the_version_that_can_hold_zero():
    version = checkpoint_format(symmetric=False)
    zeros = torch.tensor([[0, 15, 3, 0, 1, 2, 7, 9]], dtype=torch.uint8)
    assert torch.equal(unpack_zeros(pack_zeros(zeros, 4, version), 4, 8, version), zeros)


def test_version_1_refuses_a_zero_of_zero():
    with pytest.raises(MethodError, match=r"zero point of 0.*gptq_v2"):
        pack_zeros(torch.tensor([[0, 1]]), 4, "gptq")


def test_code_out_of_range():
    with pytest.raises(MethodError, match="codes from 0 to 16; expected codes of 4 bit"):
        pack_rows(torch.tensor([[0], [16]], dtype=torch.uint8), 4)


def test_wrong_number_of_words():
    with pytest.raises(ModelError, match="2 words a column; expected 3"):
        unpack_rows(torch.zeros(2, 4, dtype=torch.int32), 3, 32)


def test_three_bit_values_span_words_as_in_auto_gptq():
    """Values 10 and 21 of 32 are split between two words: 2 + 1 and 1 + 2 bits."""
    codes = torch.zeros(32, 1, dtype=torch.uint8)
    codes[10], codes[21] = 0b101, 0b110
    words = [int(word) & 0xFFFFFFFF for word in pack_rows(codes, 3).flatten()]
    assert words == [0b01 << 30, (0b101 >> 2) | ((0b110 & 1) << 31), 0b110 >> 1]
