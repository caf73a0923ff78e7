import functools
import operator

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from quantgate.models import products
from quantgate.models.products import as_they_are, wide_linear, wide_products


@pytest.fixture
def without(monkeypatch):
    """A processor without 16-bit products, whatever this one is."""
    monkeypatch.setattr(products, "has_products", lambda dtype: dtype == torch.float32)


def sample(dtype, rows=7, out=5000, features=24):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(size, generator=generator).to(dtype) for size in ((2, rows, features), (out, features), (out,)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_rounded_once(dtype, with_bias):
    inputs, weight, bias = sample(dtype)
    bias = bias if with_bias else None
    exact = inputs.double() @ weight.double().t() + (bias.double() if with_bias else 0.0)
    got = wide_linear(inputs, weight, bias)
    assert got.dtype == dtype
    assert got.shape == exact.shape
    step = torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5  # half a unit in the last place, and the float32 sum
    assert bool(((got.double() - exact).abs() <= step).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_linear_layers_take_the_way_of_this_module_where_needed(without, monkeypatch, dtype):
    calls = []
    monkeypatch.setattr(products, "wide_linear", lambda *args: calls.append(args[0].dtype) or wide_linear(*args))
    inputs, weight, bias = sample(dtype)
    layer = nn.Linear(*reversed(weight.shape), dtype=dtype)
    layer.load_state_dict({"weight": weight, "bias": bias})
    layer.requires_grad_(False)
    with wide_products(dtype):
        found = layer(inputs)
        layer(inputs[:1, :1])  # a single vector: torch's own
        nn.functional.linear(inputs.float(), weight.float())
    assert calls == [dtype]
    assert torch.equal(found, wide_linear(inputs, weight, bias))
    layer(inputs)
    assert calls == [dtype], "only within the block"


def test_a_pause_leaves_torchs_functions_as_they_are_and_ends(without, monkeypatch):
    calls = []
    monkeypatch.setattr(products, "wide_linear", lambda *args: calls.append(1) or wide_linear(*args))
    inputs, weight, bias = sample(torch.bfloat16)

    def fails():
        with as_they_are():
            nn.functional.linear(inputs, weight, bias)
            assert calls == []
            raise ZeroDivisionError

    with wide_products(torch.bfloat16):
        with pytest.raises(ZeroDivisionError):
            fails()
        nn.functional.linear(inputs, weight, bias)
        assert calls == [1]
        with torch.device("cpu"), as_they_are():  # a mode of another's inside ours stays where it is
            nn.functional.linear(inputs, weight, bias)
            assert calls == [1, 1]
    with as_they_are():
        nn.functional.linear(inputs, weight, bias)
    assert calls == [1, 1]


def test_nothing_changes_where_the_processor_can(monkeypatch):
    monkeypatch.setattr(products, "has_products", lambda dtype: True)
    monkeypatch.setattr(products, "wide_linear", None)
    inputs, weight, bias = sample(torch.bfloat16)
    with wide_products(torch.bfloat16):
        assert nn.functional.linear(inputs, weight, bias).dtype == torch.bfloat16


def test_float32_is_left_alone():
    assert products.has_products(torch.float32)


def test_a_weight_that_few_rows_meet_again_is_widened_once_and_anew_when_it_changes(without, monkeypatch):
    given = []
    monkeypatch.setattr(products, "wide_linear", lambda *args: given.append(args[3]) or wide_linear(*args))
    inputs, weight, _ = sample(torch.bfloat16)
    layer = nn.Linear(*reversed(weight.shape), bias=False, dtype=torch.bfloat16).requires_grad_(False)
    with wide_products(torch.bfloat16):
        for _ in range(2):
            layer(inputs)
        layer.weight.copy_(weight)
        found = layer(inputs)
        nn.functional.linear(inputs, weight)  # no parameter: it may be gone after this call
        layer(inputs.repeat(50, 1, 1))  # many rows: widening costs little
    assert given[0] is given[1] is not None
    assert given[2] is not given[1]
    assert given[3:] == [None, None]
    assert torch.equal(found, wide_linear(inputs, weight))


def test_no_more_is_kept_than_there_is_room_for(without, monkeypatch):
    given = []
    monkeypatch.setattr(products, "wide_linear", lambda *args: given.append(args[3]) or wide_linear(*args))
    monkeypatch.setattr(products, "_KEPT_BYTES", 24 * 24 * 4)
    first, second = (nn.Linear(24, 24, bias=False, dtype=torch.bfloat16).requires_grad_(False) for _ in range(2))
    inputs = torch.ones(7, 24, dtype=torch.bfloat16)
    with wide_products(torch.bfloat16):
        second(first(first(inputs)))
    assert given[0] is given[1] is not None
    assert given[2] is None


def test_how_a_processor_computes_is_said_in_words(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert products.arithmetic(torch.bfloat16) == "AVX2, float32 products of bfloat16"
    assert products.arithmetic(torch.float32) == "AVX2, its own products of float32"


@pytest.mark.parametrize(
    ("has", "limit", "bf16", "fp16"),
    [
        ("avx512_vnni", None, "float32", "float32"),  # oneDNN says it can, and emulates: four times slower
        ("avx512_bf16", None, "avx512_bf16", "float32"),
        ("avx512_bf16", "avx512_core", "float32", "float32"),
        ("avx512_bf16", "AVX512_CORE_VNNI", "float32", "float32"),
        ("avx512_bf16 avx512_fp16 amx_bf16", None, "amx_bf16", "avx512_fp16"),
        ("avx512_bf16 avx512_fp16 amx_bf16 amx_fp16", "", "amx_bf16", "amx_fp16"),
        ("avx512_bf16 avx512_fp16 amx_bf16 amx_fp16", "AVX512_CORE_AMX", "amx_bf16", "avx512_fp16"),
        ("avx512_bf16 avx512_fp16 amx_bf16 amx_fp16", "AVX512_CORE_BF16", "avx512_bf16", "float32"),
        (None, None, "its own", "its own"),  # no AVX-512 at all, as on ARM
    ],
)
def test_products_that_are_emulated_are_none(monkeypatch, has, limit, bf16, fp16):
    found = {} if has is None else dict.fromkeys(["avx512_f", *has.split()], True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    for name in ("bf16", "fp16"):
        monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda: True)
    for dtype, wanted in ((torch.bfloat16, bf16), (torch.float16, fp16)):
        assert f", {wanted} products of" in products.arithmetic(dtype)
        assert products.has_products(dtype) == (wanted != "float32")


def with_gradient(inputs, layer):
    inputs = inputs.detach().clone().requires_grad_()
    out = layer(inputs)
    out.float().square().sum().backward()
    return out.detach(), inputs.grad


@pytest.mark.parametrize("rows", [7, 400])
def test_gradients_reach_the_inputs_of_frozen_layers(without, monkeypatch, rows):
    """400 rows of two samples are beyond those for which a widened weight is kept. Against float64, rounded once."""
    inputs, weight, bias = sample(torch.bfloat16, rows)
    layer = nn.Linear(*reversed(weight.shape), dtype=torch.bfloat16).requires_grad_(False)
    layer.load_state_dict({"weight": weight, "bias": bias})
    calls = []
    monkeypatch.setattr(products, "wide_linear", lambda *args: calls.append(args) or wide_linear(*args))
    with wide_products(torch.bfloat16):
        out, gradient = with_gradient(inputs, layer)
    assert len(calls) == 2
    assert (calls[1][3] is None) == (rows == 400)
    exact = (2 * out.float()).bfloat16().double() @ weight.double()
    assert gradient.dtype == torch.bfloat16
    step = torch.finfo(torch.bfloat16).eps / 2 * exact.abs() + 1e-2  # and the float32 sum of 5,000 terms of about 10
    assert bool(((gradient.double() - exact).abs() <= step).all())


def test_a_layer_that_is_trained_is_left_to_torch(without, monkeypatch):
    monkeypatch.setattr(products, "wide_linear", None)
    inputs, weight, _ = sample(torch.bfloat16)
    layer = nn.Linear(*reversed(weight.shape), bias=False, dtype=torch.bfloat16)
    with wide_products(torch.bfloat16):
        with_gradient(inputs, layer)
    assert layer.weight.grad is not None


def operands(*shapes, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


PRODUCTS = {
    "matmul": (torch.matmul, ((3, 7, 24), (3, 24, 9))),
    "operator": (operator.matmul, ((3, 7, 24), (24, 9))),
    "method": (torch.Tensor.matmul, ((7, 24), (24,))),
    "mm": (torch.mm, ((7, 24), (24, 9))),
    "bmm": (torch.bmm, ((3, 7, 24), (3, 24, 9))),
    "addmm": (torch.addmm, ((9,), (7, 24), (24, 9))),
    "baddbmm": (functools.partial(torch.baddbmm, beta=0.5, alpha=0.25), ((3, 1, 9), (3, 7, 24), (3, 24, 9))),
    "einsum": (functools.partial(torch.einsum, "bij,bjk->bik"), ((3, 7, 24), (3, 24, 9))),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PRODUCTS)
def test_other_products_are_made_in_float32_and_rounded_once(without, monkeypatch, name, dtype):
    product, shapes = PRODUCTS[name]
    given = operands(*shapes, dtype=dtype)
    exact = product(*(each.double() for each in given))
    wide = product(*(each.float() for each in given)).to(dtype)
    seen, inner = [], products._WideProducts._wide
    monkeypatch.setattr(products._WideProducts, "_wide", lambda self, each: seen.append(each) or inner(self, each))
    with wide_products(dtype):
        found = product(*given)
    assert [id(each) for each in seen if isinstance(each, torch.Tensor)] == list(map(id, given))
    assert found.dtype == dtype
    assert torch.equal(found, wide)
    assert bool(((found.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5).all())


def seen_dtypes(monkeypatch):
    """Of the first tensor of every product that torch is left to make."""
    found = []
    monkeypatch.setattr(products._WideProducts, "_wide", lambda self, each: found.append(each) or each)
    return found


def test_products_that_are_not_of_16_bit_numbers_alone_are_left_alone(without, monkeypatch):
    found = seen_dtypes(monkeypatch)
    left, right = operands((7, 24), (24, 9))
    with wide_products(torch.bfloat16):
        left.float() @ right.float()
        torch.mm(left.int(), right.int())
        with pytest.raises(RuntimeError, match="dtype"):
            torch.mm(left, right.float())
        out = torch.empty(7, 9, dtype=torch.bfloat16)
        torch.mm(left, right, out=out)
    assert found == []
    assert bool(out.isfinite().all())


def test_gradients_pass_through_other_products(without):
    left, right = operands((3, 7, 24), (3, 24, 9))
    left.requires_grad_()
    with wide_products(torch.bfloat16):
        (left @ right).float().sum().backward()
    exact = right.double().sum(2).unsqueeze(1).expand(3, 7, 24)
    assert bool(((left.grad.double() - exact).abs() <= 0.01 * exact.abs() + 1e-2).all())


def test_a_weight_of_conv1d_is_widened_once(without):
    (inputs,) = operands((7, 24))
    layer = Conv1D(9, 24).to(torch.bfloat16).requires_grad_(False)
    with wide_products(torch.bfloat16):
        mode = products._active.get()
        first, second = layer(inputs), layer(inputs)
        assert [id(kept[0]) for kept in mode._kept.values()] == [id(layer.bias), id(layer.weight)]
    assert torch.equal(first, second)
    assert torch.equal(first, torch.addmm(layer.bias.float(), inputs.float(), layer.weight.float()).bfloat16())


def frozen(out=8, features=16):
    torch.manual_seed(3)
    return nn.Linear(features, out, dtype=torch.bfloat16).requires_grad_(False), torch.randn(6, features).bfloat16()


@pytest.mark.parametrize("rows", [1, 100])
def test_a_weight_that_changes_before_its_gradient_is_refused(without, rows):
    """As torch does: the gradient would be one of other weights than the output's."""
    layer, inputs = frozen()
    inputs = inputs.repeat(rows, 1).requires_grad_()
    with wide_products(torch.bfloat16):
        out = layer(inputs)
        with torch.no_grad():
            layer.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


def test_weights_that_are_made_for_inference_are_multiplied_as_they_are_now(without):
    with torch.inference_mode():
        layer, inputs = frozen()
        with wide_products(torch.bfloat16):
            before = layer(inputs)
            layer.weight.mul_(2)  # nobody counts this
            layer.bias.mul_(2)
            assert torch.equal(layer(inputs), before * 2)


def test_a_weight_that_inference_saw_first_has_gradients_of_every_order(without):
    layer, inputs = frozen()

    def twice():
        given = inputs.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(given).float().square().sum(), given, create_graph=True)
        return torch.autograd.grad(first.float().square().sum(), given)[0]

    expected = twice()
    with wide_products(torch.bfloat16):
        with torch.inference_mode():
            layer(inputs)
        assert torch.allclose(twice().float(), expected.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "transform",
    [
        lambda layer, x: torch.func.vmap(layer)(x.expand(3, -1, -1)),
        lambda layer, x: torch.func.grad(lambda given: layer(given).float().sum())(x),
        lambda layer, x: torch.func.jacrev(layer)(x),
    ],
)
def test_transforms_of_functions_see_torchs_own_products(without, transform):
    layer, inputs = frozen()
    expected = transform(layer, inputs)
    with wide_products(torch.bfloat16):
        assert torch.equal(transform(layer, inputs), expected)


def test_other_products_pass_through_transforms(without):
    left, right = operands((3, 7, 24), (24, 9))
    weight = nn.Parameter(right, requires_grad=False)
    with wide_products(torch.bfloat16):
        expected = left @ weight
        by_row = torch.func.vmap(lambda each: each @ weight)(left)
        by_weight = torch.func.vmap(lambda each: left[0] @ each)(right.expand(2, -1, -1))
        gradient = torch.func.grad(lambda each: (left @ each).float().sum())(weight)
    assert torch.allclose(by_row.float(), expected.float(), rtol=0.02, atol=0.02)
    assert torch.allclose(by_weight[1].float(), expected[0].float(), rtol=0.02, atol=0.02)
    assert torch.allclose(gradient.float(), left.float().sum((0, 1))[:, None].expand(24, 9), rtol=0.02, atol=0.02)


def test_what_torch_refuses_or_answers_is_left_to_it(without):
    layer, inputs = frozen()
    nothing = torch.zeros(5, 0, dtype=torch.bfloat16)
    with wide_products(torch.bfloat16):
        assert torch.equal(nn.functional.linear(nothing, nothing[:2], layer.bias[:2]), layer.bias[:2].expand(5, 2))
        with pytest.raises(RuntimeError, match="same dtype"):
            nn.functional.linear(inputs, layer.weight, layer.bias.float())


def test_a_weight_whose_storage_is_exchanged_is_widened_anew(without):
    """Which counts as no change for torch."""
    layer, inputs = frozen()
    with torch.no_grad(), wide_products(torch.bfloat16):
        before = layer(inputs)
        layer.weight.data, layer.bias.data = layer.weight * 2, layer.bias * 2
        assert torch.equal(layer(inputs), before * 2)
