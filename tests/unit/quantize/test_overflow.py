"""Weights that a method's own number formats cannot hold end in a sentence, never in a checkpoint full of NaN."""

import pytest
import torch
from safetensors.torch import load_file

from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.core.errors import MethodError
from quantgate.core.progress import Silent
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.subjects.make import quantize_checkpoint
from tests.unit.conftest import tiny_llama

LAYER = "model.layers.1.mlp.down_proj"


ONE_EACH = {(row.algorithm, type(row.transformation)): name for name, row in METHODS.items() if row.standard}


@pytest.mark.parametrize("name", ONE_EACH.values())
def test_huge_weights(name, tmp_path, calibration):
    """One weight of 1e30 (bf16 holds it): either the result is finite, or one sentence names method and layer."""
    model = tiny_llama()
    with torch.no_grad():
        model.get_submodule(LAYER).weight[0, 0] = 1e30
    model.save_pretrained(tmp_path / "model")
    given = calibration if METHODS[name].needs_calibration else None
    try:
        quantize_checkpoint(tmp_path / "model", METHODS[name], given, tmp_path / "made", progress=Silent())
    except MethodError as error:
        assert "finite" in str(error) or "fp16" in str(error)  # noqa: PT017
        return
    weight = load_quantized(tmp_path / "made", torch.float32).get_submodule(LAYER).weight
    assert bool(torch.isfinite(weight.float()).all())
    assert all(torch.isfinite(each.float()).all() for each in load_file(tmp_path / "made/model.safetensors").values())
