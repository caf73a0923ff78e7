"""A model that is quantized already is never taken for the 16-bit original."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import quantgate
from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.models.source import resolve_model
from quantgate.quantize.calibration.samples import Calibration
from quantgate.store.store import Store

FIRST = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def original(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "original")


def edit_config(path, **changes):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def edit_weights(path, change):
    state = load_file(path / "model.safetensors")
    save_file(state | change(state), path / "model.safetensors", metadata={"format": "pt"})


def resolve(path, tmp_path):
    return resolve_model(str(path), None, Store(tmp_path / "store", Silent()))


@pytest.mark.parametrize("method", ["int8", "nf4", "gptq4", "float8-e4m3", "easyquant4", "rtn8", "kv8"])
def test_our_own_checkpoints(method, tiny_model, tmp_path):
    calibration = Calibration("few", "noise", ((5, 6, 7, 8, 9, 10, 11, 12),) * 4, (), 0)
    made = quantgate.quantize(tiny_model, method, calibration, store=tmp_path / "store").path
    with pytest.raises(ModelError, match=r"is quantized already.*--candidate"):
        resolve(made, tmp_path)
    with pytest.raises(ModelError, match="is quantized already"):
        quantgate.quantize(made, "rtn4", store=tmp_path / "store")


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"quantization_config": {"quant_method": "anything"}}, "quantization_config in config.json"),
        ({"compression_config": {"format": "pack-quantized"}}, "compression_config"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "quantization in"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "text_config.quantization_config"),
    ],
)
def test_what_config_json_declares(config, place, original, tmp_path):
    edit_config(original, **config)
    with pytest.raises(ModelError, match=place):
        resolve(original, tmp_path)


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_what_lies_beside(name, original, tmp_path):
    (original / name).write_text('{"bits": 4}')
    with pytest.raises(ModelError, match=name):
        resolve(original, tmp_path)


def test_a_declaration_that_is_no_object_is_refused(original, tmp_path):
    (original / "quantize_config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"quantize_config.json holds a list; expected a JSON object"):
        resolve(original, tmp_path)


def test_our_own_record(original, tmp_path):
    (original / "quantgate.json").write_text("{}")
    with pytest.raises(ModelError, match=r"quantgate\.json"):
        resolve(original, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {FIRST: state[FIRST].to(torch.float8_e4m3fn)},
        lambda state: {FIRST: (state[FIRST] * 100).to(torch.int8)},
        lambda state: {FIRST: torch.ones(512, 1, dtype=torch.uint8)},  # as bitsandbytes packs four bits
        lambda state: {FIRST.replace("weight", "weight_scale"): torch.ones(32, 1)},
        lambda state: {FIRST.replace("weight", "qweight"): torch.ones(4, 32, dtype=torch.int32)},
        lambda state: {FIRST.replace("weight", "SCB"): torch.ones(32)},
    ],
)
def test_what_the_weights_are(change, original, tmp_path):
    edit_weights(original, change)
    with pytest.raises(ModelError, match=r"is quantized already \(model.layers.0.mlp.down_proj"):
        resolve(original, tmp_path)


def test_masks_and_empty_declarations_are_no_sign(original, tmp_path):
    """GPT-2 and its kin store masks and positions as booleans and integers."""
    edit_config(original, quantization_config=None, compression_config={})
    extra = {"transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8), "ids": torch.arange(4)}
    edit_weights(original, lambda state: extra)
    assert resolve(original, tmp_path).path == original.resolve()
