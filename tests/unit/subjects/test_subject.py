"""The audit tells a model that was folded and quantized from one that was folded only."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints import checkpoint
from quantgate.checkpoints.record import read_record, write_record
from quantgate.core.progress import Silent
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.subjects.make import quantize_checkpoint
from quantgate.subjects.subject import equal_modules, equal_up_to_scales, lies_on_grid, unchanged_modules


@pytest.mark.parametrize("name", ["awq8", "awq2", "rtn8"])
def test_quantized_models_pass(name, model_dir, tmp_path, calibration):
    record = quantize_checkpoint(model_dir, METHODS[name], calibration, tmp_path, progress=Silent())
    assert unchanged_modules(model_dir, tmp_path, record) == []


@dataclasses.dataclass(frozen=True)
class Folded16Bit:
    """A layer that claims to be quantized and only carries the folded 16-bit weight."""

    weight: torch.Tensor

    def dequantize(self, dtype):
        return self.weight.to(dtype)

    def tensors(self):
        return {"weight": self.weight}

    @property
    def n_weights(self):
        return self.weight.numel()


def test_a_folded_model_that_was_never_quantized_is_found(model_dir, tmp_path, calibration, monkeypatch):
    record = quantize_checkpoint(model_dir, METHODS["awq4"], calibration, tmp_path, progress=Silent())
    original = dict(checkpoint.stored_tensors(model_dir))
    generator = torch.Generator().manual_seed(0)

    def scaled(name):
        weight = original[f"{name}.weight"].float()
        rows, columns = (torch.empty(n).uniform_(0.2, 5, generator=generator) for n in weight.shape)
        return Folded16Bit((weight * rows.unsqueeze(1) * columns).to(torch.bfloat16))

    layers = {name: scaled(name) for name in record.quantized_modules}
    monkeypatch.setattr(checkpoint, "read_layers", lambda *_: ({}, layers))
    assert unchanged_modules(model_dir, tmp_path, record) == list(record.quantized_modules)


@pytest.mark.parametrize(("method", "value"), [("rtn8", 0.0), ("nf4", 0.25)])
def test_a_weight_that_lay_on_the_grid_is_quantized(method, value, tmp_path, model_dir):
    """All zero, all equal: quantizing changes nothing, which is no sign that nothing was quantized."""
    layer = "model.layers.0.mlp.up_proj"
    model = shutil.copytree(model_dir, tmp_path / "model")
    state = load_file(model / "model.safetensors")
    state[f"{layer}.weight"].fill_(value)
    save_file(state, model / "model.safetensors", metadata={"format": "pt"})
    record = quantize_checkpoint(model, METHODS[method], None, tmp_path / "made", progress=Silent())
    unchanged, on_grid = equal_modules(model, tmp_path / "made", record)
    assert (unchanged, on_grid) == ([], [layer])


def test_folds_survive_the_disk(model_dir, tmp_path, calibration):
    record = quantize_checkpoint(model_dir, METHODS["awq3"], calibration, tmp_path, progress=Silent())
    assert record.folds
    assert read_record(tmp_path) == record
    write_record(dataclasses.replace(record, folds={}), tmp_path)
    assert read_record(tmp_path).folds == {}


def test_scales_alone_are_no_quantization():
    weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    assert equal_up_to_scales(weight, weight)
    assert equal_up_to_scales(weight, (weight * torch.rand(48).add(0.1)).to(torch.bfloat16))
    rounded = (weight * 31.75).round() / 31.75  # eight bits over +-4
    assert not equal_up_to_scales(weight, rounded)
    changed = weight.clone()
    changed[3, 5] = 0
    assert not equal_up_to_scales(weight, changed)


def test_few_values_lie_on_a_grid():
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert not lies_on_grid(noise)
    assert not lies_on_grid(noise[:4, :8])
    assert lies_on_grid(torch.zeros(4, 4))
    assert lies_on_grid(noise.sign())
