"""Scales of keys and values against what the weights can give: honest ones raise nothing, others a warning."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from quantgate.checkpoints import cache_ranges
from quantgate.checkpoints.audit import whole_audit
from quantgate.checkpoints.layouts.table import open_checkpoint
from quantgate.models.files import tokenizer_files
from tests.unit.checkpoints.test_inspection import REFERENCE

SIZES = {
    "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 128,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
TOP = 448


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "gemma2"])
def calibrated(request, tmp_path_factory):
    """A small random model whose layers differ in size, and its scales as a calibration on random tokens gives them."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **SIZES)).eval()
    seen: dict[str, dict[str, float]] = {}

    def keep(layer, side):
        def hook(_, inputs, output):
            sides = seen.setdefault(layer, {})
            sides[side] = max(sides.get(side, 0.0), float(output.abs().max()) / TOP)

        return hook

    for number, block in enumerate(model.model.layers):
        attention, name = block.self_attn, f"model.layers.{number}.self_attn"
        if request.param == "gemma2":  # as trained ones are: 1 + weight multiplies, so nothing is made of weight
            torch.nn.init.uniform_(block.input_layernorm.weight, 0.1, 0.3)
        attention.k_proj.weight.data *= 4.0 / (number + 1)
        attention.v_proj.weight.data *= number + 1
        for projection in (attention.k_proj, attention.v_proj):
            if projection.bias is not None:
                torch.nn.init.normal_(projection.bias, std=0.2)
        getattr(attention, "k_norm", attention.k_proj).register_forward_hook(keep(name, "k"))
        attention.v_proj.register_forward_hook(keep(name, "v"))
    with torch.no_grad():
        for _ in range(4):
            model(input_ids=torch.randint(1, 128, (2, 64)))
    path = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(path)
    return open_checkpoint(path, None, "theirs"), seen, request.param


def said(calibrated, change):
    checkpoint, scales, _ = calibrated
    found = list(cache_ranges.findings(checkpoint, {layer: change(layer, **sides) for layer, sides in scales.items()}))
    return {each.sentence.partition(" (")[0]: set(each.modules) for each in found}


def test_calibrated_ones_and_what_tools_write_instead_raise_nothing(calibrated):
    assert said(calibrated, lambda _, k, v: {"k": k, "v": v}) == {}
    assert said(calibrated, lambda _, k, v: {"k": 1.0, "v": 1.0}) == {}
    assert said(calibrated, lambda _, k, v: dict.fromkeys("kv", max(k, v))) == {}
    assert said(calibrated, lambda _, k, v: {}) == {}


@pytest.mark.parametrize(
    ("factor", "word"),
    [(0.01, "too small for them, which cuts them off"), (100, "far beyond what the weights can give")],
)
def test_a_hundred_times_off(factor, word, calibrated):
    found = said(
        calibrated, lambda layer, k, v: {"k": k * factor, "v": v * factor} if ".2." in layer else {"k": k, "v": v}
    )
    if calibrated[2] == "gemma2":  # its norms multiply by 1 + weight: nothing is said of it
        assert found == {}
    else:
        assert found == {f"scales of keys or values {word}": {f"model.layers.2.self_attn.{side}" for side in "kv"}}


def test_exchanged(calibrated):
    everywhere = said(calibrated, lambda _, k, v: {"k": v, "v": k})
    last = said(calibrated, lambda layer, k, v: {"k": v, "v": k} if ".5." in layer else {"k": k, "v": v})
    sentence = "scales of keys and values that would fit better exchanged"
    if calibrated[2] in ("llama", "qwen2"):  # keys that are normed once more are as large in every layer
        assert len(everywhere[sentence]) == 6
        assert last[sentence] == {"model.layers.5.self_attn"}
    if calibrated[2] == "gemma2":
        assert (everywhere, last) == ({}, {})


def test_the_audit_asks_compressed_ones_too(tmp_path):
    path = shutil.copytree(REFERENCE.parent / "ct_w4a16_kv", tmp_path / "theirs")
    for file in [*tokenizer_files(REFERENCE), REFERENCE / "generation_config.json"]:
        shutil.copyfile(file, Path(path) / file.name)
    state = load_file(path / "model.safetensors")
    state["model.layers.1.self_attn.v_scale"] *= 0.01
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    (found,) = [each for each in whole_audit(path, REFERENCE, "x").findings if each.code == cache_ranges.CODE]
    assert found.modules == ("model.layers.1.self_attn.v",)
