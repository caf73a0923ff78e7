"""Keys and values in FP8 by stored scales: what attention sees, against a forward that rounds them by torch's casts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from compressed_tensors.modeling import kvcache
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama import modeling_llama

from quantgate.checkpoints import static_cache
from quantgate.checkpoints.audit import whole_audit
from quantgate.checkpoints.differences import differences
from quantgate.checkpoints.findings import ERROR, FACT, WARNING
from quantgate.core.errors import ModelError
from quantgate.models.files import tokenizer_files
from quantgate.subjects.candidates import check_candidate, load_candidate, parse_candidate
from tests.unit.checkpoints.test_inputs import TOKENS, checkpoint, modelopt_fp8, modelopt_nvfp4, opened, rounded
from tests.unit.checkpoints.test_inspection import REFERENCE

SCALES = {0: {"k": 0.02, "v": 0.003}, 1: {"k": 0.05, "v": 0.001}}
CALIBRATED = {0: {"k": 0.007, "v": 0.0065}, 1: {"k": 0.0078, "v": 0.0087}}  # by llm-compressor: ct_w4a16_kv
FP8 = {"quant_algo": "FP8", "exclude_modules": ["lm_head"], "kv_cache_quant_algo": "FP8"}
SCHEME = {"num_bits": 8, "type": "float", "dynamic": False}


def by_modelopt(layer, side):
    return f"model.layers.{layer}.self_attn.{side}_proj.{side}_scale"


def by_attention(layer, side):
    return f"model.layers.{layer}.self_attn.{side}_scale"


def with_scales(name=by_modelopt, scales=SCALES, shape=()):
    def change(state):
        for layer, sides in scales.items():
            state |= {name(layer, side): torch.full(shape, scale) for side, scale in sides.items()}

    return change


def answers(subject):
    model = subject.loader(subject.path, "theirs", "float32", "cpu")
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def without_cache(path):
    config = json.loads((path / "config.json").read_text())
    for name in ("kv_cache_quant_algo", "kv_cache_scheme"):
        config["quantization_config"].pop(name, None)
    (path / "config.json").write_text(json.dumps(config))
    return path


def by_hand(subject, scales, monkeypatch):
    """The same inputs and weights, keys and values rounded where transformers' own attention takes them."""
    model = subject.loader(subject.path, "theirs", "float32", "cpu")
    model.config._attn_implementation = "eager"
    plain = modeling_llama.eager_attention_forward

    def attention(module, query, key, value, *args, **kwargs):
        sides = scales[module.layer_idx]
        key, value = (rounded(each, sides[side]) * sides[side] for each, side in ((key, "k"), (value, "v")))
        return plain(module, query, key, value, *args, **kwargs)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", attention)
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.mark.parametrize(
    ("make", "config", "change"),
    [
        (modelopt_fp8, FP8, with_scales()),
        (modelopt_fp8, FP8, with_scales(shape=(1,))),
        (modelopt_fp8, {**FP8, "kv_cache_quant_algo": None, "kv_cache_scheme": SCHEME}, with_scales()),
        (modelopt_nvfp4, FP8 | {"quant_algo": "NVFP4"}, with_scales()),
        (modelopt_fp8, FP8 | {"exclude_modules": ["lm_head", "*k_proj"]}, with_scales(by_attention)),
    ],
)  # fmt: skip
def test_the_attention_sees_them_rounded(make, config, change, tmp_path, monkeypatch):
    path = checkpoint(tmp_path / "theirs", make, config, change)
    if "*k_proj" in config["exclude_modules"]:
        give_back(path)
    subject = opened(path, tmp_path)
    found = answers(subject)
    assert (subject.record.cache_bits, subject.foreign) == (8, ())
    plain = opened(without_cache(path), tmp_path / "again")
    expected = by_hand(plain, SCALES, monkeypatch)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    monkeypatch.undo()
    assert float((answers(plain) - found).abs().max()) > 100 * float((found - expected).abs().max())


def give_back(path):
    """The key projections in 16 bit, as the configuration says."""
    state = load_file(path / "model.safetensors")
    ours = load_file(REFERENCE / "model.safetensors")
    for name in [name for name in state if ".k_proj." in name]:
        del state[name]
    state |= {name: each for name, each in ours.items() if ".k_proj." in name}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})


