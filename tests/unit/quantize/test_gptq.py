import mpmath
import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.quantize.algorithms.gptq import Gptq, gptq
from quantgate.quantize.algorithms.rtn import rtn
from quantgate.quantize.numerics.columns import inverse_factor
from quantgate.quantize.numerics.hessian import Hessian
from quantgate.quantize.settings import GptqSettings, RtnSettings

ROWS, COLUMNS = 12, 70  # 70: neither a multiple of the group nor of the span


def correlated_inputs(n=400, columns=COLUMNS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    return torch.randn(n, columns, generator=generator) @ mixing + 0.5 * torch.randn(n, 1, generator=generator)


def hessian_of(x):
    hessian = Hessian(x.shape[1], torch.device("cpu"))
    hessian.add(x)
    return hessian.matrix()


def weight_matrix(rows=ROWS, columns=COLUMNS, seed=1):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def textbook_gptq(weight, hessian, settings):
    """The paper's algorithm in float64 with an explicit inverse, one column at a time, nothing lazy."""
    w = weight.double().clone()
    h = hessian.double().clone()
    order = torch.argsort(h.diagonal(), descending=True, stable=True) if settings.desc_act else torch.arange(len(h))
    original, w, h = w.clone(), w[:, order], h[order][:, order]
    h += settings.damp_percent * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    u = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    size = len(h) if settings.group_size == -1 else settings.group_size
    top, result = 2**settings.bits - 1, torch.empty_like(w)
    for j in range(len(h)):
        group = int(order[j]) // size if settings.static_groups else j // size
        if settings.static_groups:
            members = original[:, group * size : (group + 1) * size]
        elif j % size == 0:
            members = w[:, j : j + size]
        if settings.sym:
            scale = (2 * members.abs().amax(1) / top).half().double()
            zero = torch.full_like(scale, 2 ** (settings.bits - 1))
        else:
            low, high = members.amin(1).clamp(max=0), members.amax(1).clamp(min=0)
            scale = ((high - low) / top).half().double()
            zero = (-low / scale).round().clamp(0, top)
        if settings.static_groups or j % size == 0:
            group_scale, group_zero = scale, zero
        codes = ((w[:, j] / group_scale).round() + group_zero).clamp(0, top)
        result[:, j] = group_scale * (codes - group_zero)
        error = (w[:, j] - result[:, j]) / u[j, j]
        w[:, j:] -= error[:, None] * u[j, j:]
    return result[:, torch.argsort(order)]


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("group_size", [-1, 16])
@pytest.mark.parametrize(("desc_act", "static_groups"), [(False, False), (True, False), (True, True)])
def test_equals_the_textbook(sym, group_size, desc_act, static_groups):
    settings = GptqSettings(4, group_size, sym, desc_act, static_groups)
    weight, hessian = weight_matrix(), hessian_of(correlated_inputs())
    stored, _ = gptq(weight, hessian, settings)
    expected = textbook_gptq(weight, hessian, settings)
    # float32 against float64: a weight on a rounding boundary may fall to the other side, and later ones follow it
    same = (stored.dequantize(torch.float64) - expected).abs() < 1e-6
    assert same.double().mean() > 0.97


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("group_size", [-1, 16])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_diagonal_hessian_is_rtn(bits, group_size, sym):
    hessian = torch.diag(torch.rand(COLUMNS, generator=torch.Generator().manual_seed(2)) + 0.1)
    weight = weight_matrix()
    stored, _ = gptq(weight, hessian, GptqSettings(bits, group_size, sym, desc_act=False))
    plain = rtn(weight, RtnSettings(bits, group_size, sym))
    assert torch.equal(stored.codes, plain.codes)
    assert torch.equal(stored.scales, plain.scales)
    assert torch.equal(stored.zeros, plain.zeros)


@pytest.mark.parametrize("group_size", [-1, 16, 48])
def test_block_size_changes_nothing_beyond_rounding(group_size):
    weight, hessian = weight_matrix(), hessian_of(correlated_inputs())
    results = []
    for blocksize in (1, 7, 33, 64, 1000):
        stored, losses = gptq(weight, hessian, GptqSettings(4, group_size, blocksize=blocksize, desc_act=False))
        results.append((stored.dequantize(torch.float32), float(losses.sum())))
    for values, loss in results[1:]:
        assert ((values - results[0][0]).abs() < 1e-6).float().mean() > 0.97
        assert loss == pytest.approx(results[0][1], rel=0.02)


@pytest.mark.parametrize("desc_act", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_output_error_below_rtn(bits, desc_act):
    weight, x = weight_matrix(), correlated_inputs()
    stored, _ = gptq(weight, hessian_of(x), GptqSettings(bits, 16, desc_act=desc_act))
    plain = rtn(weight, RtnSettings(bits, 16))

    def error(quantized):
        return ((quantized.dequantize(torch.float32) - weight) @ x.t()).square().sum()

    assert error(stored) < 0.75 * error(plain)


def test_losses_are_the_output_error():
    weight, hessian = weight_matrix(), hessian_of(correlated_inputs())
    settings = GptqSettings(3, 16)
    stored, losses = gptq(weight, hessian, settings)
    damped = hessian + settings.damp_percent * hessian.diagonal().mean() * torch.eye(COLUMNS)
    delta = stored.dequantize(torch.float32) - weight
    torch.testing.assert_close(losses, ((delta @ damped) * delta).sum(1), rtol=1e-3, atol=1e-6)


def test_act_order_is_undone():
    """Scaled inputs force a known processing order; codes come back in the order of the columns."""
    columns = 32
    energy = torch.randperm(columns, generator=torch.Generator().manual_seed(3)).float() + 1
    weight = weight_matrix(columns=columns)
    stored, _ = gptq(weight, torch.diag(energy), GptqSettings(8, 8, desc_act=True))
    rank = torch.argsort(torch.argsort(energy, descending=True))
    assert torch.equal(stored.g_idx, (rank // 8).to(torch.int32))
    assert (stored.dequantize(torch.float32) - weight).abs().max() < 0.01 * weight.abs().max()


def test_act_order_equals_permuting_by_hand():
    weight, hessian = weight_matrix(), hessian_of(correlated_inputs())
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    stored, _ = gptq(weight, hessian, GptqSettings(4, 16, desc_act=True))
    by_hand, _ = gptq(weight[:, order], hessian[order][:, order], GptqSettings(4, 16, desc_act=False))
    assert torch.equal(stored.dequantize(torch.float32)[:, order], by_hand.dequantize(torch.float32))


@pytest.mark.parametrize("desc_act", [True, False])
def test_rank_deficient_hessian_stays_finite(desc_act):
    x = correlated_inputs(n=5)  # 5 tokens, 70 features
    stored, losses = gptq(weight_matrix(), hessian_of(x), GptqSettings(4, 16, desc_act=desc_act))
    assert torch.isfinite(stored.dequantize(torch.float32)).all()
    assert torch.isfinite(losses).all()


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("desc_act", [True, False])
def test_dead_columns_become_zero(sym, desc_act):
    x = correlated_inputs()
    dead = [0, 17, 69]
    x[:, dead] = 0
    stored, _ = gptq(weight_matrix(), hessian_of(x), GptqSettings(4, 16, sym, desc_act))
    values = stored.dequantize(torch.float32)
    assert (values[:, dead] == 0).all()
    assert (values[:, 1] != 0).any()


def test_stacked_layers_are_quantized_as_if_alone():
    hessian = hessian_of(correlated_inputs())
    first, second = weight_matrix(seed=4), weight_matrix(rows=5, seed=5)
    together, _ = gptq(torch.cat([first, second]), hessian, GptqSettings(4, 16))
    for part, weight in zip(together.split([ROWS, 5]), (first, second), strict=True):
        alone, _ = gptq(weight, hessian, GptqSettings(4, 16))
        same = part.dequantize(torch.float32) == alone.dequantize(torch.float32)
        assert same.float().mean() > 0.97


def test_inverse_factor():
    hessian = hessian_of(correlated_inputs()) + torch.eye(COLUMNS)
    factor = inverse_factor(hessian)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.t() @ factor @ hessian, torch.eye(COLUMNS), atol=1e-4, rtol=0)


def exact_factor(hessian):
    """The factor in 60 digits: inverse of the Cholesky factor of the matrix in reverse order, reversed again."""
    with mpmath.workdps(60):
        inverse = mpmath.cholesky(mpmath.matrix(hessian.double().flip(0, 1).tolist())) ** -1
        return torch.tensor([[float(x) for x in row] for row in inverse.tolist()], dtype=torch.float64).flip(0, 1)


@pytest.mark.parametrize("damping", [2.0**-6, 2.0**-10, 2.0**-14, 2.0**-16, 2.0**-18])
@pytest.mark.parametrize("seed", range(4))
def test_float64_where_float32_has_no_digits_left(seed, damping):
    """Whether float32 fails here or gives a wrong factor depends on the processor; the answer must not."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (16, 8), generator=generator).float()
    hessian = x @ x.t() + damping * torch.eye(16)  # exact in float32, ever closer to singular
    expected = exact_factor(hessian)
    assert (inverse_factor(hessian).double() - expected).norm() <= 0.01 * expected.norm()


def test_float64_is_tried_where_float32_fails(monkeypatch):
    whole = torch.linalg.cholesky_ex

    def failing(matrix):
        lower, info = whole(matrix)
        return lower, torch.ones_like(info) if matrix.dtype == torch.float32 else info

    monkeypatch.setattr(torch.linalg, "cholesky_ex", failing)
    hessian = torch.diag(torch.arange(1.0, 5.0))
    torch.testing.assert_close(inverse_factor(hessian), torch.diag(torch.arange(1.0, 5.0).rsqrt()))


def test_hopeless_hessian_is_an_error_not_rtn():
    with pytest.raises(MethodError, match=r"not positive definite, even in float64.*raise damp_percent"):
        gptq(weight_matrix(), -torch.eye(COLUMNS), GptqSettings(4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_activations_are_an_error(bad):
    hessian = torch.eye(COLUMNS)
    hessian[3, 4] = bad
    with pytest.raises(MethodError, match="finite calibration activations"):
        gptq(weight_matrix(), hessian, GptqSettings(4))


def test_bad_weights_are_an_error():
    weight = weight_matrix()
    weight[0, 0] = float("nan")
    with pytest.raises(MethodError, match="not finite"):
        gptq(weight, torch.eye(COLUMNS), GptqSettings(4))


def test_without_statistics_is_an_error():
    with pytest.raises(MethodError, match="no calibration statistics"):
        Gptq(GptqSettings(4)).quantize([weight_matrix()], Hessian(COLUMNS, torch.device("cpu")))
