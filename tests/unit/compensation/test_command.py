"""``quantgate tune`` on a small model, as typed: what is made, judged and written, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from quantgate import cli, tune
from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.checkpoints.inspection import inspect
from quantgate.compensation.ways import WAYS
from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.models.tensors import read_tensor, stored
from quantgate.quantize.catalogue.methods import get_method
from quantgate.subjects.make import quantize_checkpoint
from tests.conftest import make_model_dir

BUDGET = ("--rank", 4, "--steps", 3, "--batch", 2, "--length", 16, "--calibration-samples", 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a store, a wide policy, and what one command made of them."""
    root = tmp_path_factory.mktemp("tune")
    make_model_dir(root / "model", layers=2)
    (root / "policy.toml").write_text(
        "schema = 1\n[defaults]\nmargin = { absolute = 9.0 }\nconfidence = 0.9\nmin_items = 2\n"
    )
    return root


def told(capsys, place, *words):
    fixed = ("--model", place / "model", "--store", place / "store")
    code = cli.main([*map(str, (*words, *fixed))])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_every_way_is_made_judged_and_written(capsys, place):
    words = ("tune", "rtn4", *BUDGET, "--limit", 4, "--policy", place / "policy.toml", "--out", place / "out")
    code, out, err = told(capsys, place, *words)
    assert code == 0, out + err
    assert "passes: rtn4, rtn4-before, rtn4-after, rtn4-requantized, rtn4-eora" in out
    record = json.loads((place / "out" / "tune.json").read_text())
    rows = {row["way"]: row for row in record["subjects"]}
    assert tuple(rows) == ("", *tune.WAYS)
    config = json.loads((place / "model" / "config.json").read_text())
    assert tuple(WAYS) == tune.WAYS
    shapes = [
        each.shape for name, each in stored(place / "model").items() if ".layers." in name and len(each.shape) == 2
    ]
    wanted = 4 * sum(map(sum, shapes))
    assert config["num_hidden_layers"] == 2
    assert [rows[way]["made"]["trainable"] for way in tune.WAYS] == [wanted, wanted, wanted, 0]
    weights = sum(out * into for out, into in shapes)
    beside = 16 * wanted / weights  # the terms are stored in 16 bit
    assert rows["after"]["bits"] == pytest.approx(rows[""]["bits"] + beside)
    assert rows["eora"]["bits"] == pytest.approx(rows[""]["bits"] + beside)
    assert rows["before"]["bits"] == rows["requantized"]["bits"] == rows[""]["bits"]
    values = {way: row["results"][0]["value"] for way, row in rows.items()}
    assert len(set(values.values())) == 5  # five different models
    assert values["eora"] < values[""]
    entries = set((place / "store").rglob("entry.json"))
    assert told(capsys, place, *words, "--json")[0] == 0
    assert set((place / "store").rglob("entry.json")) == entries


def test_an_adapter_on_its_base_is_the_base_with_the_term_added(place):
    for way, scale in (("after", 16.0 / 4), ("eora", 1.0)):
        folder = place / "out" / way
        base = load_quantized(folder / "base", torch.float32).state_dict()
        parts = load_file(folder / "adapter_model.safetensors")
        audit = inspect(folder, place / "model", way)
        assert audit.layout == "adapter"
        from quantgate.checkpoints.layouts.table import open_checkpoint

        opened = open_checkpoint(folder, place / "model", way)
        for name in opened.modules:
            a, b = (parts[f"base_model.model.{name}.lora_{part}.weight"].float() for part in "AB")
            assert torch.allclose(opened.weight(name), base[f"{name}.weight"] + scale * b @ a, atol=1e-6)


def test_what_is_trained_first_is_quantized_from_the_merged_model(place):
    folder = place / "out" / "before-adapter"
    assert not (folder / "base").exists()
    from quantgate.checkpoints.layouts.table import open_checkpoint

    merged = open_checkpoint(folder, place / "model", "merged")
    made = load_quantized(place / "out" / "before", torch.float32).state_dict()
    plain = {name: read_tensor(each).float() for name, each in stored(place / "model").items()}
    name = "model.layers.1.mlp.down_proj.weight"
    steps = (made[name] - merged.tensor(name).to(torch.bfloat16).float()).abs().amax()
    assert 0 < steps <= plain[name].abs().amax() / 7  # half a step of four bits, and a little
    assert not torch.equal(merged.tensor(name), plain[name])


