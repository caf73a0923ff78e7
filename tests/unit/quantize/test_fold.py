import copy
from functools import partial

import pytest
import torch
from transformers import GemmaConfig, GemmaForCausalLM, OPTConfig, OPTForCausalLM

from quantgate.models.layers import decoder_blocks, observe_stages
from quantgate.quantize.sweep.batches import capture, run_block
from quantgate.quantize.transforms.fold import apply, find_folds
from tests.unit.conftest import tiny_llama


def folds_of(model, index=0):
    blocks = decoder_blocks(model, "test")
    probe = capture(model, blocks, torch.zeros(1, 2, dtype=torch.int64), None)
    torch.manual_seed(1)
    probe.hidden = torch.randn(probe.hidden.shape).to(probe.hidden)
    run = partial(run_block, blocks[index], probe, index)
    with torch.no_grad():
        return find_folds(blocks[index], observe_stages(blocks[index], run, "test"), run)


def sources(model):
    return [(fold.stage.names[0].split(".")[-1], fold.source.split(".")[-1]) for fold in folds_of(model)]


def test_llama_has_a_fold_point_before_every_stage():
    assert sources(tiny_llama()) == [
        ("q_proj", "input_layernorm"),
        ("o_proj", "v_proj"),
        ("gate_proj", "post_attention_layernorm"),
        ("down_proj", "up_proj"),
    ]


def test_grouped_heads_share_the_scales_of_their_value_channels():
    """One key head of 32 channels feeds three query heads: input channel i follows value channel i mod 32."""
    fold = folds_of(tiny_llama())[1]
    assert fold.channels.tolist() == [channel % 32 for channel in range(96)]
    assert fold.size == 32
    assert torch.equal(fold.pooled(torch.arange(96.0)), torch.arange(32.0) + 32)
    assert torch.equal(fold.largest(torch.arange(96.0)), torch.arange(32.0) + 64)


def test_opt_with_biases_and_relu():
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32
    )
    model = OPTForCausalLM(config).to(torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    assert sources(model) == [
        ("q_proj", "self_attn_layer_norm"),
        ("out_proj", "v_proj"),
        ("fc1", "final_layer_norm"),
        ("fc2", "fc1"),
    ]
    check_equivalence(model, rtol=1e-4)


def test_a_norm_that_adds_one_to_its_weight_is_no_fold_point():
    torch.manual_seed(0)
    config = GemmaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    model = GemmaForCausalLM(config).eval()
    assert sources(model) == [("o_proj", "v_proj"), ("down_proj", "up_proj")]


def test_a_norm_that_feeds_something_else_is_no_fold_point():
    model = tiny_llama()
    layer = model.model.layers[0]
    inner = layer.mlp.forward
    layer.mlp.forward = lambda x: inner(x) + x.tanh()
    assert ("gate_proj", "post_attention_layernorm") not in sources(model)


def check_equivalence(model, rtol):
    """Random scales at every fold point of every block; the logits are those of the untouched model."""
    ids = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(3))
    scaled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for index in range(len(decoder_blocks(scaled, "test"))):
            for fold in folds_of(scaled, index):
                apply(fold, torch.empty(fold.size).uniform_(0.1, 10, generator=generator), {})
        before, after = model(ids).logits, scaled(ids).logits
    changed = [name for name, p in scaled.named_parameters() if not torch.equal(p, model.get_parameter(name))]
    assert len(changed) >= 6 * model.config.num_hidden_layers
    torch.testing.assert_close(after, before, rtol=rtol, atol=rtol * float(before.abs().max()))


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-6), (torch.bfloat16, 0.03)])
def test_the_scaled_model_is_the_original(dtype, rtol):
    check_equivalence(tiny_llama().to(dtype), rtol)


def test_two_folds_into_one_layer_round_it_once():
    model = tiny_llama()
    folds = folds_of(model)
    original = model.model.layers[0].self_attn.v_proj.weight.float()
    first, second = torch.rand(96) + 0.5, torch.rand(32) + 0.5
    masters = {}
    apply(folds[0], first, masters)
    apply(folds[1], second, masters)
    expected = original * first / second.unsqueeze(1)
    name = "model.layers.0.self_attn.v_proj"
    torch.testing.assert_close(masters[name], expected, rtol=1e-6, atol=0)
    assert torch.equal(model.get_submodule(name).weight, masters[name].to(torch.bfloat16))
