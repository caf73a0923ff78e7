"""Any weights with any inputs and any cache, from a recipe: made, loaded and computed, or refused with a sentence."""

import dataclasses

import pytest
import torch

from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.checkpoints.record import read_record
from quantgate.core.errors import UsageError
from quantgate.core.progress import Silent
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.catalogue.recipe import Rule, load_recipe, recipe_method
from quantgate.quantize.catalogue.schemes import ACTIVATIONS, CACHES, changed
from quantgate.quantize.transforms.activations import ActivationLinear
from quantgate.subjects.make import quantize_checkpoint, quantize_many
from tests.unit.conftest import random_calibration


@pytest.fixture(scope="module")
def made(model_dir, tmp_path_factory):
    """One checkpoint by every scheme of inputs over 8-bit weights, in one sweep."""
    folder = tmp_path_factory.mktemp("schemes")
    methods = {name: recipe_method(f"scheme-{at}", "rtn8", activations=name) for at, name in enumerate(ACTIVATIONS)}
    calibration = random_calibration([12, 7, 12, 9])
    quantize_many(model_dir, {folder / name: row for name, row in methods.items()}, calibration, progress=Silent())
    return folder


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_scheme_of_inputs_is_made_loaded_and_computed(made, model_dir, name):
    record, settings = read_record(made / name), ACTIVATIONS[name]
    assert (record.activation_bits, record.execution) == (settings.bits, "simulated")
    assert (record.calibration is None) == settings.dynamic
    model = load_quantized(made / name, torch.float32)
    layers = [module for module in model.modules() if isinstance(module, ActivationLinear)]
    assert len(layers) == 14
    assert {layer.settings for layer in layers} == {settings}
    tokens = torch.arange(20).view(1, 20)
    with torch.no_grad():
        logits = model(tokens).logits
        for name_, module in list(model.named_modules()):
            if isinstance(module, ActivationLinear):
                plain = torch.nn.Linear(module.in_features, module.out_features, bias=False)
                plain.weight = module.weight
                model.set_submodule(name_, plain)
        exact = model(tokens).logits
    error = float((logits - exact).norm() / exact.norm())
    assert 0 < error < (0.02 if settings.kind == "int" and settings.bits == 8 else 0.6)


def test_weights_inputs_and_cache_of_a_file(model_dir, tmp_path):
    (tmp_path / "mine.toml").write_text(
        'default = "gptq4"\nactivations = "int4-token"\nkv_cache = "int4"\n'
        "settings = { group_size = 32, sym = false }\n"
        '[[rules]]\nmethod = "float8-e4m3"\ncomponent = "attention"\nactivations = "fp8-static"\n'
    )
    method = load_recipe(tmp_path / "mine.toml")
    assert (method.activation_bits, method.kv_cache) == (4, CACHES["int4"])
    assert method.as_record()["settings"]["rows"]["gptq4-default"]["settings"]["group_size"] == 32
    record = quantize_checkpoint(model_dir, method, random_calibration([12, 9]), tmp_path / "out", progress=Silent())
    assert (record.activation_bits, record.cache_bits) == (4, 4)
    model = load_quantized(tmp_path / "out", torch.float32)
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    assert layer.settings == ACTIVATIONS["int4-token"]
    assert model.get_submodule("model.layers.1.self_attn.q_proj").settings == ACTIVATIONS["fp8-static"]
    assert torch.isfinite(model(torch.arange(9).view(1, 9)).logits).all()


def test_rows_that_say_the_same_have_the_record_they_always_had():
    record = recipe_method("plain", "rtn4", [Rule("gptq8", component="attention")]).as_record()["settings"]
    assert set(record) == {"name", "default", "rules", "rows"}
    assert set(record["rules"][0]) == {"method", "component", "blocks", "include", "exclude"}


def test_a_setting_of_the_transformation_follows():
    row = changed(METHODS["awq4"], "mine", {"group_size": 64, "bits": 3}, None, "here")
    assert (row.settings.group_size, row.transformation.group_size) == (64, 64)
    assert (row.bits, row.settings.bits, row.transformation.bits) == (3, 3, 3)
    assert dataclasses.replace(row, id="awq4") != METHODS["awq4"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('default = "rtn4"\nactivations = "int8-tokens"', "int8-tokens.*expected one of int8-token.*int8-token"),
        ('default = "rtn4"\nkv_cache = "int3"', "kv_cache: 'int3'.*expected one of int8, int4, int2"),
        ('default = "int8"\nactivations = "int8-token"', "activations 'int8-token' for int8"),
        ('default = "rtn4"\nsettings = { group_size = 0 }', "group_size 0.*whole number of at least 1"),
        ('default = "rtn4"\nsettings = { group_size = -2 }', "group_size -2"),
        ('default = "rtn4"\nsettings = { bits = 9 }', "9 bits; expected 2 to 8 bits"),
        ('default = "rtn4"\nsettings = { group = 64 }', "setting 'group' of rtn4.*bits, group_size, sym"),
        ('default = "rtn4"\nsettings = { sym = 1 }', "sym = 1; expected a bool"),
        ('default = "rtn4"\nsettings = "group_size"', "settings = 'group_size'; expected a table"),
        ('activations = "int8-token"\n[[rules]]\nmethod = "rtn4"', "activations or settings without a default"),
        ('default = "rtn4"\nactivations = 8', "activations = 8; expected a string"),
    ],
)
def test_what_cannot_be_joined_is_refused_where_it_is_read(tmp_path, text, said):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        load_recipe(tmp_path / "mine.toml")
