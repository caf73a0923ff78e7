"""What the files of a candidate say against it without running it; the untouched ones say nothing."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints.audit import check_complete, weight_problems
from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.models.sameness import configuration_problems
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.subjects.make import quantize_many
from tests.unit.conftest import random_calibration, tiny_llama

HONEST = (
    "rtn8", "rtn4", "rtn2", "gptq4", "gptq3", "gptq2", "awq4", "awq2", "awq-gptq-w3", "nf4", "int8", "spqr3", "spqr2",
    "quip4", "easyquant3", "nvfloat4", "mxfloat4",
)  # fmt: skip
UP = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference")
    tiny_llama().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def checkpoints(reference, tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    targets = {root / name: METHODS[name] for name in HONEST}
    quantize_many(reference, targets, random_calibration([12, 7, 12, 9]), progress=Silent())
    return root


@pytest.fixture
def damaged(checkpoints, tmp_path):
    """A copy of a checkpoint whose tensors were changed."""

    def damage(change, method="gptq4"):
        path = shutil.copytree(checkpoints / method, tmp_path / "copy")
        state = load_file(path / "model.safetensors")
        change(state)
        state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
        return path

    return damage


def found(reference, path):
    return weight_problems(reference, path)


@pytest.mark.parametrize("method", HONEST)
def test_honest_checkpoints_have_no_problem(method, reference, checkpoints):
    check_complete(reference, checkpoints / method, "mine")
    assert configuration_problems(reference, checkpoints / method) == []
    assert found(reference, checkpoints / method) == []


def zero(state):
    state[f"{UP}.scales"].zero_()


def zero_group(state):
    for name in state:
        if name.endswith(".scales"):
            state[name][0].zero_()


def swap(state):
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        for module in ("self_attn.q_proj", "mlp.up_proj"):
            one, other = (f"model.layers.{layer}.{module}.{part}" for layer in (0, 1))
            state[one], state[other] = state[other], state[one]


def next_zero(state):
    """Zero points of version 1 read as version 2: every weight is off by one step."""
    for name in state:
        if name.endswith(".qzeros"):
            state[name] = state[name] - 0x11111111


def turned(state):
    state[f"{UP}.qweight"] = state[f"{UP}.qweight"].flip(1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (zero, "1 matrix is all zeros where the reference's are not \\(model.layers.0.mlp.up_proj"),
        (zero_group, "matrices are no rounding of the reference's"),
        (swap, "4 matrices are no rounding of the reference's"),
        (next_zero, "14 matrices are 1[0-9] times as far from the reference's as rounding to their own steps"),
        (turned, f"1 matrix is no rounding of the reference's \\({UP}"),
    ],
)
def test_what_no_rounding_gives_is_named(damage, message, reference, damaged):
    assert re.search(message, "; ".join(found(reference, damaged(damage))))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_tables_of_levels_make_no_finer_grid(kind, reference, checkpoints, tmp_path):
    """bitsandbytes stores 16 and 256 levels beside every matrix: of a small one they are half of the bytes."""
    import bitsandbytes.functional as bnb

    path = shutil.copytree(checkpoints / "nf4", tmp_path / "copy")
    ours, state = load_file(reference / "model.safetensors"), load_file(path / "model.safetensors")
    for name in [name for name in state if f"{name}.absmax" in state]:
        packed, quant = bnb.quantize_4bit(ours[name], blocksize=64, quant_type=kind, compress_statistics=True)
        state = {key: tensor for key, tensor in state.items() if not key.startswith(f"{name}.")}
        state |= {name: packed, **{f"{name}.{key}": part for key, part in quant.as_dict(packed=True).items()}}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] |= {"bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": True}
    (path / "config.json").write_text(json.dumps(config))
    assert weight_problems(reference, path) == []


def test_a_bias_is_no_sign_of_a_stored_matrix(reference, damaged):
    def only_the_bias(state):
        drop(f"{UP}.")(state)
        state[f"{UP}.bias"] = torch.ones(4)

    with pytest.raises(ModelError, match=rf"1 weight is missing \({UP}.weight"):
        check_complete(reference, damaged(only_the_bias), "mine")


def test_a_matrix_of_another_shape_is_named(reference, damaged):
    def shorter(state):
        width = state[f"{UP}.qweight"].shape[1] // 2
        for part in ("qweight", "scales"):
            state[f"{UP}.{part}"] = state[f"{UP}.{part}"][:, :width]
        state[f"{UP}.qzeros"] = state[f"{UP}.qzeros"][:, : state[f"{UP}.qzeros"].shape[1] // 2]

    assert f"{UP} is (80, 96), not (160, 96)" in found(reference, damaged(shorter))[0]


def rotated(reference, path, stretched=1.0):
    """The reference in another basis of its hidden states; norms are folded into the matrices behind them.

    ``stretched``: a factor for half of its axes. A norm does not survive that, though all products do.
    """
    path = shutil.copytree(reference, path)
    state = {name: tensor.double() for name, tensor in load_file(path / "model.safetensors").items()}
    width = state["model.norm.weight"].numel()
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0)).double()).Q
    turn[:, ::2] *= stretched
    back = torch.linalg.inv(turn).t()
    for name in state:
        block, _, rest = name.partition(".self_attn." if "self_attn" in name else ".mlp.")
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            state[name] = turn.t() @ state[name]
        elif rest:
            norm = "input_layernorm" if "self_attn" in name else "post_attention_layernorm"
            state[name] = state[name] * state[f"{block}.{norm}.weight"] @ back
        elif name == "model.embed_tokens.weight":
            state[name] = state[name] @ turn
    turned = {name: torch.ones_like(t) if name.endswith("layernorm.weight") else t for name, t in state.items()}
    save_file({name: t.to(torch.bfloat16).contiguous() for name, t in turned.items()}, path / "model.safetensors")
    return path


def test_a_model_that_was_turned_as_a_whole_is_not_compared(reference, tmp_path):
    """Where the embedding differs as well, matrices of one basis say nothing about those of another."""
    assert found(reference, rotated(reference, tmp_path / "turned")) == []


def test_an_embedding_that_was_turned_alone_is_an_error(reference, tmp_path):
    path = rotated(reference, tmp_path / "turned")
    state = load_file(path / "model.safetensors")
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"].flip(1).contiguous()
    save_file(state, path / "model.safetensors")
    assert "nor is the model a rotation of it" in "; ".join(found(reference, path))


def test_an_embedding_in_another_basis_that_is_no_rotation_is_an_error(reference, tmp_path):
    """Though its products with the first matrices are what they were."""
    path = rotated(reference, tmp_path / "turned", stretched=2.0)
    assert "nor is the model a rotation of it" in "; ".join(found(reference, path))


def test_a_dead_layer_of_nf4(reference, damaged):
    path = damaged(lambda state: state[f"{UP}.weight.absmax"].zero_(), "nf4")
    assert "1 matrix is all zeros" in found(reference, path)[0]


def test_scales_that_are_no_numbers(reference, damaged):
    path = damaged(lambda state: state[f"{UP}.weight.absmax"].fill_(float("nan")), "nf4")
    assert f"{UP} (not finite)" in found(reference, path)[0]


def test_scales_that_something_makes_up_for_are_a_fold(reference, damaged):
    """Rows of up_proj times a factor, and the columns of down_proj by as much the other way."""

    def fold(state):
        state[f"{UP}.scales"].mul_(3)
        state[f"{UP.replace('up', 'down')}.scales"].div_(3)

    assert found(reference, damaged(fold)) == []


def test_scales_that_nothing_makes_up_for_are_none(reference, damaged):
    problems = found(reference, damaged(lambda state: state[f"{UP}.scales"].mul_(3)))
    assert problems == [f"1 tensor is the reference's times factors that nothing makes up for ({UP})"]


def drop(*starts):
    def change(state):
        for name in [name for name in state if name.startswith(starts)]:
            del state[name]

    return change


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (f"{UP}.", f"1 weight is missing \\({UP}.weight"),
        ("model.norm", "1 weight is missing \\(model.norm.weight"),
        ("model.layers.1.", "9 weights are missing"),
        ("model.embed_tokens", "2 weights are missing \\(model.embed_tokens.weight, lm_head"),
    ],
)
@pytest.mark.parametrize("method", ["gptq4", "nf4", "easyquant3"])
def test_missing_weights_are_named_from_the_headers(method, start, named, reference, damaged):
    with pytest.raises(ModelError, match=named):
        check_complete(reference, damaged(drop(start), method), "mine")


def edit(path, **changes):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def test_a_head_that_is_no_longer_tied_is_needed(reference, damaged):
    path = damaged(lambda state: None)
    edit(path, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"1 weight is missing \(lm_head"):
        check_complete(reference, path, "mine")