def test_one_scale_for_both_as_autofp8_had_it(tmp_path, monkeypatch):
    def change(state):
        state |= {f"model.layers.{layer}.self_attn.kv_scale": torch.tensor([0.02]) for layer in range(2)}

    path = checkpoint(
        tmp_path / "theirs", modelopt_fp8, {"activation_scheme": "static", "kv_cache_scheme": "static"}, change
    )
    found = answers(opened(path, tmp_path))
    plain = opened(without_cache(path), tmp_path / "again")
    both = {layer: {"k": 0.02, "v": 0.02} for layer in range(2)}
    torch.testing.assert_close(found, by_hand(plain, both, monkeypatch), atol=2e-5, rtol=1e-4)


def test_without_scales_it_is_one_as_vllm_takes_it(tmp_path):
    ones = checkpoint(
        tmp_path / "ones", modelopt_fp8, FP8, with_scales(scales={layer: {"k": 1.0, "v": 1.0} for layer in range(2)})
    )
    none = checkpoint(tmp_path / "none", modelopt_fp8, FP8)
    assert torch.equal(answers(opened(ones, tmp_path)), answers(opened(none, tmp_path)))


def test_scales_that_nothing_declares_change_nothing(tmp_path):
    config = {name: value for name, value in FP8.items() if "cache" not in name}
    there = opened(checkpoint(tmp_path / "there", modelopt_fp8, config, with_scales()), tmp_path)
    none = opened(checkpoint(tmp_path / "none", modelopt_fp8, config), tmp_path)
    assert torch.equal(answers(there), answers(none))
    assert there.record.cache_bits == 16


def test_the_audit_has_nothing_against_them(tmp_path):
    path = checkpoint(tmp_path / "theirs", modelopt_fp8, FP8, with_scales(scales=CALIBRATED))
    found = whole_audit(path, REFERENCE, "theirs")
    assert [each.sentence for level in (ERROR, WARNING) for each in found.of_level(level)] == []


@pytest.mark.parametrize("scale", [0.0, -0.02, float("nan"), float("inf")])
def test_a_scale_that_is_none(scale, tmp_path):
    path = checkpoint(tmp_path / "theirs", modelopt_fp8, FP8, with_scales(scales={0: {"k": scale}}))
    with pytest.raises(ModelError, match="expected a number above 0"):
        opened(path, tmp_path)


@pytest.mark.parametrize(
    ("stored", "word"),
    [
        ({"model.layers.7.self_attn.k_proj.k_scale": 0.1}, "belongs to no attention layer"),
        ({"a.self_attn.k_proj.k_scale": 0.1, "a.self_attn.k_scale": 0.1}, "a second scale of k"),
        ({"a.self_attn.k_scale": 0.1, "a.self_attn.kv_scale": 0.1}, "a second scale of k"),
    ],
)
def test_scales_that_fit_nowhere(stored, word):
    with pytest.raises(ModelError, match=word):
        static_cache.scales_of(["a.self_attn.k_proj.weight", "a.self_attn.v_proj"], stored, "theirs")


def test_no_attention_by_the_usual_names():
    with pytest.raises(ModelError, match="no layers k_proj"):
        static_cache.scales_of(["a.kv_b_proj.weight"], {}, "theirs")


def test_more_than_one_scale_a_layer(tmp_path):
    path = checkpoint(tmp_path / "theirs", modelopt_fp8, FP8, with_scales(shape=(2,)))
    with pytest.raises(ModelError, match="2 scales"):
        opened(path, tmp_path)


def test_a_layer_the_model_does_not_have():
    model = AutoModelForCausalLM.from_pretrained(REFERENCE)
    with pytest.raises(ModelError, match="an attention layer of the model"):
        static_cache.install(model, {"model.layers.9.self_attn": {"k": 1.0, "v": 1.0}}, "theirs")


def test_alone_as_in_company(tmp_path):
    from tests.unit.engines.test_engine import assert_like_plain, collect, engine_of, few_shot

    subject = opened(checkpoint(tmp_path / "theirs", modelopt_fp8, FP8, with_scales()), tmp_path)
    model = subject.loader(subject.path, "theirs", "float32", "cpu")
    requests = few_shot(seed=64)
    answers, _ = collect(engine_of(model, batch_tokens=64), requests)
    assert_like_plain(model, requests, answers)


