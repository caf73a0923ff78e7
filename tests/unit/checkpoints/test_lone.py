"""Declarations that lie beside config.json alone say what they would say in it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from quantgate.checkpoints.audit import whole_audit
from quantgate.checkpoints.findings import ERROR, FACT
from quantgate.core.errors import ModelError
from quantgate.models.digest import digest_model
from tests.unit.checkpoints.test_inputs import checkpoint, modelopt_fp8, modelopt_nvfp4, opened
from tests.unit.checkpoints.test_inspection import DATA, REFERENCE

GPTQ = "quantize_config.json"
AWQ = "quant_config.json"
MODELOPT = "hf_quant_config.json"


def autogptq(config):
    return {name: config[name] for name in ("bits", "group_size", "sym", "desc_act")} | {"static_groups": False}


def autoawq(config):
    return {"zero_point": not config["sym"], "q_group_size": config["group_size"], "w_bit": 4, "version": "GEMM"}


def modelopt(config):
    inner = {name: value for name, value in config.items() if name != "quant_method"}
    return {"producer": {"name": "modelopt", "version": "0.29.0"}, "quantization": inner}


def moved(path, name, content):
    """The declaration of ``path`` as another tool would have written it, and where."""
    config = json.loads((path / "config.json").read_text())
    (path / GPTQ).unlink(missing_ok=True)
    (path / name).write_text(json.dumps(content(config.pop("quantization_config"))))
    (path / "config.json").write_text(json.dumps(config))
    return path


def copied(source, target):
    path = shutil.copytree(source, target)
    for file in REFERENCE.glob("*token*.json"):
        shutil.copyfile(file, path / file.name)
    return path


def made(kind, path):
    if kind == "fp8":
        return checkpoint(path, modelopt_fp8, {"quant_algo": "FP8", "exclude_modules": ["lm_head"]})
    if kind == "nvfp4":
        return checkpoint(
            path, modelopt_nvfp4, {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}
        )
    return copied(DATA / kind, path)


FORMS = [
    ("gptq_act", GPTQ, autogptq),
    ("gptq_v1", GPTQ, lambda config: autogptq(config) | {"quant_method": "gptq", "model_name_or_path": None}),
    ("ar_auto_round_auto_awq", AWQ, autoawq),
    ("ar_auto_round_auto_awq", GPTQ, autoawq),
    ("fp8", MODELOPT, modelopt),
    ("nvfp4", MODELOPT, modelopt),
]


@pytest.mark.parametrize(("kind", "name", "content"), FORMS)
def test_it_is_unpacked_as_if_config_json_said_so(kind, name, content, tmp_path):
    there = opened(made(kind, tmp_path / "there"), tmp_path)
    beside = opened(moved(made(kind, tmp_path / "beside"), name, content), tmp_path)
    theirs = {}
    for file in sorted(beside.path.glob("*.safetensors")):
        theirs |= load_file(file)
    with torch.no_grad():
        ours = there.loader(there.path, "there", "float32", "cpu")
        found = beside.loader(beside.path, "beside", "float32", "cpu")
        tokens = torch.arange(3, 40)[None]
        assert torch.equal(found(input_ids=tokens).logits, ours(input_ids=tokens).logits)
    assert not torch.equal(
        theirs["model.layers.0.mlp.up_proj.weight"].float(),
        load_file(REFERENCE / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].float(),
    )
    assert beside.foreign == there.foreign == ()
    fields = ("bits_nominal", "activation_bits", "quantized_modules")
    assert [getattr(beside.record, field) for field in fields] == [getattr(there.record, field) for field in fields]


@pytest.mark.parametrize(("kind", "name", "content"), FORMS)
def test_the_audit_says_where_it_was_declared(kind, name, content, tmp_path):
    found = whole_audit(moved(made(kind, tmp_path / "beside"), name, content), REFERENCE, "mine")
    assert [each.sentence for each in found.of_level(ERROR)] == []
    assert [each.sentence for each in found.of_level(FACT) if each.code == "declared_beside"] == [
        f"config.json declares no quantization; {name} does, which transformers does not read"
    ]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        (GPTQ, {"bits": 4, "group_size": 32, "rotation": "hadamard"}, f"{GPTQ}: rotation is 'hadamard'"),
        (GPTQ, {"group_size": 32}, f"{GPTQ} declares a quantization"),
        (AWQ, {"w_bit": 3, "q_group_size": 32, "zero_point": True}, f"{AWQ}: bits is 3"),
        (MODELOPT, {"quantization": {"quant_algo": "W4A8_AWQ"}}, f"{MODELOPT}: quant_algo 'W4A8_AWQ'"),
        (MODELOPT, {"quantization": {"quant_algo": None}}, f"{MODELOPT} declares a quantization"),
        (MODELOPT, {"quantization": ["FP8"]}, f"{MODELOPT} declares a quantization"),
        ("quantization_config.json", {"bits": 4, "group_size": 32}, "quantization_config.json declares"),
    ],
)
def test_what_it_may_say_is_what_config_json_may_say(name, content, word, tmp_path):
    path = moved(made("gptq_act", tmp_path / "theirs"), name, lambda _: content)
    with pytest.raises(ModelError, match=word):
        opened(path, tmp_path)


def test_two_of_them_are_one_too_many(tmp_path):
    path = moved(made("gptq_act", tmp_path / "theirs"), GPTQ, autogptq)
    (path / AWQ).write_text(json.dumps({"w_bit": 4, "q_group_size": 32, "zero_point": True}))
    with pytest.raises(ModelError, match="declares a quantization"):
        opened(path, tmp_path)


@pytest.mark.parametrize("name", [GPTQ, AWQ])
def test_one_that_was_left_behind_beside_plain_weights(name, tmp_path):
    path = copied(REFERENCE, tmp_path / "theirs")
    (path / name).write_text(json.dumps({"bits": 4, "group_size": 32}))
    with pytest.raises(ModelError, match="delete it if the weights are plain"):
        opened(path, tmp_path)


def test_wrong_bits_beside_right_codes(tmp_path):
    path = moved(made("gptq_act", tmp_path / "theirs"), GPTQ, lambda config: autogptq(config) | {"bits": 8})
    with pytest.raises(ModelError):
        opened(path, tmp_path)


@pytest.mark.parametrize("name", [GPTQ, AWQ, MODELOPT])
def test_what_it_says_is_part_of_the_digest(name, tmp_path):
    path = made("gptq_act", tmp_path / "theirs")
    before = digest_model(path, "theirs").loaded
    (path / name).write_text(json.dumps({"bits": 4}))
    assert digest_model(path, "theirs").loaded != before


@pytest.mark.parametrize(
    ("kind", "name", "content", "word"),
    [
        ("fp8", MODELOPT, {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}, "keys and values"),
        ("fp8", MODELOPT, {"quantization": {"quant_algo": "NVFP4"}}, "quant_algo is 'FP8'"),
        ("ar_auto_round_auto_awq", AWQ, {"w_bit": 8, "q_group_size": 32, "zero_point": False}, "bits is 4"),
        ("ar_auto_round_auto_awq", AWQ, {"w_bit": 4, "q_group_size": 128, "zero_point": False}, "group_size is 32"),
        ("gptq_act", GPTQ, {"bits": 8, "group_size": 32}, "bits is 4"),
    ],
)
def test_what_contradicts_config_json_in_words_of_its_own(kind, name, content, word, tmp_path):
    path = made(kind, tmp_path / "theirs")
    (path / name).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=rf"{word}.* in config.json and .* in {name}"):
        opened(path, tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "content", "word"),
    [
        ("fp8", MODELOPT, {"quantization": {"quant_algo": "FP8"}, "kv_cache_quant_algo": "FP8"}, "outside quant"),
        ("fp8", MODELOPT, {"quantization": {"quant_algo": ["FP8"]}}, "quant_algo"),
        ("nvfp4", MODELOPT, {"quantization": {"quant_algo": "NVFP4", "group_size": 32}}, "group_size is 32"),
        ("ar_auto_round_auto_awq", AWQ, {"bits": 8, "w_bit": 4, "q_group_size": 32}, "w_bit is 4, bits is 8"),
    ],
)
def test_what_no_runtime_would_read_so(kind, name, content, word, tmp_path):
    path = moved(made(kind, tmp_path / "theirs"), name, lambda _: content)
    with pytest.raises(ModelError, match=word):
        opened(path, tmp_path)


def test_a_number_beyond_all_bounds_is_one_sentence(tmp_path):
    path = moved(made("gptq_act", tmp_path / "theirs"), GPTQ, lambda _: {})
    (path / GPTQ).write_text('{"bits": 4, "group_size": 1e400, "desc_act": true}')
    with pytest.raises(ModelError, match="OverflowError"):
        whole_audit(path, REFERENCE, "theirs")


def test_two_that_agree_each_in_its_words(tmp_path):
    path = made("fp8", tmp_path / "theirs")
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"]["kv_cache_scheme"] = {"num_bits": 8, "type": "float", "dynamic": False}
    (path / "config.json").write_text(json.dumps(config))
    inner = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    (path / MODELOPT).write_text(json.dumps({"producer": {}, "quantization": inner}))
    assert opened(path, tmp_path).record.cache_bits == 8


@pytest.mark.parametrize(("sym", "codes"), [(True, ["claimed_symmetric"]), (False, [])])
def test_zero_points_of_their_own_under_sym(sym, codes, tmp_path):
    path = moved(
        made("gptq_v2_asym", tmp_path / "theirs"), GPTQ,
        lambda config: autogptq(config) | {"checkpoint_format": "gptq_v2", "sym": sym},
    )  # fmt: skip
    assert [each.code for each in whole_audit(path, REFERENCE, "mine").of_level(ERROR)] == codes
