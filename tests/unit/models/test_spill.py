"""Tensors beyond a budget of memory lie in files without a name, and are what they were."""

import errno
import gc
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from quantgate.checkpoints import checkpoint
from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.core.errors import MethodError
from quantgate.core.memory import available, group_limits
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


def test_the_groups_limits_are_found(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("9:name=systemd:/\n4:memory:/a/b\n0::/c/d\n")
    for place, text in {
        "memory/memory.limit_in_bytes": "9223372036854771712", "memory/a/b/memory.limit_in_bytes": "300",
        "c/memory.max": "200", "c/d/memory.max": "max",
    }.items():  # fmt: skip
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text + "\n")
    assert list(group_limits(tmp_path, own)) == [300, 9223372036854771712, 200]
    assert list(group_limits(tmp_path, tmp_path / "none")) == []
    free = available()
    assert free is None or 0 < free < 1 << 60


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
    again = checkpoint.read_record(tmp_path / "plenty")
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
    pattern, reader = checkpoint._LAYOUTS["gptq"]
    seen: list[str] = []
    spied = {**checkpoint._LAYOUTS, "gptq": (pattern, lambda *args: seen.append(args[2]) or reader(*args))}
    monkeypatch.setattr(checkpoint, "_LAYOUTS", spied)
    _, layers = checkpoint.read_layers(tmp_path, config)
    assert (len(layers), "lm_head" in layers, next(iter(layers)) in layers, seen) == (14, False, True, [])
    assert layers[next(iter(layers))].n_weights > 0
    assert len(seen) == 1