@pytest.mark.parametrize("side", ["k", "v"])
def test_one_side_alone_is_nothing_to_guess(side, tmp_path):
    scales = {layer: {side: sides[side]} for layer, sides in SCALES.items()}
    path = checkpoint(tmp_path / "theirs", modelopt_fp8, FP8, with_scales(scales=scales))
    with pytest.raises(ModelError, match=f"candidate 'theirs': .*0.self_attn has a scale of {side} alone"):
        opened(path, tmp_path)


def audited(path, level):
    found = whole_audit(path, REFERENCE, "theirs").of_level(level)
    return [each.sentence for each in found if each.code == "cache_scales"]


@pytest.mark.parametrize(
    ("scales", "level", "word"),
    [
        ({0: SCALES[0]}, WARNING, "for model.layers.1.self_attn: 1 is taken"),
        ({}, FACT, "model.layers.0.self_attn, model.layers.1.self_attn: 1 is taken"),
        ({0: {"k": float("nan"), "v": 1.0}}, ERROR, "k_scale is nan"),
        ({7: SCALES[0]}, ERROR, "belongs to no attention layer"),
        ({0: {"k": 0.1}}, ERROR, "a scale of k alone"),
    ],
)
def test_the_audit_says_what_is_stored_of_them(scales, level, word, tmp_path):
    path = checkpoint(tmp_path / "theirs", modelopt_fp8, FP8, with_scales(scales=scales))
    (sentence,) = audited(path, level)
    assert word in sentence
    assert audited(checkpoint(tmp_path / "whole", modelopt_fp8, FP8, with_scales()), level) == []


def test_two_checkpoints_that_differ_in_stored_scales_alone(tmp_path):
    def inputs(state):
        with_scales()(state)
        state["model.layers.0.mlp.up_proj.input_scale"] = torch.tensor([0.1])

    exchanged = {0: SCALES[1], 1: SCALES[0]}
    first = checkpoint(tmp_path / "first", modelopt_fp8, FP8, with_scales())
    second = checkpoint(tmp_path / "second", modelopt_fp8, FP8, with_scales(scales=exchanged))
    third = checkpoint(tmp_path / "third", modelopt_fp8, FP8, inputs)
    assert differences(first, first, None) == []
    found = differences(first, second, None)
    assert (found[0].what, found[0].first, found[0].second) == (by_modelopt(0, "k"), "[0.02]", "[0.05]")
    assert len(found) == 4
    assert [(row.what, row.second) for row in differences(first, third, None)] == [
        ("model.layers.0.mlp.up_proj.input_scale", "[0.1]")
    ]


SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 32,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8}),  # it would go on in 16 bit
        ("gpt_neo", {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}),
        ("codegen", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 32}),
        ("minimax", {"num_local_experts": 2}),
    ],
)
def test_attention_that_does_not_hand_them_over_is_refused(kind, changes):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | changes)).eval()
    scales = static_cache.scales_of(model.state_dict(), {}, "theirs")
    with pytest.raises(ModelError, match="theirs: its attention does not take keys and values"):
        static_cache.install(model, {layer: {"k": 1.0, "v": 1.0} for layer in scales}, "theirs")


@pytest.mark.parametrize(
    ("kind", "changes"), [("phi3", {}), ("mistral", {"sliding_window": 8}), ("opt", {"ffn_dim": 32})]
)
def test_a_token_is_rounded_once_however_it_comes(kind, changes):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | changes)).eval()
    tokens = torch.randint(1, 32, (1, 24))
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        scales = static_cache.scales_of(model.state_dict(), {}, "theirs")
        static_cache.install(model, {layer: {"k": 0.011, "v": 0.0007} for layer in scales}, "theirs")
        whole = model(input_ids=tokens, use_cache=False).logits
        parts, cache = [], None
        for part in tokens.split([10, 1, 1, 12], 1):
            found = model(input_ids=part, past_key_values=cache, use_cache=True)
            parts, cache = [*parts, found.logits], found.past_key_values
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)
    assert float((before - whole).abs().max()) > 1e-4


def test_what_transformers_loads_is_seen_to_be_rounded_too(monkeypatch):
    place = REFERENCE.parent / "ct_w4a16_kv"
    load_candidate(place, "theirs", "float32", "cpu")
    monkeypatch.setattr(kvcache.QuantizedKVCache, "__call__", lambda cache, key, value, *_: (key, value))
    with pytest.raises(ModelError, match="'theirs': its attention does not take keys and values in 8 bit"):
        load_candidate(place, "theirs", "float32", "cpu")


