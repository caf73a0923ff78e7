"""One test an architecture: its matrices are found, or it is refused by its configuration alone, before any weight."""

import pytest
import torch
import transformers

from quantgate.core.errors import MethodError, ModelError
from quantgate.models.architectures import ONLY_REFERENCE, QUANTIZABLE, check_quantizable
from quantgate.models.layers import decoder_blocks

SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "pad_token_id": 0,
}  # fmt: skip
GPT = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
STATES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
EXPERTS = SMALL | {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2}
ROUTED = EXPERTS | {
    "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    "q_lora_rank": None, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip

FOUND = {
    "fused qkv": {"Phi3": SMALL, "GPTNeoX": SMALL, "Falcon": SMALL, "GPTBigCode": GPT,
                  "CodeGen": GPT | {"rotary_dim": 4},
                  "Bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
                  "Mpt": {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4}},
    "biases": {"Qwen2": SMALL, "OPT": SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32}, "Starcoder2": SMALL,
               "StableLm": SMALL, "Phi": SMALL},
    "sliding windows": {"Mistral": SMALL | {"sliding_window": 4}, "Gemma2": SMALL, "Cohere2": SMALL, "Olmo3": SMALL},
    "norms of queries and keys": {"Qwen3": SMALL, "Olmo2": SMALL},
}  # fmt: skip
REFUSED = {
    "Conv1D": {"GPT2": GPT},
    "experts in one tensor": {
        "Mixtral": SMALL | {"num_local_experts": 2}, "Qwen2Moe": EXPERTS | {"shared_expert_intermediate_size": 48},
        "Qwen3Moe": EXPERTS, "Olmoe": EXPERTS, "FlexOlmo": EXPERTS, "Phimoe": SMALL | {"num_local_experts": 4},
        "GraniteMoe": SMALL | {"num_local_experts": 4}, "GptOss": SMALL | {"num_local_experts": 2, "head_dim": 8},
        "MiniMax": SMALL | {"num_local_experts": 4}, "DeepseekV2": ROUTED, "DeepseekV3": ROUTED, "Glm4Moe": ROUTED,
        "Dots1": ROUTED | {"layer_types": ["full_attention"] * 2},
    },
    "convolutions and states": {
        "Mamba": STATES, "Mamba2": STATES | {"num_heads": 8, "head_dim": 8}, "RecurrentGemma": SMALL, "FalconH1": SMALL,
        "Qwen3Next": EXPERTS,
    },
}  # fmt: skip


def cases(table):
    return [
        pytest.param(kind, config, id=f"{kind}, {why}") for why, row in table.items() for kind, config in row.items()
    ]


def made(kind, config):
    """Of the right modules, without memory for its weights."""
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**config))


@pytest.mark.parametrize(("kind", "config"), cases(FOUND))
def test_its_matrices_are_found(kind, config):
    model = made(kind, config)
    assert type(model).__name__ in QUANTIZABLE
    assert len(decoder_blocks(model, kind)) == 2
    check_quantizable({"architectures": [type(model).__name__]}, kind, ["gptq4"])


@pytest.mark.parametrize(("kind", "config"), cases(REFUSED))
def test_it_is_refused_at_once(kind, config):
    model = made(kind, config)
    assert type(model).__name__ in ONLY_REFERENCE
    with pytest.raises(MethodError, match=r"weights outside nn.Linear"):
        decoder_blocks(model, kind)
    with pytest.raises(ModelError, match="can be a reference, but gptq4 cannot quantize it"):
        check_quantizable({"architectures": [type(model).__name__]}, kind, ["gptq4"])
