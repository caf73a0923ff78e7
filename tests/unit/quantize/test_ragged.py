import pytest
import torch
from transformers import (
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from quantgate.models.layers import decoder_blocks
from quantgate.quantize.numerics.ragged import attention_of
from quantgate.quantize.sweep import batches
from quantgate.quantize.sweep.batches import batches_of, run_block
from tests.unit.conftest import random_calibration, tiny_config

LENGTHS = [9, 4, 9, 1, 17, 4]
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def small(name):
    torch.manual_seed(0)
    if name == "llama":
        return LlamaForCausalLM(tiny_config()).eval()
    if name == "mistral with a window":
        return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=5)).eval()
    return Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=8)).eval()


def through_all_blocks(model, calibration, ragged):
    """Hidden states after the last block, all samples' tokens, longest sample first."""
    blocks = decoder_blocks(model, "test")
    rows = []
    for batch in batches_of(model, blocks, calibration, "test", ragged=ragged):
        for index, block in enumerate(blocks):
            batch.hidden = run_block(block, batch, index)
        rows.append(batch.rows(batch.hidden))
    return torch.cat(rows)


def alone(model, calibration):
    texts = sorted(calibration.samples, key=lambda sample: -len(sample))
    blocks = decoder_blocks(model, "test")
    found = []
    handle = blocks[-1].module.register_forward_hook(
        lambda _, __, out: found.append((out[0] if isinstance(out, tuple) else out)[0])
    )
    for text in texts:
        model(torch.tensor([text]))
    handle.remove()
    return torch.cat(found)


@pytest.mark.parametrize("budget", [1000, 20])
@pytest.mark.parametrize("name", ["llama", "mistral with a window", "qwen3"])
@torch.no_grad()
def test_every_token_sees_its_own_sample_only(name, budget, monkeypatch):
    monkeypatch.setattr(batches.plan_rows, "__defaults__", (budget,))
    model, calibration = small(name), random_calibration(LENGTHS)
    expected = alone(model, calibration)
    with attention_of(model) as ragged:
        assert ragged
        found = through_all_blocks(model, calibration, ragged=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(alone(model, calibration), expected, rtol=0, atol=0)


@torch.no_grad()
def test_a_model_that_mixes_tokens_elsewhere_is_left_alone():
    model = small("llama")
    mlp = model.model.layers[1].mlp
    inner = mlp.forward
    mlp.forward = lambda x: inner(x) + inner(x).roll(1, dims=-2)
    with attention_of(model) as ragged:
        assert not ragged
        assert model.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_other_attention_is_left_alone():
    model = small("llama")
    model.set_attn_implementation("eager")
    with attention_of(model) as ragged:
        assert not ragged
    assert model.config._attn_implementation == "eager"


@torch.no_grad()
def test_learned_positions_start_at_each_sample():
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32
    )
    model, calibration = OPTForCausalLM(config).eval(), random_calibration(LENGTHS)
    model.model.decoder.embed_positions.weight.mul_(20)
    expected = alone(model, calibration)
    with attention_of(model) as ragged:
        found = through_all_blocks(model, calibration, ragged=ragged)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_model_gets_its_attention_back_after_an_error():
    model = small("llama")
    with pytest.raises(KeyError), attention_of(model):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"
