"""Packed execution computes what the unpacked weights compute, holds fewer bytes, and says so when it cannot."""

from dataclasses import replace

import pytest
import torch

from quantgate.checkpoints.checkpoint import load_quantized, stored_tensors
from quantgate.core.errors import MethodError, ModelError
from quantgate.efficiency.architecture import read_architecture
from quantgate.efficiency.execution import Int4Linear, kernel_group, load_packed, load_plain, resident_bytes
from quantgate.efficiency.weights import predicted_bytes
from quantgate.models.files import read_json
from quantgate.models.tensors import stored_bytes
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.grids import UniformGrid
from quantgate.quantize.numerics.uniform import UniformWeight

IDS = torch.arange(40).view(2, 20)


def weight(columns, rows, group, seed=0, shuffle=True):
    """A random asymmetric 4-bit layer whose input features belong to shuffled groups, as act-order leaves them."""
    generator = torch.Generator().manual_seed(seed)
    groups = -(-columns // group)
    g_idx = (torch.arange(columns) // group).to(torch.int32)
    if shuffle:
        g_idx = g_idx[torch.randperm(columns, generator=generator)]
    return UniformWeight(
        torch.randint(0, 16, (columns, rows), generator=generator).to(torch.uint8),
        (torch.rand(groups, rows, generator=generator) + 0.5).to(torch.float16) / 32,
        torch.randint(0, 16, (groups, rows), generator=generator).to(torch.uint8),
        g_idx,
        UniformGrid(4, False),
    )


@pytest.mark.parametrize(("columns", "rows", "group", "shuffle"), [(192, 32, 128, True), (256, 48, 32, False)])
def test_the_int4_layer_by_float64(columns, rows, group, shuffle):
    stored = weight(columns, rows, group, shuffle=shuffle)
    layer = Int4Linear(stored, torch.ones(rows, dtype=torch.bfloat16))
    x = torch.randn(3, 5, columns).to(torch.bfloat16)
    index = stored.g_idx.long()
    exact = (stored.codes.double() - stored.zeros[index].double()) * stored.scales[index].double()
    expected = x.double() @ exact + 1
    assert (layer(x).double() - expected).abs().max() < 0.02 * expected.abs().max()
    assert (layer.order is None) == (not shuffle)


def test_groups_the_kernel_can_take():
    def of(*sizes):
        return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))

    assert kernel_group(of(128, 128, 64)) == 64  # the bundled model's last group is half as long
    assert kernel_group(of(256, 256)) == 256
    assert kernel_group(of(128, 100)) == 0


@pytest.mark.parametrize(
    ("name", "kernel"), [("int8", "int8 (bitsandbytes)"), ("gptq4", "int4 (torch)"), ("rtn4", "int4 (torch)")]
)
def test_packed_execution_agrees_with_the_unpacked_weights(quantized, reference, name, kernel):
    path = quantized(name)
    loaded = load_packed(path, "bfloat16", "cpu")
    assert (loaded.execution.name, loaded.execution.packed) == (kernel, True)
    with torch.no_grad():
        expected = load_quantized(path, torch.bfloat16)(input_ids=IDS).logits.float()
        found = loaded.model(input_ids=IDS).logits.float()
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()
    plain = load_plain(reference, "reference", "bfloat16", "cpu")
    assert resident_bytes(loaded.model) < 0.75 * resident_bytes(plain.model)


def test_nf4_runs_packed_where_bitsandbytes_can(quantized):
    from bitsandbytes.functional import has_avx512bf16

    path = quantized("nf4")
    loaded = load_packed(path, "bfloat16", "cpu")
    assert loaded.execution.packed == has_avx512bf16()
    with torch.no_grad():
        expected = load_quantized(path, torch.bfloat16)(input_ids=IDS).logits.float()
        found = loaded.model(input_ids=IDS).logits.float()
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()


def test_what_has_no_kernel_is_unpacked_and_says_why(quantized):
    loaded = load_packed(quantized("rtn8"), "bfloat16", "cpu")
    assert (loaded.execution.name, loaded.execution.packed) == ("dequantized to bfloat16", False)
    assert loaded.execution.why_not == "torch has no product with 8-bit weights in groups"
    same = load_quantized(quantized("rtn8"), torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=IDS).logits, same(input_ids=IDS).logits)
    assert "bfloat16 only" in load_packed(quantized("rtn4"), "float32", "cpu").execution.why_not


def test_a_checkpoint_that_was_never_quantized_is_refused(reference):
    with pytest.raises(ModelError, match="no quantization_config"):
        load_packed(reference, "bfloat16", "cpu")


# one row of a kind: how many bits, and what the codes were fitted to, change no formula
KINDS = {
    (
        method.algorithm, method.storage, method.transformation, method.activations is None, method.kv_cache is None,
        method.rotation is None, method.bits < 8, method.bits == 3,
    ): name
    for name, method in METHODS.items()
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS.values())
def test_predicted_bytes_are_the_files_bytes(quantized, reference, name):
    if METHODS[name].algorithm == "hqq":
        pytest.importorskip("hqq")
    path = quantized(name)
    found, tensors = stored_bytes(path), dict(stored_tensors(path))
    assert found == sum(tensor.nbytes for tensor in tensors.values())
    # a rotated head is no copy of the embedding any more
    config = read_json(path / "config.json", name)
    shape = replace(read_architecture(reference, "reference"), tied=config["tie_word_embeddings"])
    outliers = sum(tensor.numel() for key, tensor in tensors.items() if key.endswith("outlier_values"))
    predicted = predicted_bytes(shape, config["quantization_config"], outliers / shape.block_weights)
    # how many outliers lie in which row differs by processor: of so small a model, more than 1%
    assert predicted == pytest.approx(found, rel=0.02 if outliers else 0.01)


def test_an_unknown_layout_has_no_prediction(reference):
    with pytest.raises(MethodError, match="layout 'other'"):
        predicted_bytes(read_architecture(reference, "reference"), {"quant_method": "other"})


@pytest.mark.parametrize("name", ["smoothquant8", "kv8"])
def test_simulated_integers_are_labelled(quantized, name):
    execution = load_packed(quantized(name), "bfloat16", "cpu").execution
    assert (execution.name, execution.packed) == ("simulated in bfloat16", False)
    assert "no integer kernel" in execution.why_not
