"""Single tensors, read by their places."""

import json
import os
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from quantgate.core.errors import ModelError
from quantgate.models import tensors
from quantgate.models.tensors import read_header, read_tensor

DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn, torch.int16, torch.float16,
    torch.bfloat16, torch.int32, torch.float32, torch.int64, torch.float64, torch.uint16, torch.complex64,
)  # fmt: skip


def of(dtype, rows=37):
    values = torch.randint(-128, 128, (rows, 5), generator=torch.Generator().manual_seed(1))
    return values.to(dtype) if dtype != torch.bool else values > 0


@pytest.fixture(params=[0, tensors._READ], ids=["mapped", "read"])
def path(tmp_path, monkeypatch, request):
    monkeypatch.setattr(tensors, "_READ", request.param)
    state = {str(dtype): of(dtype) for dtype in DTYPES} | {"scalar": torch.tensor(7), "none": torch.empty(0, 3)}
    save_file(state | {f"odd{n}": torch.ones(n, dtype=torch.uint8) for n in range(1, 4)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_what_is_read_is_what_the_library_reads(path):
    found = read_header(path)
    with safe_open(path, framework="pt") as file:
        assert found.keys() == set(file.keys())
        for name, tensor in found.items():
            expected, got = file.get_tensor(name), read_tensor(tensor)
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
            assert torch.equal(
                got.view(torch.uint8) if got.dim() else got, expected.view(torch.uint8) if got.dim() else expected
            )


def test_the_usual_types_are_read_without_the_header(path, monkeypatch):
    """Which costs more than the tensor where there are many."""
    found = read_header(path)
    monkeypatch.setattr("safetensors.safe_open", None)
    for dtype in DTYPES[:-2]:
        assert read_tensor(found[str(dtype)]).shape == (37, 5)


def test_what_is_read_can_be_written_to_and_the_file_stays(path):
    before = path.read_bytes()
    read_tensor(read_header(path)["torch.float32"]).zero_()
    assert path.read_bytes() == before


def test_another_file_of_the_same_name_is_read_by_its_own_header(path):
    tensor = read_header(path)["torch.float32"]
    other = path.with_name("other")
    save_file({"torch.float32": of(torch.float32) + 1, "more": torch.zeros(1000)}, other)
    other.replace(path)
    assert torch.equal(read_tensor(tensor), of(torch.float32) + 1)
    save_file({"more": torch.zeros(1000)}, other)
    other.replace(path)
    with pytest.raises(ModelError, match="its tensors cannot be read"):
        read_tensor(tensor)


@pytest.mark.parametrize("spaces", range(8))
def test_a_header_may_end_anywhere(tmp_path, spaces):
    values = of(torch.float64)
    entry = {"x": {"dtype": "F64", "shape": list(values.shape), "data_offsets": [0, values.nbytes]}}
    header = json.dumps(entry).encode() + b" " * spaces
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + values.numpy().tobytes())
    assert torch.equal(read_tensor(read_header(path)["x"]), values)


def test_small_tensors_hold_no_descriptor(path, monkeypatch):
    """A shard that is written may hold thousands, and 1,024 open files are usual."""
    monkeypatch.setattr(tensors, "_READ", 1 << 20)
    tensor, before = read_header(path)["torch.float32"], os.listdir("/dev/fd")  # noqa: PTH208
    kept = [read_tensor(tensor) for _ in range(50)]
    assert len(os.listdir("/dev/fd")) == len(before)  # noqa: PTH208
    assert all(torch.equal(each, of(torch.float32)) for each in kept)


@pytest.mark.parametrize("other", [torch.ones(2), of(torch.float32).double(), of(torch.float32).t().contiguous()])
def test_a_file_that_holds_another_tensor_by_now_is_refused(path, other):
    """Shapes were checked by the first header."""
    tensor = read_header(path)["torch.float32"]
    save_file({"torch.float32": other}, path)
    with pytest.raises(ModelError, match=r"and was F32 \[37, 5\] when the file was looked at first"):
        read_tensor(tensor)


def test_a_file_that_is_cut_while_it_is_read_is_refused(path, monkeypatch):
    tensor = read_header(path)["torch.float32"]
    monkeypatch.setattr(tensors, "stamp_of", lambda _: tensor.stamp)
    os.truncate(path, tensor.begin + 4)
    with pytest.raises(ModelError, match="cannot be read"):
        read_tensor(tensor)


def test_a_file_whose_old_time_was_put_back_is_another_one(path):
    """Of the same size: the time of the last change of status tells."""
    tensor, facts = read_header(path)["torch.float32"], path.stat()
    time.sleep(0.02)
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with path.open("rb") as file:
        assert tensors.stamp_of(file.fileno()) != tensor.stamp
