"""The roofline against arithmetic by hand, its own paper's statements, and models whose sizes are known."""

import math
import time
from dataclasses import replace

import pytest
import torch
from transformers import BloomConfig, GPT2Config, LlamaConfig, OPTConfig, Phi3Config

from quantgate.core.errors import ModelError
from quantgate.efficiency import hardware
from quantgate.efficiency.architecture import Architecture, Linear, from_config
from quantgate.efficiency.hardware import HARDWARE, Hardware, best_time, measure_machine
from quantgate.efficiency.roofline import (
    Operator,
    Precision,
    Setting,
    cache_bytes,
    decode,
    decode_seconds,
    memory,
    prefill,
    weight_bytes,
)

# two blocks: hidden 8, MLP 12, four query heads and two key-value heads of width 2, ten words
TOY = Architecture(
    layers=2,
    hidden=8,
    intermediate=12,
    heads=4,
    kv_heads=2,
    head_dim=2,
    vocabulary=10,
    embedding=80,
    linears=(
        Linear("q_proj", 8, 8),
        Linear("k_proj", 8, 4, 4),
        Linear("v_proj", 8, 4, 4),
        Linear("o_proj", 8, 8),
        Linear("gate_proj", 8, 12),
        Linear("up_proj", 8, 12),
        Linear("down_proj", 12, 8),
    ),
    tied=True,
    rest=40,
)
A100 = HARDWARE["a100-80g"]
UNIT = Hardware("unit", 1.0, 1.0, 2.0, 1e6)  # one operation and one byte a second: times can be added by hand


def llama(hidden, inner, layers, heads, kv_heads=None, vocabulary=32_000, tied=False):
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads, vocab_size=vocabulary, tie_word_embeddings=tied,
    )  # fmt: skip
    return from_config(config, "llama")


@pytest.fixture(scope="module")
def llama13b():
    return llama(5120, 13_824, 40, 40)


def by_name(done):
    return {operator.name: operator for operator in done.operators}


def test_decode_of_the_toy_by_hand():
    found = by_name(decode(TOY, Setting(batch=3, fused=False), 5, UNIT))
    assert found["q_proj"] == Operator("q_proj", 384, weights=128, load=48, store=48, count=2)
    assert found["k_proj"] == Operator("k_proj", 192, weights=64, load=48, store_cache=24, count=2)
    assert found["down_proj"] == Operator("down_proj", 576, weights=192, load=72, store=48, count=2)
    # 3 sequences x 4 heads x 5 keys = 60 scores; keys: 5 x 2 heads x 2 x 3 sequences x 2 bytes = 120
    assert found["qk"] == Operator("qk", 240, load=48, store=120, load_cache=120, count=2)
    assert found["softmax"] == Operator("softmax", 300, load=120, store=120, count=2)
    assert found["sv"] == Operator("sv", 240, load=120, store=48, load_cache=120, count=2)
    for name in ("attn_norm", "mlp_norm"):
        assert found[name] == Operator(name, 168, load=48, store=48, count=2)
    assert (found["mlp_add"].ops, found["mlp_add"].load, found["mlp_add"].store) == (24, 96, 48)
    assert (found["mlp_act"].ops, found["mlp_act"].load, found["mlp_act"].store) == (72, 144, 72)
    assert found["lm_head"] == Operator("lm_head", 480, weights=160, load=48, store=60)
    assert found["embedding"] == Operator("embedding", 0, weights=48, store=48)


def test_prefill_of_the_toy_by_hand():
    full = by_name(prefill(TOY, Setting(batch=3, fused=False, causal=False), 5, UNIT))
    assert full["q_proj"] == Operator("q_proj", 1920, weights=128, load=240, store=240, count=2)
    assert full["v_proj"].store_cache == 120
    assert (full["qk"].ops, full["qk"].load, full["qk"].store, full["qk"].load_cache) == (1200, 240, 600, 120)
    assert full["softmax"].ops == 1500
    assert full["lm_head"].ops == 480  # logits at the last tokens only
    causal = by_name(prefill(TOY, Setting(batch=3, fused=False), 5, UNIT))
    assert causal["qk"].ops == 1200 * 15 / 25  # 1 + 2 + 3 + 4 + 5 of 5 x 5 pairs
    assert causal["q_proj"] == full["q_proj"]


