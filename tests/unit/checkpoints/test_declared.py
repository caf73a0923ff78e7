"""Every field of a foreign quantization_config is honoured, harmless, or refused by name; none is skipped."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints.declared import read_declared
from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.models.source import resolve_model
from quantgate.quantize.algorithms.bnb import _config as bnb_config
from quantgate.quantize.algorithms.floats import compressed_config
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.numerics.uniform import gptq_layout_config
from quantgate.store.store import Store
from quantgate.subjects.candidates import computed_otherwise, load_candidate, open_candidate, parse_candidate
from quantgate.subjects.make import quantize_checkpoint
from quantgate.subjects.subject import Workshop

GPTQ = gptq_layout_config(bits=4, group_size=128, sym=True)
NF4 = bnb_config(load_in_4bit=True)
FP8 = compressed_config("e4m3")
ARGUMENTS = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": True}
KV8 = {"quant_method": "quantgate", "format": "mixed", "configs": [], "layers": {}, "kv_cache": {"bits": 8}}


def declared(path, config, **beside):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"quantization_config": config} if config else {}))
    for name, content in beside.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return read_declared(path, "theirs")


def in_group(**changes):
    return {**FP8, "config_groups": {"group_0": {**FP8["config_groups"]["group_0"], **changes}}}


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format"),
        ({**GPTQ, "is_marlin_format": True}, "is_marlin_format"),
        ({**GPTQ, "pack_dtype": "int8"}, "pack_dtype"),
        ({**GPTQ, "adapter": {"rank": 8}}, "adapter"),
        ({**GPTQ, "rotation": "hadamard"}, "rotation"),
        ({**GPTQ, "input_activations": ARGUMENTS}, "input_activations"),
        ({**GPTQ, "bits": "4"}, "bits"),
        ({name: value for name, value in GPTQ.items() if name != "bits"}, "no bits"),
        ({name: value for name, value in GPTQ.items() if name != "group_size"}, "no group_size"),
        ({**GPTQ, "dynamic": {"+:.*up": {"rotation": "x"}}}, "rotation"),
        ({**GPTQ, "dynamic": {"+:(": {}}}, "regular expression"),
        ({**NF4, "load_in_8bit": True}, "load_in_8bit"),
        ({**NF4, "load_in_4bit": False}, "load_in_8bit"),
        ({**NF4, "llm_int8_has_fp16_weight": True}, "llm_int8_has_fp16_weight"),
        ({**NF4, "bnb_4bit_quant_type": "af4"}, "bnb_4bit_quant_type"),
        ({**NF4, "kv_cache_scheme": ARGUMENTS}, "kv_cache_scheme"),
        ({**FP8, "kv_cache_scheme": ARGUMENTS}, "kv_cache_scheme"),
        ({**FP8, "transform_config": {"config_groups": {"R1": {}}}}, "transform_config"),
        ({**FP8, "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({**FP8, "moe_sparsity_config": {"method": "prune"}}, "moe_sparsity_config"),
        ({**FP8, "quantization_status": "calibration"}, "quantization_status"),
        ({**GPTQ, "act_bits": 8, "autoround_version": "0.13"}, "act_bits"),
        (in_group(targets=["Embedding"]), "targets"),
        (in_group(rotation=True), "rotation"),
        (in_group(input_activations={**ARGUMENTS, "smoothing": 0.5}), "smoothing"),
        ({**KV8, "kv_cache": {"bits": 8, "residual": 128}}, "residual"),
        ({"quant_method": "quantgate", "format": "hqq", "bits": 4, "group_size": 64, "rotate": True}, "rotate"),
        *(({"quant_method": name, "bits": 4}, name) for name in ("quark", "exl3")),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}, "kv_cache_quant_algo"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"num_bits": 4}}, "kv_cache_scheme"),
        ({"quant_method": "fp8", "kv_cache_scheme": "dynamic"}, "kv_cache_scheme"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "static"}, "static"),
        *(({"quant_method": name, "bits": 4}, "bits is 4") for name in ("fp8", "torchao")),  # no field of theirs
    ],
)
def test_what_would_change_the_answers_is_refused_by_name(config, word, tmp_path):
    with pytest.raises(ModelError, match=word):
        declared(tmp_path, config)


def test_what_says_nothing_is_harmless(tmp_path):
    assert declared(tmp_path, {**GPTQ, "damp_percent": 0.1, "meta": {"quantizer": "x"}, "adapter": None}).bits == 4
    assert declared(tmp_path, {**FP8, "version": "0.9", "sparsity_config": {}, "transform_config": {}}).reader == "own"
    without = {name: value for name, value in GPTQ.items() if name != "sym"}
    assert declared(tmp_path, without).reader == "own"
    assert declared(tmp_path, None).reader == "transformers"


def test_activations_are_left_to_who_computes_them(tmp_path):
    found = declared(tmp_path, in_group(input_activations={**ARGUMENTS, "num_bits": 4}))
    assert (found.reader, found.activation_bits, found.execution) == ("transformers", 4, "simulated")
    found = declared(tmp_path, bnb_config(load_in_8bit=True))
    assert (found.reader, found.activation_bits, found.execution) == ("own", 8, "int8")
    assert declared(tmp_path, KV8).cache_bits == 8


@pytest.mark.parametrize("name", ["quantize_config", "quant_config", "hf_quant_config"])
def test_a_declaration_where_nobody_looks(name, tmp_path):
    save_file({"model.norm.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=f"{name}.json declares a quantization"):
        declared(tmp_path, None, **{name: {"bits": 4}})


def test_two_declarations_that_contradict_each_other(tmp_path):
    with pytest.raises(ModelError, match=r"bits is 4 in config.json and 8 in quantize_config.json"):
        declared(tmp_path, GPTQ, quantize_config={**GPTQ, "bits": 8})


def test_declarations_under_modelopts_own_heading_are_compared(tmp_path):
    with pytest.raises(ModelError, match=r"bits is 4 in config.json and 8 in hf_quant_config.json"):
        declared(tmp_path, GPTQ, hf_quant_config={"quantization": {"bits": 8}})


@pytest.mark.parametrize(
    "further",
    [
        # as GPTQModel 7.7 and AutoRound 0.16.1 write them
        {"method": "gptq", "format": "gptq", "pack_dtype": "int32", "meta": {"quantizer": ["gptqmodel:7.7.0"]}},
        {
            "amp": False, "autoround_version": "0.16.1", "data_type": "int", "enable_quanted_input": False,
            "provider": "auto-round", "damp_percent": 0.01, "true_sequential": False,
        },
        # GPTQModel 2, and what AutoRound 0.3 and 0.13 left in checkpoints that people download
        {"hyb_act": False, "static_groups": False, "true_sequential": True, "lm_head": False, "dynamic": None},
        {"enable_norm_bias_tuning": False, "train_bs": 8, "scale_dtype": "torch.float16", "quant_block_list": None},
        {
            "autoround_version": "0.13.0", "act_bits": 16, "act_data_type": "int", "act_dynamic": True, "act_sym": True,
            "act_group_size": 128, "supported_types": ["Linear"], "iters": 0, "dynamic": {"-:.*in_proj_b.*": {}},
        },
    ],
)  # fmt: skip
def test_what_other_tools_note_in_this_layout_is_harmless(further, tmp_path):
    assert declared(tmp_path, {**GPTQ, **further}).bits == 4
    for name, value in (("method", "awq"), ("data_type", "mx_fp")):
        with pytest.raises(ModelError, match=f"{name} is '{value}'"):
            declared(tmp_path, {**GPTQ, **further, name: value})


OF_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


@pytest.mark.parametrize(
    "config",
    [
        {**FP8, "sparsity_config": {"format": "dense", "global_sparsity": 0.15, "targets": ["model.layers.20.q_proj"]}},
        {**FP8, "quantization_status": "frozen", "provider": "auto-round"},
        {name: value for name, value in FP8.items() if name != "quantization_status"},
        {**OF_AWQ, "modules_to_not_convert": ["lm_head"], "ignore": ["lm_head"]},
        {**OF_AWQ, "autoround_version": "0.6", "data_type": "int", "iters": 200, "provider": "auto-round"},
        {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True, "model_free": True, "iters": 0},
    ],
)
def test_what_other_writers_note_in_other_layouts_is_harmless(config, tmp_path):
    assert declared(tmp_path, config).bits in (4, 8)


def test_skipped_modules_that_two_lists_tell_otherwise(tmp_path):
    with pytest.raises(ModelError, match="ignore is"):
        declared(tmp_path, {**OF_AWQ, "modules_to_not_convert": ["lm_head"], "ignore": ["lm_head", "router"]})


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({**KV8, "configs": [{**GPTQ, "activations": {"bits": 8, "twist": 1}}]}, "twist"),
        ({"quant_method": "quantgate", "format": "unheard"}, "format 'unheard'"),
        ({**GPTQ, "group_size": True}, "group_size"),
    ],
)
def test_what_is_inside_our_own_layout_is_accounted_for_too(config, word, tmp_path):
    with pytest.raises(ModelError, match=word):
        declared(tmp_path, config)


def test_settings_that_are_left_out_are_the_loaders_own(tmp_path):
    inside = {**GPTQ, "group_size": 128, "activations": {}}
    mixed = {"quant_method": "quantgate", "format": "mixed", "configs": [inside], "layers": {"model.layers.0.x": 0}}
    assert declared(tmp_path, mixed).activation_bits == 8


def test_what_is_simulated_says_so(tmp_path):
    assert declared(tmp_path, KV8).execution == "simulated"
    assert declared(tmp_path, {**KV8, "kv_cache": {}, "configs": [GPTQ]}).execution == "dequantized"
    inputs = {**KV8, "kv_cache": {}, "configs": [{**GPTQ, "activations": {"bits": 8}}]}
    assert declared(tmp_path, inputs).execution == "simulated"


def test_a_head_stays_unless_it_is_declared_quantized(tmp_path):
    assert declared(tmp_path, GPTQ).kept("lm_head")
    assert not declared(tmp_path, {**GPTQ, "lm_head": True}).kept("lm_head")


@pytest.mark.parametrize(
    "config",
    [
        {**GPTQ, "dynamic": {"-:.*down_proj": {}}},
        {**GPTQ, "modules_in_block_to_quantize": [["self_attn.q_proj"]]},
        {**NF4, "llm_int8_skip_modules": ["lm_head", "down_proj"]},
        {**FP8, "ignore": ["lm_head", "re:.*down_proj"]},
        in_group(targets=["re:.*q_proj"]),
    ],
)
def test_what_is_declared_to_stay(config, tmp_path):
    kept = declared(tmp_path, config).kept
    assert kept("model.layers.0.mlp.down_proj")
    assert not kept("model.layers.0.self_attn.q_proj")


# --- whole candidates -----------------------------------------------------------------------------------------------


class Scene:
    def __init__(self, tiny_model, root):
        self.root, self.store = root, Store(root / "store", Silent())
        self.model = resolve_model(str(tiny_model), None, self.store)

    def candidate(self, method, change=lambda config: None):
        path = self.root / "theirs"
        quantize_checkpoint(self.model.path, METHODS[method], None, path, progress=Silent())
        (path / "quantgate.json").unlink()
        content = json.loads((path / "config.json").read_text())
        change(content["quantization_config"])
        (path / "config.json").write_text(json.dumps(content))
        if (path / "quantize_config.json").is_file():
            (path / "quantize_config.json").write_text(json.dumps(content["quantization_config"]))
        return path

    def plainly(self, path, word):
        """Put the original's weights of some modules in the place of the quantized ones."""
        state = {k: v for k, v in load_file(path / "model.safetensors").items() if word not in k}
        plain = load_file(Path(self.model.path) / "model.safetensors")
        state |= {name: weight for name, weight in plain.items() if word in name}
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})

    def open(self, path):
        return open_candidate(self.model, parse_candidate(f"theirs={path}"), None, Workshop(self.store))


