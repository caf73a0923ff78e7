import pytest
import torch

from quantgate.quantize.numerics.hessian import Hessian


def rows(n, features=40, dtype=torch.bfloat16, seed=0):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_is_two_over_n_times_the_sum_of_outer_products():
    x = rows(50)
    hessian = Hessian(40, torch.device("cpu"))
    hessian.add(x)
    expected = 2 / 50 * (x.double().t() @ x.double())
    torch.testing.assert_close(hessian.matrix().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_are_exact(dtype):
    """One token, so nothing is summed: what is left is the rounding of single products, of which bf16 has none."""
    x = rows(1, 600, dtype)  # 600: more than one panel of the symmetric product
    hessian = Hessian(600, torch.device("cpu"))
    hessian.add(x)
    exact = 2 * torch.outer(x[0].double(), x[0].double())
    limit = 0.0 if dtype == torch.bfloat16 else 2**-24
    assert ((hessian.matrix().double() - exact).abs() <= limit * exact.abs()).all()


def test_global_precision_is_left_as_it_was():
    before = torch.backends.mkldnn.matmul.fp32_precision
    Hessian(40, torch.device("cpu")).add(rows(3))
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_shards_merge_to_the_whole():
    x = rows(90, 600)
    whole, left, right = (Hessian(600, torch.device("cpu")) for _ in range(3))
    whole.add(x)
    left.add(x[:20])
    right.add(x[20:])
    left.merge(right)
    assert left.count == whole.count == 90
    torch.testing.assert_close(left.matrix(), whole.matrix(), rtol=1e-5, atol=1e-5)


def test_is_symmetric():
    hessian = Hessian(600, torch.device("cpu"))
    hessian.add(rows(30, 600))
    matrix = hessian.matrix()
    assert torch.equal(matrix, matrix.t())