def test_sums_and_times_by_hand():
    done = decode(TOY, Setting(fused=False), 1, UNIT)
    head = by_name(done)["lm_head"]
    assert (head.ops, head.bytes, head.seconds(UNIT), head.bound(UNIT)) == (160, 160 + 16 + 20, 196, "memory")
    assert done.ops == sum(each.ops * each.count for each in done.operators)
    per_block = sum(each.seconds(UNIT) for each in done.operators if each.count == 2) / 2
    rest = sum(each.seconds(UNIT) for each in done.operators if each.count == 1)
    assert done.seconds(UNIT) == 2 * per_block + rest
    assert decode_seconds(TOY, Setting(), 4, 3, UNIT) == sum(
        decode(TOY, Setting(), keys, UNIT).seconds(UNIT) for keys in (5, 6)
    )


def test_flash_attention_by_hand():
    small = replace(UNIT, on_chip=8.0)  # ceil(8 / (2 bytes x 2)) = 2 rows a block, and no more than head_dim
    fused = by_name(prefill(TOY, Setting(causal=False), 5, small))["attention"]
    assert fused.ops == 2 * (2 * 25 * 4 * 2) + 5 * 25 * 4
    assert (fused.load, fused.store) == (80, 80)  # queries in, values out; no scores
    assert fused.load_cache == 3 * 2 * (5 * 2 * 2 * 2)  # three blocks of queries read keys and values
    assert by_name(decode(TOY, Setting(), 5, small))["attention"].load_cache == 2 * 40
    wider = by_name(prefill(TOY, Setting(precision=Precision(cache=8)), 5, small))["attention"]
    assert wider.load_cache == 3 * 40  # head_dim caps the block at 2 rows: half the bytes, as many readings


def test_memory_of_the_toy_by_hand():
    weights = 2 * (64 + 32 + 32 + 64 + 96 * 3)
    assert TOY.block_weights == weights
    assert TOY.parameters == weights + 80 + 40
    assert weight_bytes(TOY, Precision(weight=4)) == weights / 2 + 120 * 2
    assert weight_bytes(TOY, Precision(stored=4.5), separate_head=True) == weights * 4.5 / 8 + 200 * 2
    assert cache_bytes(TOY, Precision(cache=8), 3, 7) == 2 * 2 * 4 * 3 * 7
    estimate = memory(TOY, Setting(), 5, 2, UNIT)
    assert estimate.activations == sum(
        each.store for each in prefill(TOY, Setting(), 5, UNIT).operators if each.count == 2
    )
    assert estimate.total == estimate.weights + estimate.cache + estimate.activations


def test_a_13b_model_weighs_26_gb_and_is_read_token_by_token_at_memory_speed(llama13b):
    assert weight_bytes(llama13b, Precision()) == pytest.approx(26e9, rel=0.01)
    four, sixteen = Setting(Precision(weight=4)), Setting()
    assert {each.bound(A100) for each in decode(llama13b, sixteen, 256, A100).operators} == {"memory"}
    slow, fast = (decode(llama13b, setting, 256, A100).rate(A100) for setting in (sixteen, four))
    assert 3 < fast / slow < 4
    # 2,048 tokens at once are bound by compute: fewer bytes of weights change nothing there
    long = [by_name(prefill(llama13b, setting, 2048, A100)) for setting in (sixteen, four)]
    for name in (linear.name for linear in llama13b.linears):
        assert long[0][name].bound(A100) == "compute"
        assert long[0][name].seconds(A100) == long[1][name].seconds(A100)
    assert prefill(llama13b, four, 2048, A100).bound(A100) == "compute"


