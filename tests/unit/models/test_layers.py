import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from quantgate.core.errors import MethodError
from quantgate.core.progress import Silent
from quantgate.models.layers import decoder_blocks, observe_stages
from quantgate.quantize.algorithms.gptq import Gptq
from quantgate.quantize.algorithms.rtn import Rtn
from quantgate.quantize.settings import GptqSettings, RtnSettings
from quantgate.quantize.sweep.driver import Sweep, capture, run_block
from tests.unit.conftest import random_calibration

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PLAIN = {key: SHAPE[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
LLAMA_STAGES = [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)]
NEOX_STAGES = [("query_key_value",), ("dense",), ("dense_h_to_4h",), ("dense_4h_to_h",)]

SUPPORTED = [
    pytest.param(LlamaConfig(**SHAPE), LLAMA_STAGES, id="llama"),
    pytest.param(MistralConfig(**SHAPE, sliding_window=4), LLAMA_STAGES, id="mistral"),
    pytest.param(Qwen2Config(**SHAPE), LLAMA_STAGES, id="qwen2"),
    pytest.param(Qwen3Config(**SHAPE), LLAMA_STAGES, id="qwen3"),
    pytest.param(Gemma2Config(**SHAPE, sliding_window=4), LLAMA_STAGES, id="gemma2"),
    pytest.param(
        OPTConfig(**PLAIN, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64, bos_token_id=1),
        [("q_proj", "k_proj", "v_proj"), ("out_proj",), ("fc1",), ("fc2",)],
        id="opt",
    ),
    pytest.param(GPTNeoXConfig(**PLAIN, intermediate_size=48, max_position_embeddings=64), NEOX_STAGES, id="neox"),
    pytest.param(
        FalconConfig(**PLAIN, bos_token_id=1, eos_token_id=2),
        [("query_key_value", "dense_h_to_4h"), ("dense",), ("dense_4h_to_h",)],  # parallel attention and feed-forward
        id="falcon",
    ),
]


def make(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(("config", "expected"), SUPPORTED)
def test_stages_are_found(config, expected):
    model = make(config)
    blocks = decoder_blocks(model, "test")
    assert len(blocks) == 3
    batch = capture(model, blocks, torch.ones(1, 2, dtype=torch.int64), None)
    stages = observe_stages(blocks[1], lambda: run_block(blocks[1], batch, 1), "test")
    assert [tuple(name.rpartition(".")[2] for name in stage.names) for stage in stages] == expected
    assert {name for stage in stages for name in stage.names} == set(blocks[1].linears)


@pytest.mark.parametrize(("config", "expected"), SUPPORTED)
def test_block_by_block_is_the_models_forward(config, expected):
    """Masks, windows and position embeddings of every block are captured as the model would pass them."""
    model = make(config)
    blocks = decoder_blocks(model, "test")
    ids = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    seen = []

    def keep(_, __, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = blocks[-1].module.register_forward_hook(keep)
    with torch.no_grad():
        model(ids)
        handle.remove()
        batch = capture(model, blocks, ids, None)
        for index, block in enumerate(blocks):
            batch.hidden = run_block(block, batch, index)
    assert torch.equal(batch.hidden.view_as(seen[0]), seen[0])


@pytest.mark.parametrize(("config", "expected"), SUPPORTED)
def test_every_linear_layer_is_quantized(config, expected):
    model = make(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    results = Sweep(model, Gptq(GptqSettings(4, 16)), "test", Silent()).run(random_calibration([12, 9, 5]))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{name}.weight" for name in results}
    assert len(results) == 3 * sum(len(stage) for stage in expected)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        pytest.param(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64), "attn.c_attn.weight", id="conv1d"),
        pytest.param(MixtralConfig(**SHAPE, num_local_experts=2), "mlp.experts", id="fused-experts"),
    ],
)
def test_matrices_that_would_stay_16_bit_are_refused(config, found):
    config.bos_token_id = config.eos_token_id = None
    with pytest.raises(MethodError, match=f"weights outside nn.Linear.*{found}"):
        Sweep(make(config), Rtn(RtnSettings(4)), "rtn4", Silent())


def test_layer_that_is_not_called_is_refused():
    model = make(LlamaConfig(**SHAPE))
    blocks = decoder_blocks(model, "test")
    batch = capture(model, blocks, torch.ones(1, 2, dtype=torch.int64), None)
    blocks[0].linears["model.layers.0.idle"] = torch.nn.Linear(4, 4)
    with pytest.raises(MethodError, match="idle was called 0 times"):
        observe_stages(blocks[0], lambda: run_block(blocks[0], batch, 0), "test")


def test_forward_is_restored_after_capture():
    model = make(LlamaConfig(**SHAPE))
    blocks = decoder_blocks(model, "test")
    capture(model, blocks, torch.ones(1, 2, dtype=torch.int64), None)
    assert all("forward" not in vars(block.module) for block in blocks)
    assert all(not block.module._forward_hooks for block in blocks)