@pytest.fixture
def scene(tiny_model, tmp_path):
    return Scene(tiny_model, tmp_path)


def test_declared_16_bit_is_a_fact_and_undeclared_a_problem(scene):
    path = scene.candidate("rtn8", lambda config: config.update(dynamic={"-:.*down_proj": {}}))
    scene.plainly(path, "down_proj")
    subject = scene.open(path)
    assert (subject.problems(), subject.unchanged, len(subject.kept)) == ([], (), 2)
    assert 0.1 < subject.kept_share < 0.5
    shutil.rmtree(path)
    path = scene.candidate("rtn8")
    scene.plainly(path, "down_proj")
    assert "2 of 14 modules still hold 16-bit weights" in scene.open(path).problems()[0]


def test_declared_16_bit_and_stored_quantized(scene):
    path = scene.candidate("rtn8", lambda config: config.update(dynamic={"-:.*down_proj": {}}))
    with pytest.raises(ModelError, match=r"down_proj is stored quantized"):
        scene.open(path)


def test_all_declared_16_bit_is_no_quantized_model(scene):
    path = scene.candidate("rtn8", lambda config: config.update(dynamic={"-:.*": {}}))
    scene.plainly(path, ".layers.")
    assert scene.open(path).is_unquantized


def test_dynamic_bits_are_read_by_layer(scene):
    """The same checkpoint, once with all layers in 8 bit and once with 8 bit as the exception of 4."""
    import torch

    path = scene.candidate("rtn8")
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        before = load_candidate(path, "theirs", "float32", "cpu")(input_ids=tokens).logits
        content = json.loads((path / "config.json").read_text())
        content["quantization_config"] |= {"bits": 4, "dynamic": {"+:model.*": {"bits": 8}}}
        (path / "config.json").write_text(json.dumps(content))
        (path / "quantize_config.json").unlink()
        assert torch.equal(load_candidate(path, "theirs", "float32", "cpu")(input_ids=tokens).logits, before)


