"""The correction against the optimum that Eckart and Young give for what it is said to minimise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantgate.compensation.eora import corrections
from quantgate.compensation.low_rank import correction, output_error
from quantgate.core.errors import MethodError
from quantgate.core.progress import Silent
from tests.unit.conftest import random_calibration, tiny_llama
from tests.unit.diagnosis.models import reference, rounded


def drawn(seed, rows, columns, tokens):
    """An error, and inputs of which some directions are large, some small, and with few tokens some are missing."""
    draw = np.random.default_rng(seed)
    inputs = np.exp(draw.normal(0, 1.5, columns))[:, None] * draw.normal(size=(columns, tokens))
    return draw.normal(size=(rows, columns)), inputs


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(2, 12), st.integers(1, 30), st.integers(1, 14))
def test_no_correction_of_that_rank_leaves_less(seed, rows, columns, tokens, rank):
    error, inputs = drawn(seed, rows, columns, tokens)
    gram = torch.from_numpy(inputs @ inputs.T)
    up, down = correction(torch.from_numpy(error), gram, rank)
    assert (up.shape, down.shape) == ((rows, rank), (rank, columns))
    left = np.linalg.norm((error - up.numpy() @ down.numpy()) @ inputs) ** 2
    sizes = np.linalg.svd(error @ inputs, compute_uv=False)  # float64, of the outputs themselves: no gram, no root
    least, whole = float((sizes[rank:] ** 2).sum()), float((sizes**2).sum())
    assert left == pytest.approx(least, abs=1e-5 * whole)
    assert output_error(torch.from_numpy(error), gram) == pytest.approx(whole, rel=1e-9)


def test_the_inputs_count_and_not_the_weights_alone():
    error, inputs = drawn(3, 10, 12, 40)
    up, down = correction(torch.from_numpy(error), torch.from_numpy(inputs @ inputs.T), 2)
    left, sizes, right = np.linalg.svd(error)
    plain = (left[:, :2] * sizes[:2]) @ right[:2]
    weighed = np.linalg.norm((error - up.numpy() @ down.numpy()) @ inputs)
    assert weighed < 0.9 * np.linalg.norm((error - plain) @ inputs)


def quantized(bits=3):
    model = reference()
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".layers." in name:
            layer.weight.data = rounded(layer.weight.data, bits)
    return model


def divergence(model, samples):
    ours = reference()
    found = []
    with torch.no_grad():
        for sample in samples:
            ids = torch.tensor([sample])
            p, q = (each(input_ids=ids).logits.log_softmax(-1) for each in (ours, model))
            found.append(float((p.exp() * (p - q)).sum(-1).mean()))
    return sum(found) / len(found)


def test_a_model_comes_nearer_to_its_original_on_text_it_was_not_corrected_on():
    seen, unseen = random_calibration([30] * 12, 1).samples, random_calibration([30] * 4, 2).samples
    model = quantized()
    before = divergence(model, unseen)
    parts, left = corrections(reference(), model, seen, 8, Silent())
    assert len(parts) == 4 * 7
    assert all(up.shape[1] == down.shape[0] == 8 for up, down in parts.values())
    assert 0 < left < 0.8
    assert divergence(model, unseen) < 0.8 * before
    again, _ = corrections(reference(), quantized(), seen, 96, Silent())
    assert all(torch.count_nonzero(up).item() for up, _ in again.values())


def test_layers_that_lost_nothing_get_no_correction():
    model = reference()
    parts, left = corrections(reference(), model, [[1, 2, 3]], 4, Silent())
    assert (parts, left) == ({}, 1.0)
    layer = model.get_submodule("model.layers.1.mlp.up_proj")
    layer.weight.data = rounded(layer.weight.data, 3)
    parts, _ = corrections(reference(), model, [[1, 2, 3]], 4, Silent())
    assert list(parts) == ["model.layers.1.mlp.up_proj"]


def test_no_text_is_refused():
    with pytest.raises(MethodError, match="text without tokens"):
        corrections(tiny_llama(), tiny_llama(), [[]], 4, Silent())