def test_a_model_without_any_attention_that_rounds():
    model = AutoModelForCausalLM.from_pretrained(REFERENCE)
    with pytest.raises(ModelError, match="keys and values in 8 bit"):
        static_cache.check_taken(model, "theirs")


def test_an_attention_that_hands_over_something_else_is_refused_in_a_sentence(monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(REFERENCE)
    scales = {"model.layers.0.self_attn": {"k": 1.0, "v": 1.0}}
    cache = "model.layers.0.self_attn.kv_cache"
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: model.get_submodule(cache)(None, None, 0))
    with pytest.raises(ModelError, match="its attention does not take keys and values in 8 bit"):
        static_cache.install(model, scales, "theirs")


def asked_first(path):
    """What a run asks of a candidate before anything is loaded."""
    check_candidate(parse_candidate(f"theirs={path}"), REFERENCE)


@pytest.mark.parametrize(
    ("scales", "word"),
    [
        ({0: {"k": 0.0, "v": 1.0}}, "k_scale is 0"),
        ({0: {"k": float("nan"), "v": 1.0}}, "k_scale is nan"),
        ({0: {"v": -1.0, "k": 1.0}}, "v_scale is -1"),
        ({7: SCALES[0]}, "belongs to no attention layer"),
        ({0: {"k": 0.1}}, "a scale of k alone"),
    ],
)
def test_scales_that_are_none_are_refused_before_a_run(scales, word, tmp_path):
    asked_first(checkpoint(tmp_path / "whole", modelopt_fp8, FP8, with_scales()))
    with pytest.raises(ModelError, match=f"candidate 'theirs'.*{word}"):
        asked_first(checkpoint(tmp_path / "theirs", modelopt_fp8, FP8, with_scales(scales=scales)))


def changed(source, name, how, target):
    """A kept checkpoint with one tensor changed, or without it; the reference's tokenizer beside it."""
    path = shutil.copytree(source if isinstance(source, Path) else REFERENCE.parent / source, target)
    for file in [*tokenizer_files(REFERENCE), REFERENCE / "generation_config.json"]:
        shutil.copyfile(file, path / file.name)
    state = load_file(path / "model.safetensors")
    if how is None:
        del state[name]
    else:
        state[name] = how(state[name])
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize(
    ("how", "word"),
    [
        (torch.zeros_like, "k_scale is 0"), (torch.neg, "k_scale is -0.007"), (None, "a scale of v alone"),
        (lambda scale: torch.stack([scale, scale * float("nan")]), "k_scale is nan"),
    ],
)  # fmt: skip
def test_scales_that_transformers_would_take_as_they_are(how, word, tmp_path):
    """compressed-tensors' own: a scale of zero gave answers as good as any."""
    path = changed("ct_w4a16_kv", by_attention(0, "k"), how, tmp_path / "theirs")
    with pytest.raises(ModelError, match=f"candidate 'theirs'.*{word}"):
        asked_first(path)
    assert any(word in sentence for sentence in audited(path, ERROR))


def test_compressed_scales_that_are_not_there_at_all(tmp_path):
    path = changed("ct_w4a16_kv", by_attention(0, "k"), None, tmp_path / "half")
    path = changed(path, by_attention(0, "v"), None, tmp_path / "theirs")
    with pytest.raises(ModelError, match=r"no scales of keys and values for model\.layers\.0\.self_attn"):
        asked_first(path)


def test_the_audit_has_nothing_against_compressed_ones(tmp_path):
    place = changed("ct_w4a16_kv", by_attention(0, "k"), lambda scale: scale, tmp_path / "theirs")
    asked_first(place)
    assert [each.code for each in whole_audit(place, REFERENCE, "x").of_level(WARNING)] == []


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_input_scales_that_are_none_are_refused_before_a_run(value, tmp_path):
    name = "model.layers.0.mlp.up_proj.input_scale"
    path = changed("ct_fp8_static", name, lambda scale: torch.full_like(scale, value), tmp_path / "theirs")
    with pytest.raises(ModelError, match=r"candidate 'theirs': model\.layers\.0\.mlp\.up_proj: an input scale of"):
        asked_first(path)
    ours = checkpoint(tmp_path / "ours", modelopt_fp8, FP8, lambda state: state.update({name: torch.tensor(value)}))
    with pytest.raises(ModelError, match="up_proj: an input scale of"):
        asked_first(ours)