@pytest.mark.parametrize("num_bits", [8, 4])
def test_activations_are_quantized_while_a_candidate_is_judged(num_bits, scene):
    """FP8 weights whose configuration quantizes inputs too: as transformers with compressed-tensors computes it."""
    import torch
    from transformers import AutoModelForCausalLM

    inputs = {**ARGUMENTS, "num_bits": num_bits}
    change = lambda config: config["config_groups"]["group_0"].update(input_activations=inputs)  # noqa: E731
    path = scene.candidate("float8-e4m3", change)
    assert scene.open(path).record.activation_bits == num_bits
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        ours = load_candidate(path, "theirs", "float32", "cpu")(input_ids=tokens).logits
        theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(input_ids=tokens).logits
    assert torch.equal(ours, theirs)


MADE = Path(__file__).parents[2] / "data" / "checkpoints"


@pytest.mark.parametrize("status", ["frozen", None])
@pytest.mark.parametrize("name", ["ct_w8a8", "ct_w4a16_asym", "ct_fp8_static", "ct_fp8_dynamic", "ct_nvfp4"])
def test_codes_are_read_as_codes_whatever_the_status_says(name, status, tmp_path):
    """Checkpoints of 2024 say frozen; transformers then takes int8 codes for weights of up to 127."""
    import torch

    tokens = torch.arange(3, 40)[None]
    path = tmp_path / name
    shutil.copytree(MADE / name, path)
    content = json.loads((path / "config.json").read_text())
    content["quantization_config"]["quantization_status"] = status
    (path / "config.json").write_text(json.dumps(content))
    with torch.no_grad():
        before = load_candidate(MADE / name, "theirs", "bfloat16", "cpu")(input_ids=tokens).logits
        after = load_candidate(path, "theirs", "bfloat16", "cpu")(input_ids=tokens).logits
    assert torch.equal(before, after)


