import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.core.progress import Silent
from quantgate.quantize.algorithms.gptq import Gptq
from quantgate.quantize.algorithms.rtn import Rtn
from quantgate.quantize.base import Order
from quantgate.quantize.numerics import ragged
from quantgate.quantize.numerics.hessian import Hessian
from quantgate.quantize.settings import GptqSettings, RtnSettings
from quantgate.quantize.sweep import batches
from quantgate.quantize.sweep.batches import plan_batches, plan_rows
from quantgate.quantize.sweep.driver import Sweep
from tests.unit.conftest import random_calibration, tiny_llama


class Spy:
    """GPTQ that keeps the Hessians it was given, by stage."""

    def __init__(self, order=None, bits=4):
        self.inner = Gptq(GptqSettings(bits, 32))
        self.order = order or Order()
        self.hessians = []

    def statistics(self, in_features, device):
        return self.inner.statistics(in_features, device)

    def quantize(self, weights, statistics):
        self.hessians.append((statistics.count, statistics.matrix()))
        return self.inner.quantize(weights, statistics)

    def checkpoint_config(self):
        return {}


def sweep(algorithm, lengths, monkeypatch=None, budget=None, model=None):
    if budget is not None:
        for plan in (batches.plan_batches, batches.plan_rows):
            monkeypatch.setattr(plan, "__defaults__", (budget,))
    model = model or tiny_llama()
    results = Sweep(model, algorithm, "test", Silent()).run(random_calibration(lengths))
    return model, results


def collect_inputs(model, lengths, layer):
    """The Hessian of a layer's input, sample by sample, through the whole model."""
    hessian = Hessian(layer.in_features, torch.device("cpu"))
    handle = layer.register_forward_pre_hook(lambda _, args: hessian.add(args[0].flatten(0, -2)))
    with torch.no_grad():
        for sample in random_calibration(lengths).samples:
            model(torch.tensor([sample]))
    handle.remove()
    return hessian


LENGTHS = [12, 7, 12, 9]


def test_statistics_see_quantized_predecessors_and_no_padding():
    """down_proj of the last block, against hooks on the finished model: everything before it is quantized there too."""
    spy = Spy()
    model, _ = sweep(spy, LENGTHS)
    expected = collect_inputs(model, LENGTHS, model.model.layers[1].mlp.down_proj)
    count, matrix = spy.hessians[-1]
    assert count == expected.count == sum(LENGTHS)
    torch.testing.assert_close(matrix, expected.matrix(), rtol=0.05, atol=0.02 * float(matrix.abs().max()))


def test_without_true_sequential_the_block_is_still_float():
    spy = Spy(Order(true_sequential=False))
    untouched = tiny_llama()
    sweep(spy, LENGTHS)
    expected = collect_inputs(untouched, LENGTHS, untouched.model.layers[0].mlp.down_proj).matrix()
    torch.testing.assert_close(spy.hessians[3][1], expected, rtol=0.02, atol=0.01 * float(expected.abs().max()))
    changed = Spy(bits=2)
    sweep(changed, LENGTHS)
    assert (changed.hessians[3][1] - expected).abs().max() > 0.05 * expected.abs().max()


def test_without_block_sequential_the_next_block_sees_float_inputs():
    spy = Spy(Order(block_sequential=False), bits=2)
    untouched = tiny_llama()
    sweep(spy, LENGTHS)
    expected = collect_inputs(untouched, LENGTHS, untouched.model.layers[1].self_attn.q_proj).matrix()
    torch.testing.assert_close(spy.hessians[4][1], expected, rtol=0.02, atol=0.01 * float(expected.abs().max()))
    sequential = Spy(bits=2)
    sweep(sequential, LENGTHS)
    assert (sequential.hessians[4][1] - expected).abs().max() > 0.05 * expected.abs().max()


def test_several_batches_give_what_one_batch_gives(monkeypatch):
    """But for the order of sums, which turns codes of the first block, and with them what the later ones see."""
    one, many = Spy(), Spy()
    sweep(one, LENGTHS)
    sweep(many, LENGTHS, monkeypatch, budget=12)
    assert len(one.hessians) == len(many.hessians) == 8
    for stage, ((count, matrix), (other_count, other)) in enumerate(zip(one.hessians, many.hessians, strict=True)):
        assert count == other_count == sum(LENGTHS)
        assert float((matrix - other).norm()) < (0.01 if stage < 3 else 0.25) * float(matrix.norm())


def test_padding_changes_nothing():
    padded, alone = Spy(), Spy()
    sweep(padded, [5, 24, 24])
    sweep(alone, [5])
    count, matrix = padded.hessians[0]
    calibration = random_calibration([5, 24, 24])
    model = tiny_llama()
    expected = Hessian(96, torch.device("cpu"))
    handle = model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda _, a: expected.add(a[0][0]))
    with torch.no_grad():
        for sample in calibration.samples:
            model(torch.tensor([sample]))
    handle.remove()
    assert count == 53
    torch.testing.assert_close(matrix, expected.matrix(), rtol=0.02, atol=0.01 * float(matrix.abs().max()))


def test_plain_algorithm_needs_no_data():
    model = tiny_llama()
    results = Sweep(model, Rtn(RtnSettings(4, 32)), "rtn4", Silent()).run(None)
    assert len(results) == 14
    for name, result in results.items():
        weight = model.get_submodule(name).weight
        assert torch.equal(weight, result.weight.dequantize(weight.dtype))


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([4, 4, 4], 100, [[0, 1, 2]]),
        ([2, 4, 3], 100, [[1, 2, 0]]),  # one batch, longest first
        ([4, 4, 4], 8, [[0, 1], [2]]),  # more than the budget
        ([100, 4, 4, 4, 4], 10_000, [[0], [1, 2, 3, 4]]),  # padding would cost more than running stage by stage
        ([9], 4, [[0]]),  # a single sample beyond the budget still runs
    ],
)
def test_batches(lengths, budget, expected):
    assert plan_batches(lengths, budget) == expected


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([4, 4, 4], 100, [[0, 1, 2]]),
        ([2, 40, 3], 100, [[1, 2, 0]]),  # one row, longest first, however uneven
        ([4, 4, 4], 8, [[0, 1], [2]]),
        ([9, 1], 4, [[0], [1]]),  # a sample beyond the budget has a row of its own
    ],
)
def test_rows(lengths, budget, expected):
    assert plan_rows(lengths, budget) == expected


def test_padded_batches_give_what_rows_give(monkeypatch):
    rows, padded = Spy(), Spy()
    sweep(rows, LENGTHS)
    monkeypatch.setattr(ragged, "_works", lambda model: False)
    sweep(padded, LENGTHS)
    for (count, matrix), (other_count, other) in zip(rows.hessians, padded.hessians, strict=True):
        assert count == other_count == sum(LENGTHS)
        assert float((matrix - other).norm()) < 0.1 * float(matrix.norm())


def test_empty_calibration():
    with pytest.raises(MethodError, match="'random' without tokens"):
        sweep(Spy(), [])


def test_errors_name_the_layers():
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(MethodError, match=r"gptq4: model.layers.1.mlp.gate_proj, model.layers.1.mlp.up_proj.*finite"):
        Sweep(model, Gptq(GptqSettings(4)), "gptq4", Silent()).run(random_calibration([9]))


def test_progress_is_told():
    steps = []

    class Listener(Silent):
        def step(self, what, done, total):
            steps.append((what, done, total))

    Sweep(tiny_llama(), Rtn(RtnSettings(4)), "rtn4", Listener()).run(None)
    assert steps == [("rtn4: quantizing blocks", done, 2) for done in (0, 1, 2)]
