"""GGUF files that we write: read back by our reader to the same bits; what cannot be written is refused by name."""

import json

import pytest
import torch

from quantgate.checkpoints.findings import ERROR, WARNING
from quantgate.checkpoints.gguf_export import check_gguf, write_gguf
from quantgate.checkpoints.inspection import inspect
from quantgate.checkpoints.layouts.table import open_checkpoint
from quantgate.cli import main
from quantgate.core.errors import UsageError
from tests.unit.checkpoints.test_inspection import DATA, REFERENCE

UP = "model.layers.0.mlp.up_proj"
ROUNDED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def values(checkpoint, name):
    module = name.removesuffix(".weight")
    return checkpoint.weight(module) if module in checkpoint.modules else checkpoint.tensor(name).float()


@pytest.mark.parametrize("kind", ROUNDED)
def test_what_is_written_is_read_back_to_the_same_bits(kind, tmp_path):
    ours = open_checkpoint(DATA / "gptq_act", REFERENCE, "ours")
    write_gguf(ours, REFERENCE, kind, tmp_path / "ours.gguf", "ours")
    found = open_checkpoint(tmp_path / "ours.gguf", REFERENCE, "theirs")
    names = [*ours.plain, *(f"{module}.weight" for module in ours.modules)]
    assert sorted(found.plain) == sorted(names)
    for name in names:
        wanted = values(ours, name)
        wanted = wanted.to(ROUNDED[kind]).float() if wanted.ndim == 2 else wanted
        assert torch.equal(values(found, name), wanted), name
    assert found.suspicions() == []  # fields, vocabulary, merges and template are the reference's


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_blocks_are_those_of_the_gguf_library(kind, tmp_path):
    import gguf

    ours = open_checkpoint(DATA / "gptq_act", REFERENCE, "ours")
    write_gguf(ours, REFERENCE, kind, tmp_path / "ours.gguf", "ours")
    found = inspect(tmp_path / "ours.gguf", REFERENCE, "theirs")
    assert found.of_level(ERROR) == []
    # codes of 4 bit in a grid of 8 are told from those that were rounded to it at once
    assert [each.code for each in found.of_level(WARNING)] == {"Q8_0": ["coarser"], "Q4_1": []}[kind]
    raw = gguf.GGMLQuantizationType[kind]
    wanted = gguf.quants.dequantize(gguf.quants.quantize(ours.weight(UP).numpy(), raw), raw)
    theirs = open_checkpoint(tmp_path / "ours.gguf", REFERENCE, "theirs").weight(UP)
    assert torch.equal(theirs, torch.from_numpy(wanted))


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"model_type": "bloom"}, "F16", "model_type 'bloom'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "F16", "rope_type 'yarn'"),
        ({"intermediate_size": 72}, "Q8_0", "intermediate_size 72 in blocks of 32"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_computed(fields, kind, message):
    config = json.loads((REFERENCE / "config.json").read_text()) | fields
    with pytest.raises(UsageError, match=message):
        check_gguf(config, kind, "mine")


def export(tmp_path, method, *more):
    return main(
        ["export", method, str(tmp_path / "out"), "--model", str(REFERENCE), "--store", str(tmp_path / "s"), *more]
    )


def test_the_command_writes_a_file_that_is_the_method(tmp_path, capsys):
    assert export(tmp_path, "rtn4", "--gguf", "F16") == 0
    assert "rtn4 in F16" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rtn4-F16.gguf"]
    found = inspect(tmp_path / "out", REFERENCE, "theirs")
    assert found.of_level(ERROR) == []


def test_another_rounding_is_said(tmp_path, capsys):
    assert export(tmp_path, "rtn4", "--gguf", "Q8_0") == 0
    assert "Q8_0 rounds the weights of rtn4 a second time" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "kind", "message"),
    [("rtn4", "Q4_K", "--gguf: 'Q4_K'"), ("rtn-token-a8-w8", "F16", "quantizes activations or the cache")],
)
def test_what_the_command_refuses(method, kind, message, tmp_path, capsys):
    assert export(tmp_path, method, "--gguf", kind) == 4
    assert message in capsys.readouterr().err
