"""A cache of codes: what it holds, what it gives back, and what its bytes are."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from quantgate.core.errors import MethodError
from quantgate.quantize.settings import StoredCacheSettings
from quantgate.quantize.transforms.stored_cache import Codes, StoredCache, StoredLayer
from tests.unit.conftest import tiny_llama

HEADS, CHANNELS = 3, 32


def states(tokens, seed=0):
    shape = (2, 2, HEADS, tokens, CHANNELS)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).unbind(0)


def rounded(values, bits, axis):
    """KIVI's formula in float64 along ``axis`` in groups of 8: min and range are numbers of the dtype at hand."""
    moved = np.moveaxis(values.double().numpy(), axis, -1)
    runs = moved.reshape(*moved.shape[:-1], -1, 8)
    low = runs.min(-1, keepdims=True)
    scale = ((runs.max(-1, keepdims=True) - low) / (2**bits - 1)).astype(np.float32)
    codes = np.rint((runs - low) / scale)
    return torch.from_numpy(np.moveaxis((codes * scale + low).reshape(moved.shape), -1, axis).copy())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("chunks", [[40], [1] * 40, [17, 3, 1, 19]])
def test_old_tokens_are_codes_and_new_ones_are_not(bits, chunks):
    """However the tokens come: keys by channel over groups of tokens, values by token over groups of channels."""
    layer, residual = StoredLayer(StoredCacheSettings(bits, 8, 16)), 16
    keys, values = states(sum(chunks))
    for k, v in zip(torch.split(keys, chunks, 2), torch.split(values, chunks, 2), strict=True):
        layer.update(k, v)
    found_keys, found_values = layer.update(*(each[:, :, :0] for each in (keys, values)))
    coded = 40 // residual * residual
    expected = torch.cat([rounded(keys[:, :, :coded], bits, 2), keys[:, :, coded:].double()], 2)
    torch.testing.assert_close(found_keys.double(), expected, rtol=1e-5, atol=1e-5)
    expected = torch.cat([rounded(values[:, :, :-residual], bits, 3), values[:, :, -residual:].double()], 2)
    torch.testing.assert_close(found_values.double(), expected, rtol=1e-5, atol=1e-5)
    assert layer.get_seq_length() == 40


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bytes_are_what_the_formula_says(bits):
    layer = StoredLayer(StoredCacheSettings(bits, 32, 32))
    keys, values = (each.to(torch.bfloat16) for each in states(32 * 5 + 7))
    layer.update(keys, values)
    numbers, coded = 2 * HEADS * CHANNELS, (5 * 32, 4 * 32 + 7)  # of a token; tokens of keys and of values
    held = 16 * numbers * (7 + 32)
    assert layer.nbytes * 8 == held + sum(tokens * numbers * (bits + 2 * 16 / 32) for tokens in coded)
    assert layer.keys.untyped_storage().nbytes() == layer.keys.nbytes  # no view keeps the coded tokens alive
    assert layer.values.untyped_storage().nbytes() == layer.values.nbytes


def test_a_group_of_equal_numbers_is_kept():
    found = Codes(torch.full((1, 16), 0.3), 2, 8)
    assert torch.equal(found.values(), torch.full((1, 16), 0.3))


def continued(model, cache, tokens):
    with torch.no_grad():
        out = model(tokens[:, :24], past_key_values=cache).logits
        rest = [model(tokens[:, at : at + 1], past_key_values=cache).logits for at in range(24, tokens.shape[1])]
    return torch.cat([out, *rest], 1)


def test_a_model_reads_it():
    model = tiny_llama().float()
    tokens = torch.randint(3, 60, (2, 40), generator=torch.Generator().manual_seed(0))
    expected = continued(model, DynamicCache(), tokens)
    changes = []
    for bits in (8, 4, 2):
        cache = StoredCache(2, StoredCacheSettings(bits, 8, 8))
        found = continued(model, cache, tokens)
        assert torch.equal(found[:, :24], expected[:, :24])  # a prompt attends to itself as it is
        changes.append(float((found - expected)[:, 24:].norm() / expected[:, 24:].norm()))
    assert changes[0] < 0.2 * changes[1] < 0.2 * changes[2]
    long = continued(model, StoredCache(2, StoredCacheSettings(2, 8, 48)), tokens)
    assert torch.equal(long, expected)  # everything is within the residual


def test_what_does_not_fit_is_refused():
    for wrong in ({"bits": 3}, {"residual": 40}, {"group_size": 0}, {"group_size": 2, "residual": 4}):
        with pytest.raises(MethodError, match="stored cache"):
            StoredCacheSettings(**wrong)
    with pytest.raises(MethodError, match="heads of 32 channels; expected whole groups of 24"):
        StoredLayer(StoredCacheSettings(2, 24, 48)).update(*states(4))
