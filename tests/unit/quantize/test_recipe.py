import dataclasses
import json

import pytest
import torch

from quantgate.checkpoints.checkpoint import load_quantized, read_layers
from quantgate.checkpoints.record import read_record
from quantgate.core.errors import MethodError, UsageError
from quantgate.core.progress import Silent
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.catalogue.recipe import Rule, block_of, component_of, load_recipe, recipe_method
from quantgate.quantize.transforms.activations import ActivationLinear
from quantgate.subjects.make import quantize_checkpoint
from quantgate.subjects.subject import unchanged_modules
from tests.unit.conftest import tiny_llama

NAMES = [name for name, module in tiny_llama().named_modules() if isinstance(module, torch.nn.Linear)]


def assigned(default, *rules):
    method = recipe_method("test", default, rules)
    return {name: row.id for name, row in method.settings.assigned(NAMES, method.id).items()}


def test_components_and_blocks():
    assert component_of("model.layers.11.self_attn.q_proj") == "attention"
    assert component_of("model.layers.11.mlp.up_proj") == "feed-forward"
    assert component_of("lm_head") == "head"
    assert block_of("model.layers.11.self_attn.q_proj") == 11


def test_the_default_spares_the_head():
    rows = assigned("rtn4")
    assert set(rows.values()) == {"rtn4"}
    assert set(NAMES) - set(rows) == {"lm_head"}


def test_the_last_rule_that_matches_decides():
    rows = assigned(
        "rtn4",
        Rule("gptq8", component="attention"),
        Rule("none", component="attention", blocks="1", exclude="[qk]_proj"),
        Rule("rtn8", component="head"),
    )
    assert rows["model.layers.0.self_attn.o_proj"] == "gptq8"
    assert rows["model.layers.1.self_attn.q_proj"] == "gptq8"
    assert "model.layers.1.self_attn.o_proj" not in rows
    assert rows["model.layers.1.mlp.up_proj"] == "rtn4"
    assert rows["lm_head"] == "rtn8"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([Rule("rtn8", include="w_proj")], "rule 1 matches no layer"),
        ([Rule("rtn8", blocks="2-7")], "rule 1 matches no layer"),
        ([Rule("rtn8", blocks="0"), Rule("rtn3")], "rule 1 is overruled everywhere"),
    ],
)
def test_rules_without_effect(rules, message):
    with pytest.raises(MethodError, match=message):
        assigned("rtn4", *rules)


TOML = """
default = "rtn4"
[[rules]]
method = "awq8"
component = "attention"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TOML.replace("component", "components"), "rule 1: unknown key 'components'"),
        ("defaults = 'rtn4'", "unknown key 'defaults'"),
        (TOML.replace('"awq8"', '"awq5"'), "unknown method 'awq5'.*did you mean"),
        (TOML.replace('"attention"', '"attn"'), "component 'attn'; expected attention or feed-forward or head"),
        (TOML + 'include = "["', "pattern that is none"),
        (TOML + 'blocks = "a-b"', "range or pattern that is none"),
        (TOML + 'blocks = ""', "range or pattern that is none"),
        (TOML + 'blocks = "9-0"', "9-0 ends before it begins"),
        (f"name = '{'a' * 65}'\n" + TOML, "at most 64 lower-case letters"),
        (TOML + "blocks = 3", "blocks = 3"),
        (TOML.replace('method = "awq8"\n', ""), "rule 1: no method"),
        ("rules = 3", "rules that are no tables"),
        ("default = ", "cannot be read"),
        ("name = 'x'", "no method"),
        ("name = 'gptq4-more'\n" + TOML, "no method's id in it"),
        (TOML.replace('"awq8"', '"kv8"'), "kv8 quantizes no weights"),
    ],
)
def test_errors_of_a_file_name_the_place(text, message, tmp_path):
    path = tmp_path / "mixed.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_recipe(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")


def test_the_row_of_a_file(tmp_path):
    path = tmp_path / "mixed.toml"
    path.write_text(TOML)
    method = load_recipe(path)
    assert method.id == "recipe-mixed"
    assert method.needs_calibration
    record = json.dumps(method.as_record())
    assert dataclasses.asdict(METHODS["awq8"].settings) == json.loads(record)["settings"]["rows"]["awq8"]["settings"]


RULES = [
    Rule("gptq8", component="attention", blocks="0"),
    Rule("awq3", component="feed-forward", blocks="0"),
    Rule("none", include="layers.1.self_attn.[qk]_proj"),
    Rule("smoothquant8", component="feed-forward", blocks="1"),
    Rule("nf4", include="layers.1.self_attn.o_proj"),
    Rule("rtn8", component="head"),
]


def test_a_mixed_checkpoint(model_dir, tmp_path, calibration):
    """Each layer is what its own row says, the average of bits is the one counted by hand, nothing else changes."""
    method = recipe_method("all-sorts", "rtn2", RULES)
    record = quantize_checkpoint(model_dir, method, calibration, tmp_path, progress=Silent())
    assert read_record(tmp_path).method == json.loads(json.dumps(record.method))
    assert len(record.quantized_modules) == 13
    assert unchanged_modules(model_dir, tmp_path, record) == []
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    _, layers = read_layers(tmp_path, config["quantization_config"])
    model, original = load_quantized(tmp_path, torch.bfloat16), tiny_llama()
    for name, layer in layers.items():
        assert torch.equal(model.get_submodule(name).weight, layer.dequantize(torch.bfloat16)), name
    bits = {name: getattr(getattr(layer, "grid", None), "bits", 4) for name, layer in layers.items()}
    assert bits["model.layers.0.self_attn.q_proj"] == bits["lm_head"] == 8
    assert bits["model.layers.0.mlp.up_proj"] == 3
    assert bits["model.layers.1.self_attn.v_proj"] == 2
    packed = sum(t.nbytes for layer in layers.values() for t in layer.tensors().values())
    assert record.bits_effective == pytest.approx(8 * packed / sum(layer.n_weights for layer in layers.values()))
    wrapped = {name for name, module in model.named_modules() if isinstance(module, ActivationLinear)}
    assert wrapped == {f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")}
    for name in ("model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj", "model.embed_tokens"):
        assert torch.equal(model.get_submodule(name).weight, original.get_submodule(name).weight), name


def test_one_method_everywhere_gives_that_methods_weights(model_dir, tmp_path, calibration):
    quantize_checkpoint(model_dir, METHODS["gptq4"], calibration, tmp_path / "row", progress=Silent())
    recipe = recipe_method("same", "gptq4")
    quantize_checkpoint(model_dir, recipe, calibration, tmp_path / "recipe", progress=Silent())
    row, mixed = (load_quantized(tmp_path / name, torch.bfloat16).state_dict() for name in ("row", "recipe"))
    assert all(torch.equal(row[name], mixed[name]) for name in row)


def test_the_head_wants_a_method_without_data(model_dir, tmp_path, calibration):
    recipe = recipe_method("head", "rtn4", [Rule("gptq4", component="head")])
    with pytest.raises(MethodError, match="lm_head: a method that looks at data"):
        quantize_checkpoint(model_dir, recipe, calibration, tmp_path, progress=Silent())


def test_a_range_of_blocks_is_read_without_counting_to_its_end(tmp_path):
    path = tmp_path / "mixed.toml"
    path.write_text(TOML + 'blocks = "1-99999999999"')
    rules = load_recipe(path).settings.rules
    names = [f"model.layers.{number}.self_attn.q_proj" for number in (0, 1, 30)] + ["lm_head"]
    assert [rules[0].matches(name) for name in names] == [False, True, True, False]
