import pytest
import torch

from quantgate.core.errors import MethodError, ModelError
from quantgate.quantize.algorithms.easyquant import EasyQuant, easyquant, fit, from_tensors, outlier_mask
from quantgate.quantize.algorithms.rtn import rtn
from quantgate.quantize.numerics.layout import PREFIX
from quantgate.quantize.settings import EasyQuantSettings, RtnSettings


def weights(rows=64, columns=200, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.04


def squared_error(stored, weight):
    return float((stored.dequantize(torch.float32) - weight.float()).square().sum())


def test_three_sigmas_of_a_normal_are_its_known_share():
    share = outlier_mask(weights(1000, 1000), 3.0).float().mean()
    assert float(share) == pytest.approx(0.0027, rel=0.05)


def test_the_distance_is_from_the_mean_and_in_standard_deviations():
    weight = torch.full((10, 10), 5.0)
    weight[0, :2] = torch.tensor([5.0 + 9.0, 5.0 - 9.0])  # mean 5, standard deviation 9 * sqrt(2 / 100) = 1.27
    assert outlier_mask(weight, 3.0).nonzero().tolist() == [[0, 0], [0, 1]]
    assert not outlier_mask(weight, 7.1).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outliers_are_the_source_bit_for_bit(dtype):
    weight = weights().to(dtype)
    stored = easyquant(weight, EasyQuantSettings(3))
    mask = outlier_mask(weight.float(), 3.0)
    assert stored.outliers.count == int(mask.sum()) > 10
    assert torch.equal(stored.dequantize(dtype)[mask], weight[mask])


def adam(members, bits, steps=500, rate=1e-3):
    """The paper's descent: absmax start, gradient with the rounding held constant, for every column."""
    scale = (members.abs().amax(0) / (2 ** (bits - 1) - 1)).clone()
    unit, first, second, best = scale.clone(), torch.zeros_like(scale), torch.zeros_like(scale), torch.inf
    for step in range(1, steps + 1):
        codes = (members / scale).round().clamp(1 - 2 ** (bits - 1), 2 ** (bits - 1))
        error = (codes * scale - members).square().sum(0)
        best = torch.minimum(error, torch.as_tensor(best))
        gradient = 2 * ((codes * scale - members) * codes).sum(0)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        scale = scale - rate * unit * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return best


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_range_is_at_least_as_good_as_the_papers_descent(bits):
    members = weights(100, 128).t().contiguous()
    scale = fit(members, bits)
    codes = (members / scale).round().clamp(1 - 2 ** (bits - 1), 2 ** (bits - 1))
    ours = (codes * scale - members).square().sum(0)
    descended = adam(members, bits)
    assert float(ours.sum()) <= 1.001 * float(descended.sum())
    absmax = adam(members, bits, steps=1)
    assert (ours <= absmax * 1.05).all()  # absmax with a scale that fp16 does not hold
    if bits < 8:
        assert float(ours.sum()) < 0.9 * float(absmax.sum())


@pytest.mark.parametrize("group_size", [128, 32, -1])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_error_below_rtn_at_equal_group(bits, group_size):
    weight = weights()
    weight[::7, ::11] *= 5
    ours = squared_error(easyquant(weight, EasyQuantSettings(bits, group_size)), weight)
    assert ours < 0.8 * squared_error(rtn(weight, RtnSettings(bits, group_size)), weight)


def test_error_falls_with_bits_and_outliers():
    weight = weights().bfloat16()
    by_bits = [squared_error(easyquant(weight, EasyQuantSettings(bits)), weight) for bits in (2, 3, 4, 8)]
    assert by_bits == sorted(by_bits, reverse=True)
    by_sigmas = [squared_error(easyquant(weight, EasyQuantSettings(4, sigmas=n)), weight) for n in (9.0, 3.0, 2.0)]
    assert by_sigmas == sorted(by_sigmas, reverse=True)


def test_weights_that_are_all_zero_stay_zero():
    stored = easyquant(torch.zeros(4, 20, dtype=torch.bfloat16), EasyQuantSettings(4))
    assert torch.equal(stored.dequantize(torch.float32), torch.zeros(4, 20))


def test_not_finite():
    weight = weights()
    weight[0, 0] = float("nan")
    with pytest.raises(MethodError, match="not finite"):
        easyquant(weight, EasyQuantSettings(4))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("scales", lambda t: t[:-1], "scales of shape"),
        ("outlier_columns", lambda t: t + 200, "do not fit the matrix"),
        ("outlier_values", None, "only outlier_columns, outlier_rows"),
        ("shape", None, "no shape"),
        ("codes", lambda t: t[:-1], "words a column"),
    ],
)
def test_damage_is_named(part, change, message):
    quantizer = EasyQuant(EasyQuantSettings(4))
    tensors = easyquant(weights(), quantizer.settings).tensors()
    tensors[PREFIX + part] = change(tensors[PREFIX + part]) if change else tensors.pop(PREFIX + part)
    if change is None:
        del tensors[PREFIX + part]
    with pytest.raises(ModelError, match=f"layer: .*{message}|{message}"):
        from_tensors(tensors, quantizer.checkpoint_config(), "layer")
