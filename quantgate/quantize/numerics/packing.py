"""Small integers in int32 words, AutoGPTQ's layout: a little-endian bit stream along one dimension.

Value ``k`` of a column occupies the bits ``k*bits .. (k+1)*bits - 1`` of that column's stream, low bits first. For 2, 4
and 8 bit a word holds whole values; with 3 bit 32 values fill 3 words and values 10 and 21 span two words, which is
exactly what auto-gptq's packer writes. 5, 6 and 7 bit follow from the same rule (auto-gptq has no such format).

Zero points: the format's version 1 (``checkpoint_format: "gptq"``) stores ``zero - 1``. A zero of 0, which only
asymmetric grids have, becomes -1: auto-gptq's own packer then also damages the neighbouring fields of the word. Version
2 (``"gptq_v2"``, GPTQModel's) stores the zero itself. So symmetric weights, whose zero is never 0,
are written as version 1, which everything reads, and asymmetric weights as version 2. No zero is ever clamped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import torch
from torch import Tensor

from quantgate.core.errors import MethodError, ModelError

CheckpointFormat = Literal["gptq", "gptq_v2"]
WORD_BITS: Final = 32
_AT_A_TIME: Final = 1 << 15  # words that are unpacked at a time: their fields fill some 100 KB
PACKABLE_BITS: Final = (2, 3, 4, 8)  # what the checkpoint format knows


def checkpoint_format(symmetric: bool) -> CheckpointFormat:
    """The format version that holds the zero points of such a grid without loss."""
    return "gptq" if symmetric else "gptq_v2"


def _block(bits: int) -> tuple[int, int]:
    """The shortest run of values that fills whole words: (values, words)."""
    common = math.gcd(WORD_BITS, bits)
    return WORD_BITS // common, bits // common


def _fields(bits: int) -> Iterator[tuple[int, int, int]]:
    """For every value of a block: (value, word, bit position inside the word of its lowest bit)."""
    values, _ = _block(bits)
    for value in range(values):
        word, shift = divmod(value * bits, WORD_BITS)
        yield value, word, shift


def packed_rows(rows: int, bits: int) -> int:
    """Words that ``rows`` values need; the last block is filled up with zeros."""
    values, words = _block(bits)
    return -(-rows // values) * words


def pack_rows(codes: Tensor, bits: int) -> Tensor:
    """Pack ``codes`` (integers in ``[0, 2^bits)``, ``[rows, columns]``) along the rows.

    Returns:
        int32 ``[packed_rows(rows, bits), columns]``, contiguous.

    Raises:
        MethodError: a code does not fit into ``bits``.
    """
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < 2**bits:
        raise MethodError(
            "packing", f"codes from {int(codes.min())} to {int(codes.max())}", expected=f"codes of {bits} bit"
        )
    values, words = _block(bits)
    rows, columns = codes.shape
    blocks = -(-rows // values)
    padded = codes if rows == blocks * values else torch.nn.functional.pad(codes, (0, 0, 0, blocks * values - rows))
    padded = padded.reshape(blocks, values, columns)
    packed = torch.zeros(blocks, words, columns, dtype=torch.int32, device=codes.device)
    for value, word, shift in _fields(bits):
        field = padded[:, value].to(torch.int32)
        packed[:, word] |= field << shift
        if shift + bits > WORD_BITS:
            packed[:, word + 1] |= field >> (WORD_BITS - shift)
    return packed.view(blocks * words, columns)


def unpack_rows(packed: Tensor, bits: int, rows: int) -> Tensor:
    """Invert `pack_rows`: the first ``rows`` values of every column, uint8 ``[rows, columns]``.

    Raises:
        ModelError: ``packed`` holds fewer or more words than ``rows`` values need.
    """
    values, words = _block(bits)
    if packed.shape[0] != packed_rows(rows, bits):
        raise ModelError(
            "packed weights",
            f"{packed.shape[0]} words a column",
            expected=f"{packed_rows(rows, bits)} for {rows} values of {bits} bit",
            hint="bits or group size in the checkpoint's configuration do not match its tensors",
        )
    columns = packed.shape[1]
    blocks = packed.shape[0] // words
    stream = packed.reshape(blocks, words, columns)
    codes = torch.empty(blocks, values, columns, dtype=torch.uint8, device=packed.device)
    step = max(1, _AT_A_TIME // max(1, columns))
    for start in range(0, blocks, step):  # what is computed on the way stays in the processor's caches
        _unpack_blocks(stream[start : start + step], bits, codes[start : start + step])
    return codes.view(blocks * values, columns)[:rows]


def _unpack_blocks(stream: Tensor, bits: int, codes: Tensor) -> None:
    """Words ``[blocks, words, columns]`` into ``codes``, uint8 ``[blocks, values, columns]``."""
    mask = 2**bits - 1
    for value, word, shift in _fields(bits):
        field = stream[:, word] >> shift
        if shift + bits > WORD_BITS:
            low = WORD_BITS - shift  # bits of this value that are in the first word
            field = (field & (2**low - 1)) | (stream[:, word + 1] << low)
        codes[:, value] = field & mask


def pack_stream(codes: Tensor, bits: int) -> Tensor:
    """Pack ``codes`` of any shape, last dimension fastest, into one bit stream: int32 ``[words]``."""
    return pack_rows(codes.reshape(-1, 1), bits).view(-1)


def unpack_stream(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """Invert `pack_stream`: uint8 of ``shape``. Raises ModelError for another number of words."""
    return unpack_rows(packed.view(-1, 1), bits, math.prod(shape)).view(*shape)


def pack_zeros(zeros: Tensor, bits: int, version: CheckpointFormat) -> Tensor:
    """Pack zero points (integers, ``[groups, out]``) along ``out``: int32 ``[groups, packed_rows(out, bits)]``.

    Raises:
        MethodError: a zero of 0 in version 1, which cannot hold it.
    """
    stored = zeros.to(torch.int32)
    if version == "gptq":
        stored = stored - 1
        if stored.numel() and int(stored.min()) < 0:
            raise MethodError(
                "packing", "a zero point of 0", expected="zero points of at least 1 in format 'gptq'", hint="gptq_v2"
            )
    return pack_rows(stored.t(), bits).t().contiguous()


def unpack_zeros(packed: Tensor, bits: int, columns: int, version: CheckpointFormat) -> Tensor:
    """Invert `pack_zeros`: uint8 ``[groups, columns]``; version 1 wraps as auto-gptq's reader does."""
    stored = unpack_rows(packed.t(), bits, columns).t().contiguous()
    if version == "gptq":
        stored = (stored + 1) & (2**bits - 1)
    return stored
