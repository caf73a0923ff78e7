import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.quantize.algorithms.quip import balance_of, quip
from quantgate.quantize.algorithms.rtn import rtn
from quantgate.quantize.numerics.rotations import Rotation
from quantgate.quantize.settings import QuipSettings, RtnSettings
from tests.unit.quantize.test_gptq import correlated_inputs, hessian_of, weight_matrix

COLUMNS = 72  # 8 x 9: both kinds of factor


def problem():
    x = correlated_inputs(columns=COLUMNS)
    x[:, 3] *= 20
    weight = weight_matrix(24, COLUMNS)
    weight[5, 7] = 1.0
    return weight, x


@pytest.mark.parametrize("n", [1, 2, 9, 64, 72, 48, 43])
def test_rotations_are_orthogonal(n):
    matrix = Rotation(n, 0).apply(torch.eye(n))
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(n), atol=1e-6, rtol=0)
    torch.testing.assert_close(Rotation(n, 0).invert(matrix), torch.eye(n), atol=1e-6, rtol=0)


def test_a_rotation_is_signs_then_hadamard_times_cosines():
    """Built here from the definition: Sylvester's Hadamard matrix of 4 and the orthonormal DCT-II of 3."""
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / 2**0.5
    i, j = torch.arange(3.0, dtype=torch.float64)[:, None], torch.arange(3.0, dtype=torch.float64)
    cosines = (2 / 3) ** 0.5 * torch.cos(torch.pi * i * (2 * j + 1) / 6)
    cosines[0] = (1 / 3) ** 0.5
    rotation = Rotation(12, 7)
    expected = torch.kron(torch.kron(two, two), cosines) * rotation.signs
    torch.testing.assert_close(rotation.apply(torch.eye(12)).t().double(), expected, atol=1e-6, rtol=0)
    assert set(rotation.signs.tolist()) == {1.0, -1.0}
    assert not torch.equal(rotation.signs, Rotation(12, 8).signs)


def test_the_number_of_threads_changes_no_bit():
    stored, _ = quip(*[problem()[0], hessian_of(problem()[1])], QuipSettings(2))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        several = stored.dequantize(torch.float32)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(several, stored.dequantize(torch.float32))


def test_before_rounding_the_weight_is_the_original():
    weight, x = problem()
    scale = balance_of(weight, hessian_of(x)).float()
    inner, outer = Rotation(COLUMNS, 1), Rotation(24, 2)
    rotated = outer.apply(inner.apply(weight * scale).t()).t()
    back = inner.invert(outer.invert(rotated.t()).t()) / scale
    torch.testing.assert_close(back, weight, atol=1e-6, rtol=1e-5)
    y = outer.invert(inner.apply(x / scale) @ rotated.t())
    torch.testing.assert_close(y, x @ weight.t(), atol=1e-4, rtol=1e-4)


def incoherence(matrix):
    return float(matrix.abs().max() * matrix.numel() ** 0.5 / matrix.norm())


def test_incoherence_falls():
    weight, x = problem()
    stored, _ = quip(weight, hessian_of(x), QuipSettings(8))
    assert incoherence(stored.rotated()) < 0.5 * incoherence(weight)


def test_eight_bits_are_close_to_the_original():
    weight, x = problem()
    stored, _ = quip(weight, hessian_of(x), QuipSettings(8, half_range=6.0))
    relative = ((stored.dequantize(torch.float32) - weight) @ x.t()).norm() / (weight @ x.t()).norm()
    assert relative < 0.01


def ldl_rounding(weight, hessian, half_range, bits):
    """The paper's equation 4 in float64: round(w_k + (w - q)_{<k} a_k), a_k from H = (A + I) D (A + I)^T."""
    h = hessian.double()
    h = h + 0.01 * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    lower = torch.linalg.cholesky(h.flip(0, 1)).flip(0, 1)  # upper triangular R with H = R R^T
    unit = lower / lower.diagonal()
    top, w = 2**bits - 1, weight.double()
    q = torch.zeros_like(w)
    for k in range(w.shape[1]):
        target = w[:, k] + (w[:, :k] - q[:, :k]) @ unit[:k, k]
        codes = ((target / half_range + 1) * top / 2).round().clamp(0, top)
        q[:, k] = (codes * 2 / top - 1) * half_range
    return q


@pytest.mark.parametrize("bits", [2, 4])
def test_equals_ldl_rounding_by_definition(bits):
    weight, x = problem()
    hessian, settings = hessian_of(x), QuipSettings(bits)
    stored, losses = quip(weight, hessian, settings)
    scale = stored.balance.float()
    inner, outer = Rotation(COLUMNS, settings.seed), Rotation(24, settings.seed + 1)
    rotated = outer.apply(inner.apply(weight * scale).t()).t()
    spread = inner.apply(inner.apply(hessian / scale / scale[:, None]).t())
    expected = ldl_rounding(rotated, spread, float(2.4 * rotated.square().mean().sqrt()), bits)
    same = (stored.rotated().t().double() - expected).abs() < 1e-5
    assert same.double().mean() > 0.97
    damped = spread + 0.01 * spread.diagonal().mean() * torch.eye(COLUMNS)
    delta = stored.rotated().t() - rotated
    torch.testing.assert_close(losses.sum(), ((delta @ damped) * delta).sum(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3])
def test_output_error_below_rtn(bits):
    weight, x = problem()
    ours, plain = quip(weight, hessian_of(x), QuipSettings(bits))[0], rtn(weight, RtnSettings(bits, -1, sym=False))
    errors = [((each.dequantize(torch.float32) - weight) @ x.t()).square().sum() for each in (ours, plain)]
    assert errors[0] < 0.5 * errors[1]


def test_balance_is_one_where_nothing_can_be_balanced():
    weight, x = problem()
    weight[:, 0] = 0.0
    x[:, 1] = 0.0
    balance = balance_of(weight, hessian_of(x))
    assert balance[0] == balance[1] == 1.0
    values = quip(weight, hessian_of(x), QuipSettings(4))[0].dequantize(torch.float32)
    assert torch.isfinite(values).all()


def test_bad_weights_are_an_error():
    with pytest.raises(MethodError, match="not finite"):
        quip(torch.full((4, 8), torch.nan), torch.eye(8), QuipSettings(4))
