"""Damages inside a GGUF file, of single blocks and of types of tensors: each is found, whole files raise nothing."""

import struct

import gguf
import pytest

from quantgate.checkpoints.findings import ERROR, WARNING
from quantgate.checkpoints.gguf_export import write_gguf
from quantgate.checkpoints.inspection import inspect
from quantgate.checkpoints.layouts.gguf_header import read_header
from quantgate.checkpoints.layouts.plain import LAYOUT as PLAIN
from quantgate.core.errors import ModelError
from tests.unit.checkpoints.test_inspection import REFERENCE

NAME, UP = "blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj"
TYPES = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")


@pytest.fixture(scope="module", params=TYPES)
def whole(request, tmp_path_factory):
    """The reference in a type that the gguf library writes: path, type, bytes of a block."""
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    write_gguf(PLAIN.open(REFERENCE, None, "ours"), REFERENCE, request.param, path, "ours")
    return path, request.param, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[request.param]][1]


def damaged(whole, tmp_path, change):
    """The file with ``change`` on the bytes of one matrix; codes of the errors."""
    path, _, size = whole
    tensor = next(each for each in read_header(path, "x").tensors if each.name == NAME)
    content = bytearray(path.read_bytes())
    data = content[tensor.begin : tensor.begin + tensor.nbytes]
    change(data, size)
    content[tensor.begin : tensor.begin + tensor.nbytes] = data
    (tmp_path / "theirs.gguf").write_bytes(content)
    found = inspect(tmp_path / "theirs.gguf", REFERENCE, "theirs").of_level(ERROR)
    return {each.code: each.modules for each in found}


def scaled(by):
    """The first number of a block is its scale, in F16."""

    def change(data, size):
        start = 5 * size
        (scale,) = struct.unpack("<e", data[start : start + 2])
        data[start : start + 2] = struct.pack("<e", max(-65504.0, min(65504.0, scale * by)))

    return change


def exchanged(data, size):
    data[:size], data[9 * size : 10 * size] = data[9 * size : 10 * size], data[:size]


def test_whole_files_raise_nothing(whole):
    found = inspect(whole[0], REFERENCE, "theirs")
    assert [each.sentence for level in (ERROR, WARNING) for each in found.of_level(level)] == []


@pytest.mark.parametrize("by", [100.0, 0.01, -1.0, 0.0])
def test_the_scale_of_one_block(by, whole, tmp_path):
    if whole[1].endswith("_1") and by in (0.01, 0.0, -1.0):
        pytest.skip("what is left is the minimum of the block, which no scale multiplies")
    found = damaged(whole, tmp_path, scaled(by))
    assert UP in [name for names in found.values() for name in names], found


def test_two_blocks_exchanged(whole, tmp_path):
    found = damaged(whole, tmp_path, exchanged)
    assert found["unlike_reference" if whole[1] == "Q8_0" else "groups_apart"] == (UP,)


def test_another_type_of_tensor(whole, tmp_path):
    """Of as many bytes a block where there is one, for which the file looks whole; else it cannot be read."""
    path, kind, _ = whole
    content = bytearray(path.read_bytes())
    place = content.index(NAME.encode()) + len(NAME) + 4 + 2 * 8  # behind the name: dimensions, then the type
    (stored,) = struct.unpack("<I", content[place : place + 4])
    assert stored == gguf.GGMLQuantizationType[kind]
    found = []
    for other in gguf.GGMLQuantizationType:
        if other != stored and other in gguf.GGML_QUANT_SIZES:
            content[place : place + 4] = struct.pack("<I", other)
            (tmp_path / "theirs.gguf").write_bytes(content)
            try:
                audit = inspect(tmp_path / "theirs.gguf", REFERENCE, "theirs")
            except ModelError:
                continue
            found.append([name for each in audit.of_level(ERROR) for name in each.modules])
    assert all(UP in names for names in found)


def test_halves_of_one_kind_taken_for_the_other(tmp_path):
    """F16 and BF16 are as long."""
    path = tmp_path / "theirs.gguf"
    write_gguf(PLAIN.open(REFERENCE, None, "ours"), REFERENCE, "F16", path, "ours")
    content = bytearray(path.read_bytes())
    place = content.index(NAME.encode()) + len(NAME) + 4 + 2 * 8
    content[place : place + 4] = struct.pack("<I", gguf.GGMLQuantizationType.BF16)
    path.write_bytes(content)
    found = inspect(path, REFERENCE, "theirs").of_level(ERROR)
    assert UP in [name for each in found for name in each.modules]
