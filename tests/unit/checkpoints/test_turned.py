"""A model that was rotated as a whole: a sound one raises nothing, what is not the reference's is found."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints.findings import ERROR, FACT
from quantgate.checkpoints.inspection import inspect
from quantgate.checkpoints.turned import _apart
from quantgate.core.progress import Silent
from quantgate.quantize.catalogue.methods import get_method
from quantgate.subjects.make import quantize_checkpoint

REFERENCE = Path(__file__).parents[2] / "data" / "checkpoints" / "reference"
BLOCK = "model.layers.1."
Q, K, V, O = (f"{BLOCK}self_attn.{side}_proj" for side in "qkvo")  # noqa: E741
GATE, UP, DOWN = (f"{BLOCK}mlp.{side}_proj" for side in ("gate", "up", "down"))


@pytest.fixture(scope="module")
def rotated(tmp_path_factory):
    place = tmp_path_factory.mktemp("rotated")
    quantize_checkpoint(REFERENCE, get_method("quarot-rtn-w4"), None, place / "made", progress=Silent())
    return place / "made"


def said(rotated, place, change):
    """Modules of the errors after ``change``."""
    path = shutil.copytree(rotated, place / "theirs")
    state = load_file(path / "model.safetensors")
    change(state)
    save_file({name: each.contiguous() for name, each in state.items()}, path / "model.safetensors")
    found = inspect(path, REFERENCE, "theirs")
    assert "rotated" in [each.code for each in found.of_level(FACT)]
    return {name for each in found.of_level(ERROR) for name in each.modules}


def exchanged(one, other):
    def change(state):
        for name in [name for name in state if name.startswith(f"{one}.")]:
            there = name.replace(one, other)
            state[name], state[there] = state[there], state[name]

    return change


def of(name, how):
    return lambda state: state.update({name: how(state[name])})


def test_a_whole_one_raises_nothing(rotated, tmp_path):
    assert said(rotated, tmp_path, lambda state: None) == set()


@pytest.mark.parametrize("module", [Q, K, V, O, GATE, UP, DOWN])
def test_two_blocks_that_exchanged_a_matrix(module, rotated, tmp_path):
    assert {module, module.replace(".1.", ".0.")} <= said(
        rotated, tmp_path, exchanged(module, module.replace(".1.", ".0."))
    )


@pytest.mark.parametrize(
    ("change", "modules"),
    [
        (of(f"{DOWN}.qweight", lambda each: each.flip(0)), {DOWN}),
        (of(f"{DOWN}.qweight", lambda each: ((each >> 4) & 0x0F0F0F0F) | ((each & 0x0F0F0F0F) << 4)), {DOWN}),
        (of(f"{V}.scales", lambda each: each.flip(1) * 4), {V}),
        (of(f"{DOWN}.scales", lambda each: each * (torch.arange(each.shape[1]) > 9)), {DOWN}),
        (of(f"{BLOCK}input_layernorm.weight", torch.zeros_like), {Q, K, V}),
        (of(f"{BLOCK}post_attention_layernorm.weight", lambda each: each * float("nan")), {GATE, UP}),
        (of("model.norm.weight", lambda each: each * torch.arange(len(each))), {"lm_head"}),
        (of("lm_head.weight", lambda each: each.roll(1, 0)), {"lm_head"}),
    ],
)
def test_other_damages(change, modules, rotated, tmp_path):
    assert modules <= said(rotated, tmp_path, change)


def test_factors_that_two_matrices_give_each_other_are_none(rotated, tmp_path):
    def change(state):
        for one, other in ((Q, K), (V, O), (UP, DOWN)):
            state[f"{one}.scales"] *= 4
            state[f"{other}.scales"] /= 4

    assert said(rotated, tmp_path, change) == set()


def test_few_bits_are_no_damage(tmp_path):
    quantize_checkpoint(REFERENCE, get_method("quarot-rtn-w3"), None, tmp_path / "made", progress=Silent())
    assert said(tmp_path / "made", tmp_path, lambda state: None) == set()
    other = tmp_path / "other"
    other.mkdir()
    assert {UP, GATE} <= said(tmp_path / "made", other, exchanged(UP, GATE))


@pytest.mark.parametrize(("bits", "alike"), [(2, True), (3, True), (4, False), (16, False)])
def test_of_two_and_three_bits_the_angle_decides(bits, alike):
    """GPTQ to two bits moved the bundled model's first down_proj by 1.5 times its square, at a cosine of 0.5."""
    generator = torch.Generator().manual_seed(1)
    one = torch.randn(128, 64, generator=generator)
    moved = one + 1.1 * torch.randn(128, 64, generator=generator)
    assert (_apart(one, moved, bits) <= 0.5) is alike
    assert _apart(one, 5 * one, bits) > 0.5
    assert (_apart(one, 3 * one, bits) <= 0.5) is alike
    assert _apart(one, torch.randn(128, 64, generator=generator), bits) > 0.5
