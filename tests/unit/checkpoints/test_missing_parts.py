"""A layer that lost what says what its numbers stand for is refused, and not read as a plain one."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints.checkpoint import load_quantized, read_json, read_layers
from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.efficiency.execution import load_packed
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.subjects.make import quantize_checkpoint

LAYER = "model.layers.1.mlp.down_proj."


@pytest.mark.parametrize("name", ["float8-e4m3", "int8"])
@pytest.mark.parametrize("load", [load_quantized, lambda path, _: load_packed(path, "bfloat16", "cpu")])
def test_numbers_of_8_bits_without_their_scale(name, load, model_dir, calibration, tmp_path):
    """By their names alone they are an ordinary layer's, and were taken for its weights."""
    quantize_checkpoint(model_dir, METHODS[name], calibration, tmp_path, progress=Silent())
    file = tmp_path / "model.safetensors"
    state = {k: tensor for k, tensor in load_file(file).items() if k == f"{LAYER}weight" or not k.startswith(LAYER)}
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{LAYER}weight: torch\.\w+8\w* numbers and nothing that says"):
        load(tmp_path, torch.bfloat16)


def test_a_layer_that_is_not_there_is_no_broken_one(model_dir, tmp_path):
    quantize_checkpoint(model_dir, METHODS["rtn4"], None, tmp_path, progress=Silent())
    _, layers = read_layers(tmp_path, read_json(tmp_path / "config.json", "x")["quantization_config"])
    assert layers.get("nothing") is None
    with pytest.raises(KeyError, match="nothing"):
        layers["nothing"]
