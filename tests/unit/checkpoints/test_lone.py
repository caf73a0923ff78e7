"""Declarations that lie beside config.json alone say what they would say in it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from quantgate.checkpoints.agreement import check_modules
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
        f"no quantization_config in config.json; {name} declares it, which transformers does not read"
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


UP = "model.layers.0.mlp.up_proj"


def with_second(path, name, content, **fields):
    """A second declaration beside config.json's, whose own fields are changed."""
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] |= fields
    (path / "config.json").write_text(json.dumps(config))
    (path / name).write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("kind", "fields", "name", "content"),
    [
        ("fp8", {"exclude_modules": [], "ignore": ["lm_head"]}, MODELOPT, ["lm_head", "model.layers.0.mlp.up*"]),
        ("fp8", {"exclude_modules": ["lm_head", "*.up_proj"]}, MODELOPT, ["lm_head"]),
        ("fp8", {"exclude_modules": ["lm_head", "*.up_proj"]}, MODELOPT, ["up_proj"]),  # a whole name, not a part of it
    ],
)
def test_two_lists_of_modules_that_keep_others(kind, fields, name, content, tmp_path):
    inner = {"quantization": {"quant_algo": "FP8", "exclude_modules": content}}
    path = with_second(made(kind, tmp_path / "theirs"), name, inner, **fields)
    with pytest.raises(ModelError, match=rf"{UP}.* (16 bit|quantized) by .* in config.json, .* in {name}"):
        opened(path, tmp_path)


def test_parts_of_names_against_parts_of_names(tmp_path):
    content = {"w_bit": 4, "q_group_size": 32, "zero_point": False, "modules_to_not_convert": ["k_proj"]}
    path = made("ar_auto_round_auto_awq", tmp_path / "theirs")
    config = json.loads((path / "config.json").read_text())["quantization_config"]
    if config["quant_method"] != "awq":  # AutoRound names its own: take AutoAWQ's words for it
        awq = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": False, "version": "gemm"}
        moved(path, AWQ, lambda _: content)
        whole = json.loads((path / "config.json").read_text()) | {"quantization_config": awq}
        (path / "config.json").write_text(json.dumps(whole))
    with_second(path, AWQ, content, modules_to_not_convert=["v_proj"])
    with pytest.raises(ModelError, match=r"k_proj.* quantized by modules_to_not_convert in config\.json, 16 bit"):
        opened(path, tmp_path)


def test_lists_in_other_words_that_keep_the_same_agree(tmp_path):
    inner = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["*lm_head", "*.nothing_of_the_kind"]}}
    path = with_second(made("fp8", tmp_path / "theirs"), MODELOPT, inner, ignore=["lm_head"])
    assert opened(path, tmp_path).foreign == ()


def test_a_second_list_that_nobody_can_read_is_no_agreement(tmp_path):
    inner = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head", "up"], "rotate": True}}
    path = with_second(made("fp8", tmp_path / "theirs"), MODELOPT, inner)
    with pytest.raises(ModelError, match=r"is not what exclude_modules in config\.json says, and rotate is True"):
        opened(path, tmp_path)


def older(path, **fields):
    """The declaration under the name that it had before transformers knew of any."""
    config = json.loads((path / "config.json").read_text())
    config["compression_config"] = config.pop("quantization_config") | fields
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("method", [None, "compressed_tensors"])
@pytest.mark.parametrize(
    "kind", ["ct_w4a16_gptq", "ct_w4a16_asym", "ct_w8a8", "ct_fp8_dynamic", "ct_nvfp4", "ct_mixed", "ct_w4a16_kv"]
)
def test_compression_config_is_the_same_under_an_older_name(kind, method, tmp_path):
    there = opened(made(kind, tmp_path / "there"), tmp_path)
    path = older(made(kind, tmp_path / "older"), quant_method=method, quantization_status="frozen")
    found = opened(path, tmp_path)
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        ours, theirs = (
            each.loader(each.path, "theirs", "bfloat16", "cpu")(input_ids=tokens).logits for each in (there, found)
        )
    torch.testing.assert_close(theirs, ours, atol=0, rtol=0)
    assert found.foreign == there.foreign == ()
    fields = ("bits_nominal", "activation_bits", "cache_bits", "quantized_modules", "execution")
    assert [getattr(found.record, field) for field in fields] == [getattr(there.record, field) for field in fields]
    said = whole_audit(path, REFERENCE, "mine")
    assert [each.code for each in said.of_level(ERROR)] == []
    assert "declared_beside" in [each.code for each in said.of_level(FACT)]


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"quant_method": "sparseml"}, "quant_method 'sparseml'"), ({"rotate": True}, "rotate is True")],
)
def test_what_compression_config_may_say(fields, word, tmp_path):
    with pytest.raises(ModelError, match=word):
        opened(older(made("ct_w8a8", tmp_path / "theirs"), **fields), tmp_path)


def test_compression_config_beside_one_of_today_has_to_agree(tmp_path):
    path = made("ct_w4a16_gptq", tmp_path / "theirs")
    config = json.loads((path / "config.json").read_text())
    config["compression_config"] = config["quantization_config"] | {"ignore": ["lm_head", "re:.*up_proj"]}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=r"up_proj.* by ignore in config\.json, .* in compression_config in config\.json"
    ):
        opened(path, tmp_path)


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_list_that_one_declaration_alone_has_is_compared_with_nothing(side):
    """The other may leave it to its runtime what stays in 16 bit: no tensor is looked at."""
    listed, silent = {"quant_method": "awq", "modules_to_not_convert": ["lm_head"]}, {"quant_method": "awq"}
    given = {"ours": listed, "theirs": silent} if side == "ours" else {"ours": silent, "theirs": listed}

    def never(*_):
        raise AssertionError("nothing is to be read")

    assert check_modules(**given, read=never, files=never, place="elsewhere.json", who="mine") is None
