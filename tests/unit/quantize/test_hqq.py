import importlib.util

import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.quantize.algorithms.hqq import Hqq, HqqWeight, from_tensors, hqq
from quantgate.quantize.algorithms.rtn import rtn
from quantgate.quantize.settings import HqqSettings, RtnSettings

INSTALLED = importlib.util.find_spec("hqq") is not None
needs_library = pytest.mark.skipif(not INSTALLED, reason="hqq is optional: pip install 'quantgate[hqq]'")


def weights(rows=24, columns=128):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.05


def stored(bits=3):
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 2**bits, (6, 128), dtype=torch.uint8, generator=generator)
    scales, zeros = (torch.rand(6, 2, generator=generator).half() for _ in range(2))
    return HqqWeight(codes, scales, zeros * 2**bits, bits)


def test_dequantizes_by_definition():
    weight = stored()
    values = weight.dequantize(torch.float64)
    for row, column in ((0, 0), (5, 63), (5, 64), (2, 127)):
        group = column // 64
        step = float(weight.codes[row, column]) - float(weight.zeros[row, group])
        assert float(values[row, column]) == pytest.approx(float(weight.scales[row, group]) * step, rel=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_there_and_back(bits):
    weight, algorithm = stored(bits), Hqq(HqqSettings(bits))
    again = from_tensors(weight.tensors(), algorithm.checkpoint_config(), "layer")
    assert torch.equal(again.dequantize(torch.float32), weight.dequantize(torch.float32))
    words = 8 * sum(tensor.nbytes for tensor in weight.tensors().values()) - 64
    assert words / weight.n_weights == bits + 32 / 64


def test_groups_that_run_on_are_refused():
    with pytest.raises(MethodError, match="70 input features; expected a multiple of 64"):
        hqq(torch.ones(4, 70), HqqSettings(4))


@pytest.mark.skipif(INSTALLED, reason="the library is there")
def test_without_the_library_the_message_says_how_to_get_it():
    with pytest.raises(MethodError, match="pip install hqq"):
        hqq(weights(), HqqSettings(4))


@needs_library
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_librarys_weights_are_what_is_stored(bits):
    from hqq.core.quantize import Quantizer

    weight = weights()
    codes, meta = Quantizer.quantize(
        weight.clone(), nbits=bits, group_size=64, axis=1, round_zero=bits == 4, bitpack=False, device="cpu"
    )
    theirs = ((codes - meta["zero"]) * meta["scale"]).view_as(weight)
    ours = hqq(weight, HqqSettings(bits)).dequantize(torch.float32)
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3 * float(theirs.abs().max()))  # fp16 statistics


@needs_library
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_absolute_error_below_rtn(bits):
    weight = weights()
    ours = hqq(weight, HqqSettings(bits)).dequantize(torch.float32)
    plain = rtn(weight, RtnSettings(bits, 64, sym=False)).dequantize(torch.float32)
    assert (ours - weight).abs().mean() < (plain - weight).abs().mean()
