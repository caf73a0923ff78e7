"""What an algorithm of another package must not give back: one sentence that names the layers, before it is used."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.quantize.algorithms.rtn import Rtn
from quantgate.quantize.base import LayerResult
from quantgate.quantize.settings import RtnSettings
from quantgate.quantize.sweep.results import dequantized, quantized

WEIGHT = torch.linspace(-1, 1, 64).reshape(4, 16).bfloat16()
[SOUND] = Rtn(RtnSettings(4, 16)).quantize([WEIGHT], None)


def given(found):
    return SimpleNamespace(quantize=lambda weights, statistics: found)


GIVEN = {
    "gave 0 for 1 layers; expected one result a layer": [],
    "gave 2 for 1 layers": [SOUND, SOUND],
    "gave a NoneType for 1 layers": None,
    "gave a int, expected a LayerResult": [3],
    "gave a str for a loss": [LayerResult(SOUND.weight, "good")],
    "gave 32 weights, expected 64": Rtn(RtnSettings(4, 16)).quantize([WEIGHT[:2]], None),
}


@pytest.mark.parametrize("words", GIVEN)
def test_results(words):
    with pytest.raises(MethodError, match=r"theirs: block\.q_proj: the algorithm ") as error:
        quantized(given(GIVEN[words]), [WEIGHT], None, ["block.q_proj"], "theirs")
    assert words in str(error.value)


STORED = {
    "its quantized weight is [8, 8] torch.bfloat16; expected [4, 16] torch.bfloat16": WEIGHT.reshape(8, 8),
    "its quantized weight is [4, 16] torch.float32": WEIGHT.float(),
    "its quantized weight is NoneType": None,
    "its quantized weight is not finite": WEIGHT * float("nan"),
}


@pytest.mark.parametrize("words", STORED)
def test_weights(words):
    result = LayerResult(SimpleNamespace(n_weights=64, dequantize=lambda dtype: STORED[words]), 0.0)
    with pytest.raises(MethodError) as error:
        dequantized(result, torch.bfloat16, WEIGHT.shape, "theirs: block.q_proj")
    assert str(error.value).startswith(f"theirs: block.q_proj: {words}")


def test_sound_results_are_taken():
    [found] = quantized(Rtn(RtnSettings(4, 16)), [WEIGHT], None, ["q"], "rtn")
    assert torch.equal(dequantized(found, WEIGHT.dtype, WEIGHT.shape, "q"), SOUND.weight.dequantize(WEIGHT.dtype))
