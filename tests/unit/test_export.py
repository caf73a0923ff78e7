import pytest
import torch

from quantgate.cli import main
from quantgate.quantize.checkpoint import load_quantized, read_record

from .quantize.conftest import tiny_llama


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
    assert "did you mean gptq4" in capsys.readouterr().err
