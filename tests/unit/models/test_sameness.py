"""A subject's config.json may differ from the reference's in notes, not in anything that is computed with."""

from __future__ import annotations

import json
import shutil

import pytest
import transformers as hf

from quantgate.models.sameness import configuration_problems, differing_fields, spelt_twice

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.fixture
def pair(tiny_model, tmp_path):
    """The tiny model, and a function that makes a second one with other entries in its config.json."""

    def changed(**changes):
        path = tmp_path / "other"
        shutil.copytree(tiny_model, path, dirs_exist_ok=True)
        content = json.loads((tiny_model / "config.json").read_text())
        content = {name: value for name, value in {**content, **changes}.items() if value != "absent"}
        (path / "config.json").write_text(json.dumps(content))
        return tiny_model, path

    return changed


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transformers_version": "4.30.0", "_name_or_path": "elsewhere", "torch_dtype": "float16", "dtype": "absent"},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}, "use_cache": False, "attention_dropout": 0.1},
        {"eos_token_id": [1, 2], "bos_token_id": None, "pad_token_id": 7, "initializer_range": 1.0},
        {"rope_parameters": "absent", "rope_theta": 10000.0, "rope_scaling": None},  # transformers 4's spelling
        {"head_dim": "absent", "attention_bias": "absent"},  # the class has the same values
        {"made_by": "some tool", "sliding_window": 4},  # Llama's code knows no such thing
        {"tie_word_embeddings": False},  # a quantized head is stored by itself
    ],
)
def test_notes_and_other_spellings_are_no_difference(pair, changes):
    assert differing_fields(*pair(**changes)) == []


def test_a_head_of_its_own_may_not_become_tied(pair, tmp_path):
    ours, theirs = pair(tie_word_embeddings=False)
    assert differing_fields(theirs, ours) == ["tie_word_embeddings True instead of False"]
    assert differing_fields(theirs, theirs) == []


def test_an_entry_set_to_nothing_is_no_difference(pair):
    assert differing_fields(*pair(head_dim=None, rope_scaling=None, sliding_window=None)) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps 0.001 instead of 1e-06"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' instead of 'silu'"),
        ({"rope_parameters": {**PLAIN, "rope_theta": 5e5}}, "rope_parameters.rope_theta 500000.0 instead of 10000.0"),
        ({"rope_parameters": {**PLAIN, "rope_type": "linear", "factor": 2.0}}, "rope_parameters.factor 2.0"),
        ({"max_position_embeddings": 4096}, "max_position_embeddings 4096 instead of 512"),
        ({"num_key_value_heads": 4}, "num_key_value_heads 4 instead of 2"),
        ({"num_key_value_groups": 3}, "num_key_value_groups 3 instead of None"),  # no field, but a word of the code
    ],
)
def test_what_changes_the_computation_is_named(pair, changes, found):
    assert any(each.startswith(found) for each in differing_fields(*pair(**changes)))


def test_a_head_that_is_tied_again_is_a_difference(pair):
    ours, theirs = pair(tie_word_embeddings=False)
    assert differing_fields(theirs, ours) == ["tie_word_embeddings True instead of False"]


@pytest.mark.parametrize(
    "changes",
    [
        {"final_logit_softcapping": None},
        {"attn_logit_softcapping": 20.0},
        {"sliding_window": 8},
        {"query_pre_attn_scalar": 64},
        {"layer_types": ["full_attention"] * 2},
    ],
)
def test_caps_windows_and_scales_are_compared(tmp_path, changes):
    for name, more in (("ours", {}), ("theirs", changes)):
        hf.Gemma2Config(**{"num_hidden_layers": 2, **more}).save_pretrained(tmp_path / name)
    assert len(differing_fields(tmp_path / "ours", tmp_path / "theirs")) in (1, 2)  # layer_types: one a layer at most


def test_parts_of_a_configuration_are_compared(tmp_path):
    for name, width in (("ours", 512), ("theirs", 256)):
        hf.Gemma3Config(text_config={"sliding_window": width}).save_pretrained(tmp_path / name)
    assert differing_fields(tmp_path / "theirs", tmp_path / "ours") == ["text_config.sliding_window 512 instead of 256"]


def test_a_reason_shows_the_first_few(pair):
    ours, theirs = pair(rms_norm_eps=1e-3, hidden_act="gelu", attention_bias=True, mlp_bias=True)
    (problem,) = configuration_problems(ours, theirs)
    assert problem.startswith("the subject's config.json computes otherwise: attention_bias True instead of False, ")
    assert problem.endswith(" and 1 more")
    assert configuration_problems(ours, ours) == []


def test_an_old_spelling_that_says_something_else_is_named(pair):
    ours, theirs = pair()
    config = json.loads((theirs / "config.json").read_text())
    new = config["rope_parameters"]["rope_theta"]
    for old, found in (
        (new, []),
        (2 * new, [f"rope_theta {2 * new!r} for older runtimes and {new!r} in rope_parameters"]),
    ):
        (theirs / "config.json").write_text(json.dumps(config | {"rope_theta": old}))
        assert spelt_twice(theirs) == found
        assert bool(configuration_problems(ours, theirs)) == bool(found)