def test_keys_and_values_in_8_bit_are_computed_as_transformers_does_in_any_company(tmp_path):
    import torch

    from tests.unit.engines.test_engine import assert_like_plain, collect, engine_of, few_shot

    model = load_candidate(MADE / "ct_w4a16_kv", "theirs", "float32", "cpu")
    requests = few_shot(seed=64)
    answers, _ = collect(engine_of(model, batch_tokens=64), requests)
    assert_like_plain(model, requests, answers)
    path = tmp_path / "without"
    shutil.copytree(MADE / "ct_w4a16_kv", path)
    config = json.loads((path / "config.json").read_text())
    assert read_declared(path, "theirs").cache_bits == 8
    config["quantization_config"]["kv_cache_scheme"] = None
    (path / "config.json").write_text(json.dumps(config))
    state = {name: each for name, each in load_file(path / "model.safetensors").items() if "_scale" not in name[-8:]}
    state |= {n: each for n, each in load_file(path / "model.safetensors").items() if n.endswith("weight_scale")}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    plain = load_candidate(path, "theirs", "float32", "cpu")
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert (plain(input_ids=tokens).logits - model(input_ids=tokens).logits).abs().max() > 0.01


def test_weights_that_were_saved_before_they_were_compressed(tmp_path):
    """Frozen in earnest: 16-bit weights with scales beside them, which no runtime here rounds."""
    from quantgate.checkpoints.layouts.table import open_checkpoint

    path = tmp_path / "theirs"
    shutil.copytree(MADE / "ct_w8a8", path)
    state = load_file(path / "model.safetensors")
    state = {name: each.bfloat16() if str(each.dtype) == "torch.int8" else each for name, each in state.items()}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="stored in BF16, with scales beside it"):
        _ = open_checkpoint(path, MADE / "reference", "theirs").modules


def test_codes_without_a_declaration(scene):
    path = scene.candidate("float8-e4m3")
    content = json.loads((path / "config.json").read_text())
    del content["quantization_config"]
    (path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="no quantization_config"):
        scene.open(path)


def test_another_kind_of_four_bit_than_declared(scene):
    path = scene.candidate("nf4", lambda config: config.update(bnb_4bit_quant_type="fp4"))
    with pytest.raises(ModelError, match="stored as nf4; expected fp4"):
        load_candidate(path, "theirs", "bfloat16", "cpu")


@pytest.mark.parametrize(
    ("declares", "dtype", "named"),
    [
        ("float16", "bfloat16", "float16"),
        ("float16", "float16", ""),
        ("bfloat16", "bfloat16", ""),
        (None, "bfloat16", "float32"),  # what transformers takes where nothing is said
    ],
)
def test_another_compute_dtype_is_named(tmp_path, declares, dtype, named):
    declared(tmp_path, {**NF4, "bnb_4bit_compute_dtype": declares})
    note = computed_otherwise(parse_candidate(f"theirs={tmp_path}"), dtype)
    assert bool(note) == bool(named)
    assert not named or f"bitsandbytes compute in {named} (bnb_4bit_compute_dtype)" in note
    assert not named or f"unpacked to {dtype}" in note


def test_a_layout_without_a_compute_dtype_names_none(tmp_path):
    declared(tmp_path, GPTQ)
    assert computed_otherwise(parse_candidate(f"theirs={tmp_path}"), "float16") == ""
