"""An item alone equals the item in company, whatever its rotary tables depend on: its own length decides."""

from __future__ import annotations

import random

import pytest
import torch
import transformers as hf

from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, Likelihood, Rolling
from quantgate.engines.torch.engine import TorchEngine
from quantgate.engines.torch.rope import Regimes
from tests.unit.engines.tiny import VOCABULARY, Letters, collect

HALF, SWITCH = 4, 32
_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1,
    "initializer_range": 0.3, "max_position_embeddings": 96,
}  # fmt: skip
_LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * HALF, "long_factor": [4.0] * HALF,
    "original_max_position_embeddings": SWITCH, "factor": 8.0,
}  # fmt: skip
_OTHERS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": SWITCH},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": SWITCH,
    },
}  # fmt: skip


def phi3(**more):
    return hf.Phi3Config(**_SIZES, original_max_position_embeddings=SWITCH, rope_parameters=dict(_LONG), **more)


CONFIGS = {
    "phi3": phi3,
    "phi3-window": lambda: phi3(sliding_window=9),
    "phimoe": lambda: hf.PhimoeConfig(
        **_SIZES, num_local_experts=2, num_experts_per_tok=1, original_max_position_embeddings=SWITCH,
        rope_parameters={**_LONG, "short_mscale": 1.1, "long_mscale": 1.3},
    ),
    "minicpm-like": lambda: hf.LlamaConfig(**_SIZES, rope_parameters=dict(_LONG)),
    **{
        name: lambda settings=settings: hf.LlamaConfig(**_SIZES, rope_parameters={"rope_theta": 10000.0, **settings})
        for name, settings in _OTHERS.items()
    },
}  # fmt: skip


def fresh(kind):
    """A new model each time: the tables of one that has read something long may have grown."""
    torch.manual_seed(5)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[kind](), dtype=torch.float32).eval()
    if kind == "dynamic":  # so that texts longer than its own length fit the configured context
        model.model.rotary_emb.max_seq_len_cached = model.model.rotary_emb.original_max_seq_len = SWITCH
    return model


def tokens_of(seed, count):
    draw = random.Random(seed)
    return tuple(draw.randrange(2, VOCABULARY) for _ in range(count))


def mixture():
    """Behind one preamble and by themselves, short of the switch, at it, and beyond."""
    shared = tokens_of(0, 20)
    lengths = (3, 8, SWITCH - 20 - 1, SWITCH - 20, SWITCH - 20 + 1, 40)
    contexts = [shared + tokens_of(seed, length) for seed, length in enumerate(lengths, 1)]
    scored = [Likelihood(context, tokens_of(n, n)) for context in contexts for n in (1, 3)]
    segments = [Rolling(tokens_of(50 + n, n)) for n in (9, SWITCH, SWITCH + 1, SWITCH + 2, 70)]
    prompts = [Generate(context, 6) for context in contexts] + [Generate(tokens_of(80, SWITCH - 3), 12)]
    return [*scored, *segments, *prompts]


@torch.no_grad()
def plain(kind, request):
    """The plain forward pass of the item's own text by a model that has read nothing else."""
    if isinstance(request, Generate):
        new = []
        while len(new) < request.max_new_tokens:
            text = torch.tensor([(*request.prompt, *new)])
            new.append(int(fresh(kind)(input_ids=text).logits[0, -1].argmax()))
        return Letters().decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    whole = request.tokens if isinstance(request, Rolling) else request.context + request.continuation
    logprobs = fresh(kind)(input_ids=torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
    losses = -logprobs.gather(1, torch.tensor(whole[1:])[:, None])[:, 0]
    return losses.tolist() if isinstance(request, Rolling) else -float(losses[len(request.context) - 1 :].sum())


@pytest.mark.parametrize("batch_tokens", [96, 4096])
@pytest.mark.parametrize("kind", CONFIGS)
def test_in_company_and_in_any_order_every_item_is_answered_as_alone(kind, batch_tokens):
    requests = mixture()
    order = random.Random(batch_tokens).sample(range(len(requests)), len(requests))
    engine = TorchEngine(fresh(kind), Letters(), progress=Silent(), batch_tokens=batch_tokens)
    answers, _ = collect(engine, [requests[at] for at in order])
    for at, answer in zip(order, answers, strict=True):
        wanted = plain(kind, requests[at])
        if isinstance(requests[at], Generate):
            assert answer.text == wanted
        else:
            found = list(answer.nll) if isinstance(requests[at], Rolling) else answer.logprob
            assert found == pytest.approx(wanted, abs=1e-4)


def test_an_answer_that_grows_over_the_switch_is_read_anew_as_a_whole():
    request = Generate(tokens_of(80, SWITCH - 3), 12)
    (answer,), stats = collect(TorchEngine(fresh("phi3"), Letters(), progress=Silent()), [request])
    assert (answer.text, answer.n_tokens, answer.finish) == (plain("phi3", request), 12, "length")
    assert stats.tokens_generated == 12
    assert stats.tokens_read == SWITCH - 3 + SWITCH + 1


@pytest.mark.parametrize("place", [1, 8])
def test_an_answer_ends_at_its_end_token_on_either_side_of_the_switch(place):
    request = Generate(tokens_of(80, SWITCH - 3), 12)
    letter = plain("phi3", request)[place]
    ended = Generate(request.prompt, 12, ends=(Letters.alphabet.index(letter),))
    (answer,), _ = collect(TorchEngine(fresh("phi3"), Letters(), progress=Silent()), [ended])
    assert answer.text == plain("phi3", request).partition(letter)[0]
    assert answer.finish == "eos"


def test_the_modules_are_as_before_after_a_run():
    model = fresh("phi3")
    collect(TorchEngine(model, Letters(), progress=Silent()), mixture())
    assert "forward" not in vars(model.model.rotary_emb)


def test_only_lengths_that_change_a_table_part_a_run():
    found = {kind: Regimes(fresh(kind)) for kind in CONFIGS}
    assert {kind for kind, regimes in found.items() if regimes.switches} == {
        "phi3", "phi3-window", "phimoe", "minicpm-like", "dynamic"
    }  # fmt: skip
    assert [found["phi3"].of(length)[0] for length in (1, SWITCH, SWITCH + 1, 90)] == [32, 32, 33, 33]
    assert [found["phi3"].reach(length) for length in (1, SWITCH, SWITCH + 1)] == [SWITCH, SWITCH, None]
    assert [found["dynamic"].of(length)[0] for length in (SWITCH, SWITCH + 1, 90)] == [32, 33, 90]
    assert [found["dynamic"].reach(length) for length in (1, 40)] == [SWITCH, 40]
    assert [found["yarn"].of(90), found["yarn"].reach(90)] == [(), None]
