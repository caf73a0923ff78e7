"""The lists of architectures against what the quantizer finds in the modules themselves."""

import pytest
import torch
import transformers

from quantgate.core.errors import MethodError, ModelError
from quantgate.models.architectures import ONLY_REFERENCE, QUANTIZABLE, check_known, check_quantizable
from quantgate.models.layers import decoder_blocks

SMALL = {"pad_token_id": 0, "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MORE = {
    "GPT2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "Bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "GPTJ": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "Mixtral": SMALL | {"num_key_value_heads": 4, "intermediate_size": 48, "num_local_experts": 2},
    "Qwen3Moe": SMALL | {"num_key_value_heads": 4, "moe_intermediate_size": 48, "num_experts": 2},
    "GptOss": SMALL | {"num_key_value_heads": 4, "intermediate_size": 48, "num_local_experts": 2, "head_dim": 8},
    "Mamba": {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2},
}
USUAL = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Phi", "Phi3", "OPT", "GPTNeoX", "StableLm", "Olmo2")


def class_of(kind):
    return f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"


@pytest.mark.parametrize("kind", [*USUAL, *MORE])
def test_the_lists_agree_with_the_modules(kind):
    config = getattr(transformers, f"{kind}Config")(**MORE.get(kind, SMALL))
    with torch.device("meta"):
        model = getattr(transformers, class_of(kind))(config)
    if class_of(kind) in QUANTIZABLE:
        assert len(decoder_blocks(model, kind)) == 2
    else:
        assert class_of(kind) in ONLY_REFERENCE
        with pytest.raises(MethodError, match=r"outside nn.Linear"):
            decoder_blocks(model, kind)


def test_no_architecture_is_in_both_lists_and_all_are_known_to_transformers():
    assert not QUANTIZABLE & ONLY_REFERENCE
    assert set(USUAL) <= {name.removesuffix("ForCausalLM") for name in QUANTIZABLE}
    for name in QUANTIZABLE | ONLY_REFERENCE:
        assert hasattr(transformers, name)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"architectures": ["SomebodysForCausalLM"]},
            "SomebodysForCausalLM is unknown; expected one that transformers",
        ),
        ({"architectures": ["LLamaForCausalLM"]}, r"did you mean LlamaForCausalLM\?"),
        ({"architectures": ["XForCausalLM"], "auto_map": {"AutoModel": "x.X"}}, r"needs its own Python code"),
        (
            {"architectures": ["QWenLMHeadModel"], "auto_map": {"AutoModel": "x.X"}},
            "never run.*take a successor that needs none: Qwen2.5 and Qwen3",
        ),
        ({}, "architecture unnamed is unknown"),
    ],
)
def test_what_transformers_cannot_load(config, words):
    with pytest.raises(ModelError, match=words):
        check_known(config, "m")


def test_a_class_in_neither_list_is_left_to_the_loader():
    config = {"architectures": ["YoutuForCausalLM"]}
    assert check_known(config, "m") is check_quantizable(config, "m", ["gptq4"]) is None


def test_the_refusal_lists_what_works():
    with pytest.raises(
        ModelError, match=r"rtn4, rtn8, nf4 and others cannot quantize it.*LlamaForCausalLM.*--candidate"
    ):
        check_quantizable({"architectures": ["GPT2LMHeadModel"]}, "m", ["rtn4", "rtn8", "nf4", "int8"])