def test_the_int8_peak_needs_all_three(llama13b):
    def rate(**bits):
        return prefill(llama13b, Setting(Precision(**bits)), 2048, A100).rate(A100)

    plain = rate()
    for two in ({"weight": 8, "activation": 8}, {"weight": 8, "cache": 8}):
        assert rate(**two) < 1.2 * plain
    assert rate(activation=8, cache=8) < 1.2 * plain
    assert rate(weight=8, activation=8, cache=8) > 1.7 * plain
    assert Precision(weight=8, activation=8, cache=8, stored=8.1).integer  # scales are no operands


def test_intensity_grows_with_the_batch_and_the_cache_rules_long_contexts(llama13b):
    at = [decode(llama13b, Setting(batch=batch), 256, A100) for batch in (1, 8, 64)]
    intensities = [done.ops / done.bytes for done in at]
    assert intensities == sorted(intensities)
    long = memory(llama13b, Setting(), 60_000, 1, A100)
    assert long.cache > long.weights


def test_qwen_7b_in_16_bit_takes_what_paper_a_measured():
    # 7.72 billion parameters; table 2 of paper A: 15.14 GB at 256 + 512 tokens
    qwen = llama(4096, 11_008, 32, 32, vocabulary=151_936)
    assert memory(qwen, Setting(), 256, 512, A100).total / 2**30 == pytest.approx(15.14, rel=0.03)


@pytest.mark.parametrize(
    ("config", "gated", "intermediate"),
    [
        (LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, head_dim=32, vocab_size=50, tie_word_embeddings=True), True, 96),
        (Phi3Config(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, pad_token_id=1,
                    num_key_value_heads=2, vocab_size=50), True, 96),
        (OPTConfig(hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=50,
                   word_embed_proj_dim=32), False, 96),
        (BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=50, bos_token_id=1, eos_token_id=2), False, 256),
    ],
)  # fmt: skip
def test_architectures_are_read_off_the_model(config, gated, intermediate):
    found = from_config(config, "tiny")
    assert (found.gated, found.intermediate) == (gated, intermediate)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum(linear.cached for linear in found.linears) == 2 * found.kv_heads * found.head_dim


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ModelError, match="weights outside nn"):
        from_config(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, bos_token_id=1, eos_token_id=2), "gpt2")


def test_operations_agree_with_torchs_own_counter():
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50, attn_implementation="eager",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.randint(0, 50, (3, 20)), use_cache=False, logits_to_keep=1)
    done = prefill(from_config(config, "tiny"), Setting(batch=3, fused=False, causal=False), 20, UNIT)
    names = {"norm", "softmax", "embedding", "attn_norm", "mlp_norm", "attn_add", "mlp_add", "mlp_act"}
    products = math.fsum(each.ops * each.count for each in done.operators if each.name not in names)
    rotary = 2 * 20 * 8  # positions times frequencies: no operator of ours, but a product to the counter
    assert counter.get_total_flops() == products + rotary


def test_this_machine_is_measured():
    machine = measure_machine("float32", "cpu", 1 << 24, seconds=0.01)
    assert machine.source == "measured"
    assert 1e8 < machine.bandwidth < 1e13
    assert 1e8 < machine.float_rate < 1e15
    assert machine.int8_rate > 0
    assert machine.peak(True) == machine.int8_rate
    assert machine.ridge == machine.float_rate / machine.bandwidth


def test_a_kernel_that_fills_the_time_is_called_once():
    """Processors without instructions for bf16 take seconds for one product: measuring must not take four of them."""
    calls = []

    def slow():
        calls.append(None)
        time.sleep(0.02)

    assert best_time(slow, lambda: None, seconds=0.01) >= 0.02
    assert len(calls) == 1
    best_time(lambda: calls.append(None), lambda: None, seconds=0.001)
    assert len(calls) >= 5


def test_larger_products_are_not_tried_once_one_fills_the_time(monkeypatch):
    sizes = []

    def taken(call, finish, seconds):
        sizes.append(tuple(call().shape))
        return 1.0

    monkeypatch.setattr(hardware, "best_time", taken)
    assert hardware._float_rate(torch, torch.float32, "cpu", seconds=0.5) == 2.0 * hardware._SIZES[0] ** 3
    assert sizes == [(hardware._SIZES[0], hardware._SIZES[0])]
