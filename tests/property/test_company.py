"""An item alone equals the item in company, for every family of causal language models that loads (tiny, float32).

What cannot be kept apart from its company is refused, and what is answered is the plain forward pass of the item's own
text: with shared prefixes, packed rows, padding, long neighbours and running generations.
"""

from __future__ import annotations

import random

import pytest
import torch
import transformers as hf

from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, Likelihood, Rolling
from quantgate.engines.torch.engine import TorchEngine
from tests.unit.engines.tiny import VOCABULARY, Letters, collect, plain_logprobs

_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.3, "head_dim": 8,
}  # fmt: skip
_GPT = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 0,
    "eos_token_id": 1, "initializer_range": 0.3,
}  # fmt: skip
_WIDE = {"num_key_value_heads": 4}
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_NO_HEAD = {name: value for name, value in _SIZES.items() if name != "head_dim"}
_FULL = {
    name: {**_SIZES, **more}
    for name, more in {
        "apertus": {}, "arcee": {}, "cohere": {}, "cohere2": {"sliding_window": 6}, "exaone4": {"sliding_window": 6},
        "gemma": {}, "gemma2": {"sliding_window": 6}, "gemma3_text": {"sliding_window": 6}, "glm": {}, "glm4": {},
        "granite": {}, "granitemoe": _EXPERTS, "helium": {}, "llama": {}, "ministral": {"sliding_window": 6},
        "mistral": {"sliding_window": 6}, "mixtral": {**_EXPERTS, "sliding_window": 6}, "nemotron": {}, "olmo": {},
        "olmo2": {}, "olmo3": {"sliding_window": 6}, "olmoe": {**_EXPERTS, **_WIDE}, "phi": _WIDE,
        "phi3": {"sliding_window": 6}, "qwen2": {}, "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 16},
        "qwen3": {}, "qwen3_moe": _EXPERTS, "seed_oss": {}, "smollm3": {}, "stablelm": {},
        "starcoder2": {"sliding_window": 6}, "gpt_oss": {**_EXPERTS, "sliding_window": 6},
        "llama4_text": {**_EXPERTS, "attention_chunk_size": 8, "intermediate_size_mlp": 48},
    }.items()
}  # fmt: skip
_OLD = {
    "falcon": {**_NO_HEAD, "new_decoder_architecture": True, "num_kv_heads": 2},
    "gpt_neox": _NO_HEAD, "biogpt": _NO_HEAD, "persimmon": _NO_HEAD, "gpt2": _GPT, "gpt_bigcode": _GPT,
    "codegen": {**_GPT, "rotary_dim": 4}, "gptj": {**_GPT, "rotary_dim": 4}, "bloom": _NO_HEAD,
    "mpt": {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "gpt_neo": {
        **_NO_HEAD, "num_layers": 2, "num_heads": 4, "window_size": 6, "attention_types": [[["global", "local"], 1]]
    },
    "opt": {**_NO_HEAD, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "xglm": {"vocab_size": VOCABULARY, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
}  # fmt: skip
FAMILIES = _FULL | _OLD


def model_of(kind):
    torch.manual_seed(7)
    config = hf.CONFIG_MAPPING[kind](**FAMILIES[kind])
    try:
        model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    except ValueError:  # no sdpa
        model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():  # a model of little weights would hide what it sees
            if weight.dim() > 1 and weight.std() < 0.05:
                weight.normal_(0, 0.2)
    return model.eval()


def mixture():
    draw = random.Random(1)

    def tokens(count):
        return tuple(draw.randrange(2, VOCABULARY) for _ in range(count))

    shared = tokens(17)
    contexts = [shared + tokens(draw.randrange(1, 12)) for _ in range(4)]
    scored = [Likelihood(context, tokens(draw.randrange(1, 5))) for context in contexts for _ in range(2)]
    scored += [
        Likelihood(tokens(1), tokens(2)),
        Likelihood(tokens(100), tokens(3)),
        Rolling(tokens(40)),
        Rolling(shared),
    ]
    return [*scored, Generate(shared + tokens(3), 4), Generate(tokens(40), 4), Generate(tokens(2), 4)]


def wanted(model, request):
    if isinstance(request, Generate):
        new = []
        while len(new) < request.max_new_tokens:
            new.append(int(plain_logprobs(model, (*request.prompt, *new, 0))[-1].argmax()))
        return Letters().decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    whole = request.tokens if isinstance(request, Rolling) else request.context + request.continuation
    losses = -plain_logprobs(model, whole).gather(1, torch.tensor(whole[1:])[:, None])[:, 0]
    return losses.tolist() if isinstance(request, Rolling) else -float(losses[len(request.context) - 1 :].sum())


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_company_changes_no_answer(kind):
    model, requests = model_of(kind), mixture()
    answers, _ = collect(TorchEngine(model, Letters(), progress=Silent(), batch_tokens=160), requests)
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(request, Generate):
            assert answer.text == wanted(model, request)
        else:
            found = list(answer.nll) if isinstance(request, Rolling) else answer.logprob
            assert found == pytest.approx(wanted(model, request), abs=1e-4)


REFUSED = {"camembert": {**_NO_HEAD, "is_decoder": True}, "doge": _SIZES}


@pytest.mark.parametrize(("kind", "found"), [("camembert", "counts positions otherwise"), ("doge", "number of keys")])
def test_a_model_that_cannot_be_kept_apart_from_company_is_refused(kind, found, monkeypatch):
    monkeypatch.setitem(FAMILIES, kind, REFUSED[kind])
    with pytest.raises(ModelError, match=found):
        TorchEngine(model_of(kind), Letters(), progress=Silent())


def test_a_stray_window_in_a_configuration_is_none():
    """A Llama config.json with Mistral's ``sliding_window`` left in it: the model's code does not know the entry."""
    torch.manual_seed(7)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**_SIZES, sliding_window=6)).eval()
    requests = mixture()
    answers, _ = collect(TorchEngine(model, Letters(), progress=Silent()), requests)
    assert [answer.logprob for answer in answers[:8]] == pytest.approx(
        [wanted(model, request) for request in requests[:8]], abs=1e-4
    )
