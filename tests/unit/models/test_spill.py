"""Tensors beyond a budget of memory lie in files without a name, and are what they were."""

import errno
import gc
import os
import resource
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from quantgate.checkpoints import checkpoint
from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.checkpoints.record import read_record
from quantgate.core import memory as memory_module
from quantgate.core.errors import MethodError
from quantgate.core.progress import Silent
from quantgate.models import products
from quantgate.models import spill as spill_module
from quantgate.models.products import wide_products
from quantgate.models.spill import Spill
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.transforms.fold import restored
from quantgate.subjects import make as make_module
from quantgate.subjects.make import load_for_quantizing, quantize_checkpoint, quantize_many

SHORT_OF_MEMORY = ("rtn4", "gptq3", "awq4", "smoothquant8", "spqr3", "int8", "nf4", "easyquant4")


def test_what_exceeds_the_budget_goes_into_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(spill_module, "_SLAB", 1024)
    spill = Spill("x", tmp_path, above=100)
    tensors = [
        torch.randn(5, 4),
        torch.randn(10, 3).to(torch.bfloat16),
        torch.arange(7),
        torch.randn(900),
        torch.empty(0),
    ]
    kept = [spill.keep(each) for each in tensors]
    assert [one is other for one, other in zip(kept, tensors, strict=True)] == [True, False, False, False, True]
    assert spill.spilled == 60 + 56 + 3600
    del spill
    gc.collect()
    for one, other in zip(kept, tensors, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)
    kept[1].mul_(2)
    assert torch.equal(kept[1], tensors[1] * 2)
    assert torch.equal(kept[2], tensors[2])
    assert not list(tmp_path.iterdir())


def test_the_budget_is_a_quarter_of_what_there_is(monkeypatch):
    monkeypatch.setattr(spill_module, "available", lambda: 1000)
    assert (Spill("x").room(250), Spill("x").room(251)) == (True, False)
    monkeypatch.setattr(spill_module, "available", lambda: None)
    assert Spill("x").room(1 << 60)  # nobody says how much there is


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MethodError, match=r"gptq4: no room for 256 MiB in .* \(No space left on device\)"):
        Spill("gptq4", tmp_path, above=0).keep(torch.ones(3))


def test_a_tensor_without_bytes_needs_no_file(tmp_path):
    """Nothing of it can be mapped: a layer without outliers stores such tensors."""
    spill = Spill("x", tmp_path / "none", above=0)
    assert spill.put(torch.empty(0, 4)).shape == (0, 4)
    assert spill.put(torch.empty(0, dtype=torch.int8)).dtype == torch.int8


def test_what_is_kept_takes_no_gradient(tmp_path):
    kept = Spill("x", tmp_path, above=0).put(torch.ones(3, requires_grad=True))
    assert not kept.requires_grad


