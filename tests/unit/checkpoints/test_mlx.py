"""MLX's affine integers, written and unpacked by mlx-lm and MLX themselves (tests/fixtures-src/make_mlx.py)."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints.audit import whole_audit
from quantgate.checkpoints.findings import ERROR, WARNING
from quantgate.checkpoints.layouts.table import open_checkpoint
from quantgate.core.errors import ModelError
from quantgate.subjects.candidates import check_candidate, parse_candidate
from tests.unit.checkpoints.test_inputs import opened
from tests.unit.checkpoints.test_inspection import DATA, REFERENCE
from tests.unit.checkpoints.test_lone import copied

MADE = ("mlx4", "mlx_mixed")
UP = "model.layers.0.mlp.up_proj"


def changed(name, target, change):
    path = copied(DATA / name, target)
    shutil.copyfile(REFERENCE / "generation_config.json", path / "generation_config.json")
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", MADE)
def test_it_is_unpacked_as_mlx_unpacks_it(name):
    checkpoint = open_checkpoint(DATA / name, None, name)
    expected = load_file(DATA / "expected" / f"{name}.safetensors")
    for module in expected.keys() - {"logits"}:
        torch.testing.assert_close(checkpoint.weight(module), expected[module], rtol=1e-6, atol=1e-7)
    assert checkpoint.modules[UP].bits == (4 if name == "mlx4" else 3)
    assert [checkpoint.modules["model.layers.0.mlp.down_proj"].bits, len(checkpoint.modules)] == (
        [4, 15] if name == "mlx4" else [6, 14]
    )


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("name", MADE)
def test_the_model_answers_as_mlx_lm_does(name, copy, tmp_path):
    """mlx-lm multiplies in bf16, so do we; older releases write no copy as ``quantization_config``."""
    path = changed(name, tmp_path / "theirs", lambda config: copy or config.pop("quantization_config"))
    check_candidate(parse_candidate(f"theirs={path}"), REFERENCE)
    subject = opened(path, tmp_path)
    with torch.no_grad():
        model = subject.loader(subject.path, "theirs", "bfloat16", "cpu")
        found = model(input_ids=torch.arange(3, 40)[None]).logits[0].float()
    expected = load_file(DATA / "expected" / f"{name}.safetensors")["logits"]
    off = torch.nn.functional.kl_div(found.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="none")
    assert float(off.sum(-1).mean()) < 1e-3
    assert (subject.foreign, subject.record.bits_nominal) == ((), 4)


@pytest.mark.parametrize("name", MADE)
def test_the_audit_has_nothing_against_it(name, tmp_path):
    found = whole_audit(changed(name, tmp_path / "theirs", lambda config: None), REFERENCE, "theirs")
    assert [each.sentence for level in (ERROR, WARNING) for each in found.of_level(level)] == []


def field(**fields):
    """Both places of the declaration, with other fields."""

    def change(config):
        for name in ("quantization", "quantization_config"):
            config[name] |= fields

    return change


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (field(bits=7), "bits is 7"),
        (field(group_size=48), "group_size is 48"),
        (field(mode="mxfp4"), "mode is 'mxfp4'"),
        (field(rotation="hadamard"), "rotation is 'hadamard'"),
        (field(**{UP: {"bits": 4, "group_size": 64, "mode": "nvfp4"}}), "mode is 'nvfp4'"),
        (field(**{UP: True}), f"{UP} is true"),
        (
            lambda config: config["quantization_config"].update(bits=8),
            "bits is 8 in config.json and 4 in quantization",
        ),
    ],
)
def test_what_is_not_read_is_refused_by_name(change, word, tmp_path):
    path = changed("mlx4", tmp_path / "theirs", change)
    with pytest.raises(ModelError, match=word):
        check_candidate(parse_candidate(f"theirs={path}"), REFERENCE)


@pytest.mark.parametrize("fields", [{"bits": 8}, {"group_size": 32}, {UP: {"bits": 8, "group_size": 64}}])
def test_a_declaration_that_does_not_fit_the_tensors(fields, tmp_path):
    path = changed("mlx4", tmp_path / "theirs", field(**fields))
    with pytest.raises(ModelError, match=r"codes of \d bits in U32"):
        whole_audit(path, REFERENCE, "theirs")


def test_a_matrix_that_is_said_to_stay_in_16_bit_and_does_not(tmp_path):
    path = changed("mlx4", tmp_path / "theirs", field(**{UP: False}))
    with pytest.raises(ModelError, match="up_proj is stored quantized"):
        opened(path, tmp_path)


def test_offsets_of_another_matrix_are_found(tmp_path):
    path = changed("mlx4", tmp_path / "theirs", lambda config: None)
    state = load_file(path / "model.safetensors")
    name = f"{UP}.biases"
    state[name] = state[name].flip(0).contiguous()
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    assert UP in [name for each in whole_audit(path, REFERENCE, "x").of_level(ERROR) for name in each.modules]
