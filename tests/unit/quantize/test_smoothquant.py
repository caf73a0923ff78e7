import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.core.progress import Silent
from quantgate.quantize.algorithms.rtn import Rtn
from quantgate.quantize.settings import RtnSettings, SmoothQuantSettings
from quantgate.quantize.sweep.driver import Sweep
from quantgate.quantize.transforms.smoothquant import SmoothQuant, smoothing_scale
from tests.unit.conftest import random_calibration, tiny_llama

X, W = torch.tensor([16.0, 1.0, 0.0]), torch.tensor([1.0, 4.0, 2.0])


def test_scale_by_hand():
    assert smoothing_scale(X, W, 0.5).tolist() == [4.0, 0.5, 1.0]


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, [16.0, 1.0, 1.0]), (0.0, [1.0, 0.25, 1.0])])
def test_edges_of_alpha(alpha, expected):
    """1: every input channel gets the same maximum; 0: every weight column does."""
    assert smoothing_scale(X, W, alpha).tolist() == expected


def test_half_makes_both_sides_equal():
    scale = smoothing_scale(X, W, 0.5)[:2]
    torch.testing.assert_close(X[:2] / scale, W[:2] * scale)


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_out_of_range(alpha):
    with pytest.raises(MethodError, match="alpha"):
        SmoothQuantSettings(alpha)


def loud_llama():
    """Two channels of every norm are fifty times as loud, as in models where int8 activations fail."""
    model = tiny_llama().float()
    with torch.no_grad():
        for layer in model.model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight[[5, 60]] *= 50
    return model


def inputs_of(model):
    seen = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0].flatten(0, 1)))
        for name, module in model.named_modules()
        if name.endswith(("q_proj", "gate_proj"))
    ]
    with torch.no_grad():
        logits = model(torch.tensor(random_calibration([30], seed=5).samples)).logits
    for handle in handles:
        handle.remove()
    return seen, logits


def test_activations_get_even_and_the_model_stays_the_same():
    original, model = loud_llama(), loud_llama()
    sweep = Sweep(model, Rtn(RtnSettings(8, 16)), "test", Silent(), SmoothQuant(SmoothQuantSettings()))
    sweep.run(random_calibration([30, 40]))
    assert set(sweep.job.folds.values()) == {
        f"model.layers.{layer}.{norm}" for layer in (0, 1) for norm in ("input_layernorm", "post_attention_layernorm")
    }
    (before, logits), (after, smooth_logits) = inputs_of(original), inputs_of(model)
    for name, rows in before.items():
        largest, smooth = rows.abs().amax(0), after[name].abs().amax(0)
        assert float(smooth.max() / smooth.median()) < 0.4 * float(largest.max() / largest.median())
    assert float((smooth_logits - logits).norm() / logits.norm()) < 0.02