def test_an_adapter_on_an_adapter_is_refused(place, tmp_path):
    folder = shutil.copytree(place / "out" / "after", tmp_path / "after")
    shutil.copyfile(folder / "adapter_config.json", folder / "base" / "adapter_config.json")
    (folder / "base" / "config.json").unlink()
    with pytest.raises(ModelError, match="an adapter on an adapter"):
        inspect(folder, place / "model", "mine")


def test_a_base_whose_inputs_are_quantized_is_refused(place, tmp_path):
    folder = shutil.copytree(place / "out" / "after", tmp_path / "after")
    shutil.rmtree(folder / "base")
    row = get_method("rtn-token-a8-w8")
    quantize_checkpoint(place / "model", row, None, folder / "base", progress=Silent())
    with pytest.raises(ModelError, match="quantizes inputs, or keys and values, too"):
        inspect(folder, place / "model", "mine")


@pytest.mark.parametrize(("words", "said"), [
    (("tune", "gptq33"), "gptq33"),
    (("tune", "awq4"), "more than weights of single layers"),
    (("tune", "quarot-rtn-w4"), "or it rotates all"),
    (("tune", "rtn3", "--ways", "afterwards"), "unknown way 'afterwards'; expected before, after, requantized, eora"),
    (("tune", "rtn3", "--ways", "eora,eora"), "each of them once"),
    (("tune", "rtn3", "--loss", "original"), "the original has nothing to learn from itself"),
    (("tune", "int8"), "it multiplies integers, beside which after, requantized, eora can put nothing"),
    (("tune", "rtn3", "--data", "no-such-folder"), "'no-such-folder' is no directory"),
    (("tune", "rtn3", "--calibration", "no-such-set"), "no-such-set"),
    (("tune", "rtn3", "--rank", "0"), "at least 1"),
    (("tune", "rtn3", "--rate", "nan"), "a number above 0"),
    (("tune", "rtn3", "--tasks", "nothing"), "nothing"),
])  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(capsys, place, words, said):
    try:
        code, out, err = told(capsys, place, *words, "--out", place / "wrong")
    except SystemExit as stop:
        shown = capsys.readouterr()
        code, out, err = stop.code, shown.out, shown.err
    assert (code, out, said in err.strip().splitlines()[-1], "Traceback" in err) == (4, "", True, False)
    assert not (place / "wrong").exists()


def test_what_somebody_keeps_in_the_directory_is_not_replaced(capsys, place, tmp_path):
    kept = tmp_path / "work" / "after" / "thesis.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("years of work")
    code, out, err = told(capsys, place, "tune", "rtn4", *BUDGET, "--out", tmp_path / "work")
    assert (code, out) == (4, "")
    assert "it holds 'after', which would be in the way; expected a directory that is empty" in err
    assert kept.read_text() == "years of work"


@pytest.mark.parametrize("name", ["hub:a", "a=b", "http://a"])
def test_a_command_that_was_killed_is_asked_again_in_a_place_of_any_name(capsys, place, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    words = ("tune", "rtn4", *BUDGET, "--limit", 4, "--policy", place / "policy.toml", "--ways", "before")
    monkeypatch.setattr("quantgate.compensation.ways.copy_checkpoint", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        told(capsys, place, *words, "--out", name)
    begun = json.loads((tmp_path / name / "tune.json").read_text())
    assert begun == {"method": "rtn4", "unfinished": True}
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / name / "before").mkdir()
    (tmp_path / name / "before" / "model-00001-of-00002.safetensors").write_text("half a file")
    code, _, err = told(capsys, place, *words, "--out", name)
    assert code == 0, err
    assert not (tmp_path / name / "before" / "model-00001-of-00002.safetensors").exists()
