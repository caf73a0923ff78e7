"""Biases, in a model that has them (Qwen2): whole ones raise nothing, others are found, what follows a fold is none."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from quantgate.checkpoints.findings import ERROR, WARNING
from quantgate.checkpoints.inspection import inspect
from quantgate.core.progress import Silent
from quantgate.quantize.catalogue.methods import get_method
from quantgate.subjects.make import quantize_checkpoint

SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 128,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip
K, V, Q = (f"model.layers.1.self_attn.{side}_proj" for side in "kvq")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The original, and its rounding to 4 bits."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **SIZES), dtype=torch.bfloat16)
    for name, tensor in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(tensor, std=0.3)
    place = tmp_path_factory.mktemp("qwen2")
    model.save_pretrained(place / "ours")
    quantize_checkpoint(place / "ours", get_method("rtn4"), None, place / "theirs", progress=Silent())
    return place


def said(scene, tmp_path, change, level=ERROR):
    state = load_file(scene / "theirs" / "model.safetensors")
    change(state)
    save_file({name: each.contiguous() for name, each in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(json.loads((scene / "theirs" / "config.json").read_text())))
    return [(each.code, each.modules) for each in inspect(tmp_path, scene / "ours", "theirs").of_level(level)]


def exchanged(one, other):
    def change(state):
        state[f"{one}.bias"], state[f"{other}.bias"] = state[f"{other}.bias"], state[f"{one}.bias"]

    return change


def of(module, how):
    return lambda state: state.update({f"{module}.bias": how(state[f"{module}.bias"])})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_whole_ones_in_any_dtype_raise_nothing(dtype, scene, tmp_path):
    for level in (ERROR, WARNING):
        assert said(scene, tmp_path, of(K, lambda bias: bias.to(dtype)), level) == []


@pytest.mark.parametrize(
    ("change", "modules"),
    [
        (of(K, torch.zeros_like), {f"{K}.bias"}),
        (exchanged(K, V), {f"{K}.bias", f"{V}.bias"}),
        (exchanged(Q, Q.replace(".1.", ".0.")), {f"{Q}.bias", f"{Q}.bias".replace(".1.", ".0.")}),
        (of(Q, lambda bias: bias.flip(0)), {f"{Q}.bias"}),
        (of(Q, torch.neg), {f"{Q}.bias"}),
        (of(Q, lambda bias: bias * 0.01), {f"{Q}.bias"}),
        (of(K, lambda bias: bias.view(torch.float16).clamp(-9, 9)), {f"{K}.bias"}),  # read in another dtype
    ],
)
def test_other_biases_are_errors(change, modules, scene, tmp_path):
    found = said(scene, tmp_path, change)
    assert ("bias_changed", modules) in [(code, set(names)) for code, names in found]


def test_one_that_is_no_number(scene, tmp_path):
    assert "not_finite" in [code for code, _ in said(scene, tmp_path, of(K, lambda bias: bias * float("nan")))]


def test_a_bias_follows_the_rows_of_its_matrix(scene, tmp_path):
    """Values five times, and what reads them a fifth: the bias of the values five times as well."""

    def change(state):
        state[f"{V}.scales"] *= 5
        state[f"{V}.bias"] *= 5
        state[f"{V}.scales".replace("v_proj", "o_proj")] /= 5

    assert said(scene, tmp_path, change) == []


def test_a_bias_that_stays_while_its_rows_are_scaled_is_another(scene, tmp_path):
    def change(state):
        state[f"{V}.scales"] *= 5
        state[f"{V}.scales".replace("v_proj", "o_proj")] /= 5

    assert said(scene, tmp_path, change) == [("bias_changed", (f"{V}.bias",))]


def test_a_small_correction_is_a_warning(scene, tmp_path):
    """Of a bias that hardly counts beside its matrix: the reference's is made small first."""
    state = load_file(scene / "ours" / "model.safetensors")
    before = state[f"{K}.bias"]
    state[f"{K}.bias"] = before * 0.001
    save_file(state, scene / "ours" / "model.safetensors", metadata={"format": "pt"})
    try:
        moved = of(K, lambda bias: before.flip(0) * 0.01)
        assert said(scene, tmp_path, moved) == []
        assert ("bias_changed", (f"{K}.bias",)) in said(scene, tmp_path, moved, WARNING)
    finally:
        save_file(state | {f"{K}.bias": before}, scene / "ours" / "model.safetensors", metadata={"format": "pt"})