def test_no_temporary_directory_at_all_is_a_sentence(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    with pytest.raises(MethodError, match=r"in a temporary directory \(No usable temporary directory found"):
        Spill("x", above=0).put(torch.ones(3))


@pytest.mark.parametrize("error", [None, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_has_its_disk_where_the_system_promises_none(error, tmp_path, monkeypatch):
    """A hole is a crash as soon as the disk is full: macOS has no such call, and musl none for network disks."""

    def refused(*_):
        raise OSError(error, os.strerror(error))

    made = []
    mapped = spill_module.mmap.mmap
    monkeypatch.setattr(spill_module, "_SLAB", (1 << 20) + 5)
    monkeypatch.setattr(spill_module.mmap, "mmap", lambda file, size: made.append(os.fstat(file)) or mapped(file, size))
    if error is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refused)
    assert torch.equal(Spill("x", tmp_path, above=0).put(torch.ones(3)), torch.ones(3))
    assert made[0].st_size == (1 << 20) + 5
    assert 512 * made[0].st_blocks >= made[0].st_size


def test_files_in_memory_relieve_none(tmp_path, monkeypatch):
    monkeypatch.setattr(spill_module, "_SLAB", 1024)
    places = []
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: places.append(dir) or open(tmp_path / "x", "w+b"))  # noqa: SIM115, PTH123
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    monkeypatch.setattr(memory_module, "_LARGE", disk)
    for lying, expected in (((memory,), memory), ((memory, disk), memory), ((), memory)):
        monkeypatch.setattr(memory_module, "in_memory", lambda place, lying=lying: place in lying)
        Spill("x", memory, above=0).put(torch.ones(3))  # there is no other directory
        assert places.pop() == expected
    disk.mkdir()
    for lying, expected in (((memory,), disk), ((memory, disk), memory), ((), memory)):
        monkeypatch.setattr(memory_module, "in_memory", lambda place, lying=lying: place in lying)
        Spill("x", memory, above=0).put(torch.ones(3))
        assert places.pop() == expected


def test_hundreds_of_layers_take_few_files(tmp_path, monkeypatch):
    monkeypatch.setattr(spill_module, "_SLAB", 1 << 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spill, there = Spill("x", tmp_path, above=0), len(list(Path("/dev/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (there + 60, hard))
    try:
        kept = [spill.put(torch.full((256,), float(number))) for number in range(500)]
        monkeypatch.setattr(spill_module, "_SHARE", 1 << 30)
        with pytest.raises(MethodError, match="raise the limit of open files"):
            kept.extend([spill.put(torch.ones(256)) for _ in range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(bool((each == number).all()) for number, each in enumerate(kept[:500]))


@pytest.fixture
def short(monkeypatch):
    """No memory for what need not stay there; gives the spills that were made."""
    made = []

    def spill(*args, **how):
        made.append(Spill(*args, **how | {"above": 0}))
        return made[-1]

    for module in (make_module, checkpoint):
        monkeypatch.setattr(module, "Spill", spill)
    return made


@pytest.mark.parametrize("name", SHORT_OF_MEMORY)
def test_short_of_memory_everything_is_the_same(name, model_dir, calibration, tmp_path, request):
    quantize_checkpoint(model_dir, METHODS[name], calibration, tmp_path / "plenty", progress=Silent())
    made = request.getfixturevalue("short")
    record = quantize_checkpoint(model_dir, METHODS[name], calibration, tmp_path / "short", progress=Silent())
    assert made[0].spilled > 0
    assert sorted(path.name for path in (tmp_path / "short").iterdir()) == sorted(
        path.name for path in (tmp_path / "plenty").iterdir()
    )
    for path in (tmp_path / "plenty").glob("*.safetensors"):
        one, other = load_file(path), load_file(tmp_path / "short" / path.name)
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    again = read_record(tmp_path / "plenty")
    assert replace(record, seconds=0.0) == replace(again, seconds=0.0)
    states = [load_quantized(tmp_path / each, torch.bfloat16).state_dict() for each in ("plenty", "short")]
    assert made[-1].spilled > 0
    request.getfixturevalue("monkeypatch").undo()
    plain = load_quantized(tmp_path / "plenty", torch.bfloat16).state_dict()
    for state in states:
        assert all(torch.equal(tensor, state[key]) for key, tensor in plain.items())


def test_methods_of_one_sweep_share_the_budget(model_dir, calibration, tmp_path, short):
    rows = [METHODS["rtn4"], METHODS["awq4"]]
    quantize_many(model_dir, {tmp_path / row.id: row for row in rows}, calibration, progress=Silent())
    assert len(short) == 1


def test_weights_stay_in_their_file_and_are_never_written_to(model_dir, calibration, tmp_path, monkeypatch):
    """What is written to a mapped weight would be memory that stays until the model goes."""
    models = []

    def loaded(path: Path, device: str):
        models.append(load_for_quantizing(path, device)[0])
        places.update({name: weight.data_ptr() for name, weight in models[0].named_parameters()})
        return models[0], torch.bfloat16

    places: dict[str, int] = {}
    monkeypatch.setattr(make_module, "load_for_quantizing", loaded)
    quantize_checkpoint(model_dir, METHODS["awq-gptq-w3"], calibration, tmp_path / "made", progress=Silent())
    original = load_for_quantizing(model_dir, "cpu")[0].state_dict()
    for name, weight in models[0].named_parameters():
        assert weight.data_ptr() == places[name]
        assert torch.equal(weight, original[name])


def test_widened_weights_follow_what_is_put_into_a_layer(monkeypatch):
    monkeypatch.setattr(products, "has_products", lambda dtype: dtype == torch.float32)
    layer = nn.Linear(8, 8, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(4, 8).to(torch.bfloat16)
    with torch.no_grad(), wide_products(torch.bfloat16):
        before = layer(x)
        with restored([layer]):
            layer.weight.mul_(2)
            assert torch.equal(layer(x), before * 2)
        assert torch.equal(layer(x), before)


def test_layers_are_read_one_at_a_time(model_dir, tmp_path, monkeypatch):
    quantize_checkpoint(model_dir, METHODS["rtn4"], None, tmp_path, progress=Silent())
    config = checkpoint.read_json(tmp_path / "config.json", "x")["quantization_config"]
    reader = checkpoint._READERS["gptq"]
    seen: list[str] = []
    spied = {**checkpoint._READERS, "gptq": lambda *args: seen.append(args[2]) or reader(*args)}
    monkeypatch.setattr(checkpoint, "_READERS", spied)
    _, layers = checkpoint.read_layers(tmp_path, config)
    assert (len(layers), "lm_head" in layers, next(iter(layers)) in layers, seen) == (14, False, True, [])
    assert layers[next(iter(layers))].n_weights > 0
    assert len(seen) == 1
