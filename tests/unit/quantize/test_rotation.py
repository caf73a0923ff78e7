"""Rotations folded into a model: it computes what it computed, with fewer outliers."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.checkpoints.record import read_record
from quantgate.core.errors import MethodError, UsageError
from quantgate.core.progress import Silent
from quantgate.models.loading import load_whole
from quantgate.quantize.base import Method
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.catalogue.recipe import recipe_method
from quantgate.quantize.numerics.moments import kurtosis, peak_ratio
from quantgate.quantize.numerics.rotations import Rotation
from quantgate.quantize.settings import ActivationSettings, RotationSettings, RtnSettings
from quantgate.quantize.sweep.rotation import rotate
from quantgate.subjects.make import quantize_checkpoint, quantize_many
from tests.unit.conftest import random_calibration, tiny_config, tiny_llama

SHAPE = {
    "vocab_size": 64, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
TOKENS = torch.arange(3, 33).view(2, 15)


def made(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # gains that are not 1, biases that are not 0
            parameter.data += 0.3 * torch.randn_like(parameter) + (0.2 if "bias" in name else 0)
    return model


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config(attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
        MistralConfig(**SHAPE, sliding_window=8),
        Qwen2Config(**SHAPE, tie_word_embeddings=True),
        Qwen3Config(**SHAPE),
        Phi3Config(**{name: value for name, value in SHAPE.items() if name != "head_dim"}),
    ],
    ids=["llama", "llama-biases", "mistral", "qwen2", "qwen3", "phi3"],
)
def test_the_float_model_computes_what_it_computed(config, inputs):
    model = made(config)
    with torch.no_grad():
        before = model(TOKENS).logits
        old = {name: value.clone() for name, value in model.named_parameters()}
        found = rotate(model, RotationSettings(), "test", inputs=inputs)
        after = model(TOKENS).logits
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    new = dict(model.named_parameters())
    assert {name for name in new if name not in old or not torch.equal(old[name], new[name])} <= set(found.changed)
    assert all(name in found.changed for name in new if "proj" in name and "bias" not in name)
    assert bool(found.inputs) == inputs


def test_against_a_dense_orthogonal_matrix():
    model = made(tiny_config())
    layer, gain = model.model.layers[1].mlp.up_proj, model.model.layers[1].post_attention_layernorm.weight.clone()
    old, down = layer.weight.clone().double(), model.model.layers[1].mlp.down_proj.weight.clone().double()
    embedding = model.model.embed_tokens.weight.clone().double()
    rotate(model, RotationSettings(), "test", inputs=False)
    dense = Rotation(96, 1234).apply(torch.eye(96, dtype=torch.float64))  # rows: where each channel goes
    torch.testing.assert_close(dense @ dense.t(), torch.eye(96, dtype=torch.float64))
    torch.testing.assert_close(layer.weight.double(), (old * gain.double()) @ dense, rtol=1e-5, atol=1e-6)
    rotated = model.model.layers[1].mlp.down_proj.weight.double()
    torch.testing.assert_close(rotated, dense.t() @ down, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.model.embed_tokens.weight.double(), embedding @ dense, rtol=1e-5, atol=1e-6)
    assert bool((model.model.norm.weight == 1).all())
    assert model.config.tie_word_embeddings is False


def inputs_of(model, path):
    seen = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(TOKENS)
    handle.remove()
    return seen[0].flatten(0, 1)


@pytest.mark.parametrize("path", ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"])
def test_outliers_are_spread(path):
    model = made(tiny_config())
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 7] += 30  # a channel of the stream that stands out, as in trained models
    before = inputs_of(model, path)
    rotate(model, RotationSettings(), "test", inputs=False)
    after = inputs_of(model, path)
    assert float(kurtosis(before, 1).mean()) > 20
    assert float(kurtosis(after, 1).mean()) < 5
    assert float(peak_ratio(after, 1).mean()) < 0.3 * float(peak_ratio(before, 1).mean())


def test_moments_by_their_known_values():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(200_000, generator=generator)
    assert float(kurtosis(normal, 0)) == pytest.approx(3, abs=0.06)
    assert float(kurtosis(torch.linspace(-1, 1, 10_001), 0)) == pytest.approx(1.8, abs=1e-3)
    alone = torch.zeros(100)
    alone[3] = 5
    assert float(kurtosis(alone, 0)) == pytest.approx(98, abs=1)  # (n - 1) + 1 / (n - 1) - 1
    assert float(peak_ratio(torch.tensor([1.0, -2.0, 8.0]), 0)) == 4


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            OPTConfig(
                vocab_size=64, hidden_size=48, ffn_dim=80, num_hidden_layers=2, num_attention_heads=4,
                word_embed_proj_dim=48, max_position_embeddings=64,
            ),
            "other logits",
        ),
        (GemmaConfig(**SHAPE), "no norm"),
    ],
    ids=["opt", "gemma"],
)  # fmt: skip
def test_what_a_rotation_would_change_is_refused(config, said):
    with pytest.raises(MethodError, match=said):
        rotate(made(config), RotationSettings(), "test", inputs=False)


@pytest.fixture(scope="module")
def outliers_dir(tmp_path_factory):
    """A tiny model with a channel that stands out, as trained ones have."""
    folder = tmp_path_factory.mktemp("outliers") / "model"
    model = tiny_llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 7] += 3
    model.save_pretrained(folder)
    return folder


def error_of(path, reference):
    with torch.no_grad():
        exact = reference(TOKENS).logits
        return float((load_quantized(path, torch.float32)(TOKENS).logits - exact).norm() / exact.norm())


def test_four_bit_inputs_need_the_rotation(outliers_dir, tmp_path):
    plain = Method(
        "plain", "rtn", RtnSettings(4, -1), 4, False, "packed", 1, "", "", activation_bits=4,
        activations=ActivationSettings(4, "token"),
    )  # fmt: skip
    ids = ("quarot-a4-w4", "quarot-rtn-w4", "quarot-gptq-w3", "quarot-gptq-cache4-w4", "rtn4")
    targets = {tmp_path / id: METHODS[id] for id in ids} | {tmp_path / "plain": plain}
    records = quantize_many(outliers_dir, targets, random_calibration([12, 9, 14]), progress=Silent())
    assert [record.method["method"] for record in records] == [*ids, "plain"]
    reference = load_whole(outliers_dir, "reference", torch.float32).eval()
    errors = {path.name: error_of(path, reference) for path in targets}
    assert errors["quarot-a4-w4"] < 0.7 * errors["plain"]
    assert max(errors[id] for id in ids) < 1
    record = read_record(tmp_path / "quarot-gptq-cache4-w4")
    assert (record.activation_bits, record.cache_bits) == (4, 4)
    assert record.method["rotation"] == {"seed": 1234, "heads": True}
    alone = tmp_path / "alone"
    quantize_checkpoint(outliers_dir, METHODS["rtn4"], None, alone, progress=Silent())
    assert error_of(alone, reference) == errors["rtn4"]  # rotated neighbours in the same call change nothing


def test_a_recipe_cannot_rotate_a_part():
    with pytest.raises(UsageError, match="quarot-rtn-w4 rotates the whole model"):
        recipe_method("mine", "quarot-rtn-w4")
