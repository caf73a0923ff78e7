import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.checkpoints.readers import linear_shapes, readers
from quantgate.checkpoints.record import read_record
from quantgate.cli import main
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.subjects.exporting import export_config
from tests.unit.conftest import tiny_llama


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny") / "model"
    tiny_llama().save_pretrained(directory)
    (directory / "tokenizer.json").write_text("{}")
    return directory


def export(method, target, model_dir, tmp_path):
    return main(["export", method, str(target), "--model", str(model_dir), "--store", str(tmp_path / "store")])


def test_writes_a_checkpoint_that_loads(model_dir, tmp_path, capsys):
    target = tmp_path / "deep" / "out"
    assert export("rtn4", target, model_dir, tmp_path) == 0
    assert "rtn4" in capsys.readouterr().out
    assert not (target / "entry.json").exists()
    assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {0o644}
    assert read_record(target).method["method"] == "rtn4"
    assert torch.isfinite(load_quantized(target, torch.float32)(torch.tensor([[1, 2, 3]])).logits).all()
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_an_occupied_directory_is_left_alone(model_dir, tmp_path, capsys):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("precious")
    assert export("rtn4", target, model_dir, tmp_path) == 4
    assert "holds something" in capsys.readouterr().err
    assert (target / "mine.txt").read_text() == "precious"


def test_unknown_method_names_the_close_ones(model_dir, tmp_path, capsys):
    assert export("gtpq4", tmp_path / "out", model_dir, tmp_path) == 4
    assert "did you mean 'gptq4'" in capsys.readouterr().err


def answers(method, shapes):
    return {reader.name.split()[0]: reader.refusal for reader in readers(export_config(METHODS[method]), shapes)}


EVEN, ODD = {"up": (256, 128)}, {"q": (256, 128), "up": (1536, 576)}


def test_shapes_are_those_of_the_decoder(model_dir):
    shapes = linear_shapes(model_dir, "test")
    assert shapes["model.layers.1.mlp.down_proj"] == (96, 160)
    assert len(shapes) == 14


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_who_reads_it(method):
    assert answers(method, EVEN)


def test_who_reads_the_gptq_layout():
    assert answers("gptq-static-w4", EVEN)["vLLM"] == ""
    ordered = "vLLM 0.32 refuses act-order (desc_act): gptq-static-w4 has its groups in order"
    assert answers("gptq4", EVEN) == {"AutoGPTQ": "", "GPTQModel": "", "transformers": "", "vLLM": ordered}
    assert "gptq_v2" in answers("awq4", EVEN)["AutoGPTQ"]
    assert answers("gptq4", ODD)["vLLM"] == "576 input features of up are no multiple of 128"
    assert answers("gptq4", ODD)["GPTQModel"] == ""
    assert answers("gptq4", ODD)["AutoGPTQ"] == ""  # by act-order: groups by index
    assert answers("rtn4", EVEN)["AutoGPTQ"] == ""
    assert answers("rtn4", ODD)["AutoGPTQ"] == "576 input features of up are no multiple of 128"
    assert "112 input features of up are no multiple of 32" in answers("gptq4", {"up": (256, 112)})["AutoGPTQ"]
    assert "260 output features" in answers("gptq4", {"up": (260, 128)})["vLLM"]


@pytest.mark.parametrize("method", ["spqr2", "slim2", "easyquant4", "quip2", "float8-e5m2", "kv8", "rtn-token-a8-w4"])
def test_formats_without_an_outside_reader_say_so(method):
    assert all("no reader outside" in refusal for refusal in answers(method, EVEN).values())


def test_what_was_not_run_is_not_claimed():
    """Nobody ran vLLM here: an export must not promise that it loads."""
    for method in METHODS:
        config = export_config(METHODS[method])
        for reader in readers(config, EVEN):
            unproven = reader.name == "vLLM" or "gptqmodel" in reader.name
            unproven |= reader.name == "AutoGPTQ" and not config["desc_act"]  # its other kind of layer
            assert str(reader).endswith(": yes") == (not reader.refusal and not unproven)
    found = readers(export_config(METHODS["gptq-static-w4"]), EVEN)
    assert "vLLM: written in its layout; not run here" in map(str, found)


def test_it_is_said_before_quantizing(model_dir, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    for file in model_dir.iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ messages }}")  # the tokenizer here is none
    assert export("gptq4", tmp_path / "out", tmp_path / "model", tmp_path) == 4
    assert "vLLM: no, 96 input features of model.layers.0.self_attn.q_proj" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_w8a8_is_what_transformers_computes(model_dir, tmp_path):
    """Their weights equal ours bit for bit; inputs are quantized by both, to codes that differ at ties only."""
    target = tmp_path / "out"
    assert export("rtn-token-a8-w8", target, model_dir, tmp_path) == 0
    config = json.loads((target / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    (stored,) = (tmp_path / "store" / "subjects").iterdir()
    ours = load_quantized(stored, torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    ids = torch.tensor([[5, 9, 2, 33, 8]])
    expected, found = theirs(ids).logits, ours(ids).logits
    layer = "model.layers.0.mlp.down_proj"
    weights = [model.get_submodule(layer).weight for model in (ours, theirs)]
    assert torch.equal(*weights)
    plain = tiny_llama().float()(ids).logits
    assert (found - expected).norm() < 0.3 * (plain - expected).norm()


def test_nvfp4_layers_of_a_module_share_their_scale_and_keep_their_weights(model_dir, tmp_path):
    assert export("nvfloat4", tmp_path / "out", model_dir, tmp_path) == 0
    (stored,) = (tmp_path / "store" / "subjects").iterdir()
    before, after = (load_file(directory / "model.safetensors") for directory in (stored, tmp_path / "out"))
    scales = {name: float(t) for name, t in after.items() if name.endswith("global_scale")}
    assert len({scales[f"model.layers.0.mlp.{part}_proj.weight_global_scale"] for part in ("gate", "up", "down")}) == 1
    moved = [name for name in scales if float(before[name]) != scales[name]]
    assert moved, "all layers had the same scale here: the test would prove nothing"
    ours, exported = (load_quantized(directory, torch.float32) for directory in (stored, tmp_path / "out"))
    for name in moved:
        layer = name.removesuffix(".weight_global_scale")
        assert torch.equal(ours.get_submodule(layer).weight, exported.get_submodule(layer).weight)
