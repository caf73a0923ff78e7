"""The audit of checkpoints that other tools wrote (tests/fixtures-src), whole and damaged."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints.audit import check_complete
from quantgate.checkpoints.causes import _lost, order_of_groups
from quantgate.checkpoints.findings import ERROR, WARNING, from_record
from quantgate.checkpoints.inspection import inspect
from quantgate.checkpoints.layouts.table import open_checkpoint
from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.quantize.catalogue.methods import get_method
from quantgate.subjects.make import quantize_checkpoint
from tests.unit.checkpoints.damages import DAMAGES, DOWN, HARMLESS, UP, damaged

DATA = Path(__file__).parents[2] / "data" / "checkpoints"
REFERENCE = DATA / "reference"
# name -> what the audit has to say of all or most matrices: modules, and how they are stored
WHOLE = {
    "ao_fp8": (14, "8-bit float, by row, F32 scales"),
    "ao_int8": (14, "8-bit int, by row, symmetric, F32 scales"),
    "ao_intx4": (14, "4-bit int, groups of 32, symmetric, BF16 scales"),
    "ar_auto_gptq": (14, "4-bit int, groups of 32, symmetric, F16 scales"),
    "ar_auto_round": (14, "4-bit int, groups of 32, symmetric, F16 scales"),
    "ar_auto_round_auto_awq": (14, "4-bit int, groups of 32, zero points, F16 scales"),
    "awq_gemv": (14, "4-bit int, groups of 32, zero points, F16 scales"),
    "mlx4": (15, "4-bit int, groups of 64, zero points, BF16 scales"),
    "mlx_mixed": (12, "3-bit int, groups of 32, zero points, BF16 scales"),
    "bnb_nf4": (14, "4-bit levels, groups of 64, F32 scales"),
    "bnb_nf4_dq": (14, "4-bit levels, groups of 64, U8 scales"),
    "bnb_fp4": (14, "4-bit levels, groups of 64, F32 scales"),
    "bnb_int8_skip": (12, "8-bit int, by row, symmetric, F32 scales"),
    "ct_fp8_block": (14, "8-bit float, blocks of 128 x 128, BF16 scales"),
    "ct_fp8_dynamic": (14, "8-bit float, by row, BF16 scales"),
    "ct_fp8_static": (14, "8-bit float, by matrix, BF16 scales"),
    "ct_mixed": (8, "8-bit float, by row, BF16 scales"),
    "ct_mxfp4a16": (14, "4-bit float, groups of 32, U8 scales"),
    "ct_nvfp4": (14, "4-bit float, groups of 16, F8_E4M3 scales"),
    "ct_w4a16_asym": (14, "4-bit int, groups of 32, zero points, BF16 scales"),
    "ct_w4a16_gptq": (14, "4-bit int, groups of 32, symmetric, BF16 scales"),
    "ct_w4a16_kv": (14, "4-bit int, groups of 32, symmetric, BF16 scales"),
    "ct_w8a8": (14, "8-bit int, by row, symmetric, BF16 scales"),
    "hqq4": (14, "4-bit int, groups of 32, zero points, BF16 scales"),
    "hqq3_axis0": (14, "3-bit int, zero points, BF16 scales"),
    "quanto_int4": (12, "4-bit int, groups of 64, zero points, BF16 scales"),
    "quanto_int8": (14, "8-bit int, by row, symmetric, BF16 scales"),
    "gptq_3bit": (14, "3-bit int, groups of 32, symmetric, F16 scales"),
    "gptq_act": (14, "4-bit int, groups of 32, symmetric, F16 scales"),
    "gptq_dynamic": (8, "4-bit int, groups of 32, symmetric, F16 scales"),
    "gptq_v1": (14, "4-bit int, groups of 32, symmetric, F16 scales"),
    "gptq_v2_asym": (14, "4-bit int, groups of 32, zero points, F16 scales"),
}
DAMAGED = (
    "gptq_act",
    "bnb_nf4",
    "bnb_int8_skip",
    "ct_w4a16_asym",
    "ct_w8a8",
    "ct_fp8_dynamic",
    "ct_nvfp4",
    "ao_intx4",
    "ar_auto_round_auto_awq",
    "awq_gemv",
    "mlx4",
)


@pytest.mark.parametrize("name", WHOLE)
def test_what_a_tool_wrote_is_described_and_has_no_error(name):
    check_complete(REFERENCE, DATA / name, name)
    found = inspect(DATA / name, REFERENCE, name)
    assert [each.sentence for each in found.findings if each.level in (ERROR, WARNING)] == []
    assert sum(row.how == WHOLE[name][1] for row in found.matrices) == WHOLE[name][0]
    assert all(row.error is not None and row.error < 0.1 for row in found.matrices)
    assert from_record(found.as_record()) == found


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_found(name, damage, tmp_path):
    path = tmp_path / "damaged"
    if not damaged(DATA / name, path, damage):
        pytest.skip("the layout has nothing of the kind")
    try:
        check_complete(REFERENCE, path, name)
        found = inspect(path, REFERENCE, name)
    except ModelError:
        return
    levels = {each.level for each in found.findings}
    assert ERROR in levels, [each.sentence for each in found.findings]


@pytest.mark.parametrize("change", HARMLESS)
@pytest.mark.parametrize("name", [*DAMAGED, "ct_fp8_static", "ct_fp8_block"])
def test_what_computes_the_same_is_no_error(name, change, tmp_path):
    """Factors that cancel out, and an order of heads or features that everything follows."""
    path = tmp_path / "changed"
    if not damaged(DATA / name, path, change):
        pytest.skip("the layout has nothing of the kind")
    check_complete(REFERENCE, path, name)
    found = inspect(path, REFERENCE, name)
    assert [each.sentence for each in found.of_level(ERROR)] == []


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_model_that_was_tuned_far_away_is_not_the_references_times_factors(share, tmp_path):
    draw = torch.Generator().manual_seed(1)
    found = changed(tmp_path, "rtn3", lambda name, each: each + low_rank(each, share, draw))
    assert [each.code for each in found.of_level(ERROR)] == (["far_from_rounding"] if share > 0.5 else [])


def test_nor_is_a_matrix_that_feedback_moved_far(tmp_path):
    """At 3 bits GPTQ moves one matrix of the bundled model by two thirds of it: a half is like factors of columns."""
    draw = torch.Generator().manual_seed(1)

    def moved(name, each):
        columns = 1 + 0.25 * torch.randn(each.shape[1], generator=draw)
        return each * columns + low_rank(each, 0.5, draw) if DOWN in name else each

    assert list(changed(tmp_path, "rtn4", moved).of_level(ERROR)) == []


def low_rank(weight, share, draw):
    """A matrix of rank 8, as long as that ``share`` of ``weight``."""
    change = torch.randn(len(weight), 8, generator=draw) @ torch.randn(8, weight.shape[1], generator=draw)
    return change * (share * weight.float().norm() / change.norm())


def changed(place, method, change):
    """The audit of the reference with ``change`` in the matrices of its blocks, rounded by ``method``."""
    tuned = shutil.copytree(REFERENCE, place / "tuned")
    tensors = load_file(REFERENCE / "model.safetensors")
    for name, each in tensors.items():
        if ".layers." in name and each.ndim == 2:
            tensors[name] = change(name, each).to(each.dtype)
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    return inspect(rounded(tuned, method, place / "made"), REFERENCE, "tuned")


def rounded(place, method, target):
    """The model in ``place`` rounded by a row of the table that needs no text."""
    quantize_checkpoint(place, get_method(method), None, target, progress=Silent())
    return target


@pytest.fixture(scope="module", params=["rtn3", "rtn2"])
def twice(request, tmp_path_factory):
    """A small term merged into rounded weights, and these rounded again: the reference, rounded, merged and rounded."""
    place = tmp_path_factory.mktemp(request.param)
    first = open_checkpoint(rounded(REFERENCE, request.param, place / "first"), REFERENCE, "first")
    merged = shutil.copytree(REFERENCE, place / "merged")
    tensors = load_file(REFERENCE / "model.safetensors")
    draw = torch.Generator().manual_seed(1)
    for module in first.modules:
        each = first.weight(module)
        change = torch.randn(len(each), 4, generator=draw) @ torch.randn(4, each.shape[1], generator=draw)
        tensors[f"{module}.weight"] = (each + change * (0.05 * each.norm() / change.norm())).to(torch.bfloat16)
    save_file(tensors, merged / "model.safetensors", metadata={"format": "pt"})
    return rounded(merged, request.param, place / "twice")


def test_weights_that_were_rounded_changed_and_rounded_again_are_no_damage(twice):
    """The largest weight of a group lay half a step beyond the last level: its step moves by 1 in 7, or by 1 in 3."""
    found = inspect(twice, REFERENCE, "twice")
    assert [each.sentence for each in found.of_level(ERROR)] == []
    (again,) = [each for each in found.findings if each.code == "rounded_again"]
    assert len(again.modules) > 7
    assert max(again.numbers.values()) < 0.4


@pytest.mark.parametrize("how", ["all alike", "another order"])
def test_scales_that_belong_to_other_groups_are_no_second_rounding(how, twice, tmp_path):
    path = shutil.copytree(twice, tmp_path / "damaged")
    state = load_file(path / "model.safetensors")
    scales = state[f"{UP}.scales"]
    draw = torch.randperm(scales.numel(), generator=torch.Generator().manual_seed(2))
    other = torch.full_like(scales, float(scales.float().mean()))
    state[f"{UP}.scales"] = other if how == "all alike" else scales.flatten()[draw].view_as(scales).contiguous()
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    found = inspect(path, REFERENCE, "damaged")
    assert UP in [name for each in found.of_level(ERROR) for name in each.modules]


@pytest.mark.parametrize(("order", "codes"), [("stored", []), ("drawn", ["order_of_groups"])])
def test_groups_whose_scales_are_alike_are_in_no_other_order(order, codes, tmp_path):
    """As GPTQ leaves them in 3 bits: many features fit another group a little better than their own."""
    path = shutil.copytree(DATA / "gptq_act", tmp_path / "theirs")
    state = load_file(path / "model.safetensors")
    scales = state[f"{DOWN}.scales"]
    scales[1:] = scales[1] * torch.tensor([[1.0], [1.001], [0.999]])
    scales[0] *= 4
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    generator = torch.Generator().manual_seed(3)
    weight = open_checkpoint(path, None, "theirs").weight(DOWN)
    weight = weight + 0.1 * weight.abs().mean() * torch.randn(weight.shape, generator=generator)
    if order == "drawn":
        state[f"{DOWN}.g_idx"] = state[f"{DOWN}.g_idx"][torch.randperm(128, generator=generator)].contiguous()
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    found = order_of_groups(DOWN, weight, open_checkpoint(path, None, "theirs"))
    assert [each.code for each in found] == codes


def test_what_features_lose_under_every_group_is_the_squared_error():
    generator = torch.Generator().manual_seed(1)
    codes, target = torch.randint(0, 16, (48, 20), generator=generator), torch.randn(48, 20, generator=generator)
    scales, zeros = torch.rand(3, 20, generator=generator), torch.randint(0, 16, (3, 20), generator=generator)
    expected = [
        (s.double() * (codes - z) - target.double()).square().sum(1) for s, z in zip(scales, zeros, strict=True)
    ]
    found = _lost(codes.float(), scales, zeros.float(), target)
    torch.testing.assert_close(found, torch.stack(expected).float(), rtol=1e-4, atol=1e-4)


def codes_of(found):
    return {each.code: each.modules for each in found.findings}


def test_two_matrices_of_the_same_values_are_told_without_a_reference(tmp_path):
    path, other = shutil.copytree(DATA / "gptq_act", tmp_path / "theirs"), UP.replace(".0.", ".1.")
    state = load_file(path / "model.safetensors")
    state |= {name.replace(UP, other): each.clone() for name, each in state.items() if name.startswith(f"{UP}.")}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    assert codes_of(inspect(path, None, "theirs"))["duplicated"] == (UP, other)
    assert "duplicated" not in codes_of(inspect(DATA / "gptq_act", None, "theirs"))


def test_groups_without_a_value_are_counted(tmp_path):
    """Zeros in 16 bit: no scale says so."""
    path = shutil.copytree(DATA / "bnb_nf4", tmp_path / "theirs")
    state = load_file(path / "model.safetensors")
    state[f"{UP}.weight.absmax"][:3] = 0
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    found = inspect(path, REFERENCE, "theirs")
    assert [each.numbers for each in found.findings if each.code == "empty_groups"] == [{UP: 3}]


def test_what_a_layout_suspects_by_itself_is_told(tmp_path):
    """Zero points that belong to the other version of GPTQ's layout."""
    path = shutil.copytree(DATA / "gptq_v1", tmp_path / "theirs")
    state = load_file(path / "model.safetensors")
    before = codes_of(inspect(path, None, "theirs")).keys()
    for name in [name for name in state if name.endswith(".qzeros")]:
        state[name] = state[name] + 0x11111111
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    assert codes_of(inspect(path, None, "theirs")).keys() - before
