import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.quantize.algorithms.gptq import gptq
from quantgate.quantize.algorithms.slim import SampledHessian, Slim, _divergence, allocate, factors, fit, slim
from quantgate.quantize.grids import UniformGrid
from quantgate.quantize.grids import fit as fit_uniform
from quantgate.quantize.numerics.columns import Processing
from quantgate.quantize.numerics.hessian import Hessian
from quantgate.quantize.settings import GptqSettings, SlimSettings
from tests.unit.quantize.test_gptq import correlated_inputs, hessian_of, weight_matrix

COLUMNS, GROUP = 72, 8
SETTINGS = SlimSettings(2, GROUP)


def problem(columns=COLUMNS, rows=24):
    x = correlated_inputs(columns=columns)
    # inputs of unequal energy: groups that matter and groups that do not
    x *= torch.exp(torch.randn(columns // 6 + 1, generator=torch.Generator().manual_seed(3))).repeat_interleave(6)[
        :columns
    ]
    return weight_matrix(rows, columns) * 20, x


def processing(x):
    return Processing(hessian_of(x), damp_percent=0.01, desc_act=False, who="slim")


def quantize(weight, x, settings=SETTINGS):
    return slim(weight, processing(x), x[:64], settings)[0]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("columns", [72, 70, 8, 5])
def test_mean_bits_are_exactly_n(bits, columns):
    weight, x = problem(columns)
    stored = quantize(weight, x, SlimSettings(bits, GROUP))
    sizes = torch.full((len(stored.bits),), GROUP)
    sizes[-1] = columns - GROUP * (len(stored.bits) - 1)
    assert int((torch.tensor(stored.bits) * sizes).sum()) == bits * columns
    assert stored.bits.count(bits - 1) == stored.bits.count(bits + 1)
    assert set(stored.bits) <= {bits - 1, bits, bits + 1}


def divergence_of(weight, inputs, bits):
    """In float64, group by group, from the definition."""
    w, x = weight.double(), inputs.double()
    quantized = torch.empty_like(w)
    for group, each in enumerate(bits):
        part = w[:, group * GROUP : (group + 1) * GROUP]
        if each == 1:
            value = part.sign() * part.abs().mean(1, keepdim=True)
        else:
            scale, zero = (t.double() for t in fit_uniform(part.float(), 1, UniformGrid(each, symmetric=False)))
            value = ((part / scale).round() + zero).clamp(0, 2**each - 1).sub(zero) * scale
        quantized[:, group * GROUP : (group + 1) * GROUP] = value
    reference = torch.log_softmax(x @ w.t(), 1)
    return float((reference.exp() * (reference - torch.log_softmax(x @ quantized.t(), 1))).sum(1).mean())


def test_the_exchange_has_the_smallest_divergence_of_all():
    weight, x = problem()
    run, inputs = processing(x), x[:64]
    pivots = run.factor.diagonal().reciprocal()
    bits = allocate(run.columns(weight), pivots.unsqueeze(1), inputs, SETTINGS)
    salience = (weight * pivots).square().view(len(weight), -1, GROUP).mean((0, 2))
    ranking = salience.argsort().tolist()
    divergences = {}
    for p in range(len(ranking) // 2 + 1):
        tried = [2] * len(ranking)
        for low, high in zip(ranking[:p], ranking[len(ranking) - p :], strict=True):
            tried[low], tried[high] = 1, 3
        divergences[tuple(tried)] = divergence_of(weight, inputs, tried)
    best = min(divergences, key=divergences.__getitem__)
    assert tuple(bits) == best
    assert len(set(divergences.values())) == len(divergences)
    assert 3 in best


def test_the_divergence_is_that_of_the_softmax():
    reference, output = (torch.randn(5, 30, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    p, q = torch.softmax(reference.double(), 1), torch.softmax(output.double(), 1)
    expected = float((p * (p / q).log()).sum(1).mean())
    assert _divergence(torch.log_softmax(reference, 1), output) == pytest.approx(expected, rel=1e-5)


def test_a_planted_salient_group_gets_more_bits():
    x = torch.randn(300, COLUMNS, generator=torch.Generator().manual_seed(5))
    x[:, 16:24] *= 30
    stored = quantize(weight_matrix(24, COLUMNS), x)
    assert stored.bits[2] == 3


def test_one_bit_is_the_sign_times_the_mean():
    members = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    scale, zero = fit(members, 1)
    assert torch.equal(scale, (2 * members.abs().mean(0)).half().float())
    values = (torch.div(members, scale).add(zero).round().clamp(0, 1) - zero) * scale
    torch.testing.assert_close(values, members.sign() * members.abs().mean(0), rtol=1e-3, atol=0)


def error(members, grid, bits):
    scale, zero = grid
    codes = (members / scale + zero).round().clamp(0, 2**bits - 1)
    return ((codes - zero) * scale - members).square().sum(0)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_searched_range_is_never_worse_than_the_whole(bits):
    members = torch.randn(64, 40, generator=torch.Generator().manual_seed(1))
    tried = factors(SlimSettings(bits))
    assert len(tried) == 101
    assert (min(tried), max(tried)) == (pytest.approx(0.9), pytest.approx(1.1))
    searched, plain = error(members, fit(members, bits, tried), bits), error(members, fit(members, bits), bits)
    assert (searched <= plain).all()
    assert searched.sum() < 0.99 * plain.sum()
    alone = torch.stack([error(members, fit(members, bits, [factor]), bits) for factor in tried])
    torch.testing.assert_close(searched, alone.amin(0))


def test_output_error_below_gptq_on_the_same_grid():
    weight, x = problem()
    plain, _ = gptq(weight, hessian_of(x), GptqSettings(2, GROUP, sym=False, desc_act=False))
    errors = [
        float(((stored.dequantize(torch.float32) - weight) @ x.t()).square().sum())
        for stored in (quantize(weight, x), plain)
    ]
    assert errors[0] < errors[1]


def test_losses_are_the_output_error():
    weight, x = problem()
    stored, losses = slim(weight, processing(x), x[:64], SETTINGS)
    hessian = hessian_of(x)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(COLUMNS)
    delta = stored.dequantize(torch.float32) - weight
    torch.testing.assert_close(losses, ((delta @ damped) * delta).sum(1), rtol=1e-3, atol=1e-4)


def test_sample_does_not_depend_on_order_or_shards():
    x = torch.randn(1300, 12, generator=torch.Generator().manual_seed(2))
    whole, left, right = (SampledHessian(12, torch.device("cpu"), 50) for _ in range(3))
    whole.add(x.flip(0))
    left.add(x[:400])
    right.add(x[400:])
    left.merge(right)
    assert torch.equal(left.sample, whole.sample)
    assert whole.sample.shape == (50, 12)
    torch.testing.assert_close(left.matrix(), whole.matrix())
    places = [int((x == row).all(1).nonzero()) for row in whole.sample]
    assert len(set(places)) == 50
    assert max(places) > 1000  # drawn from everywhere, not from the front
    assert min(places) < 300


def test_fewer_inputs_than_the_sample():
    statistics = SampledHessian(12, torch.device("cpu"), 50)
    statistics.add(torch.randn(7, 12))
    assert statistics.sample.shape == (7, 12)


def test_a_plain_hessian_is_not_enough():
    hessian = Hessian(COLUMNS, torch.device("cpu"))
    hessian.add(problem()[1])
    with pytest.raises(MethodError, match="without a sample"):
        Slim(SETTINGS).quantize([problem()[0]], hessian)


def test_weights_too_large():
    with pytest.raises(MethodError, match="too large"):
        fit(torch.full((4, 2), 1e9), 2)
