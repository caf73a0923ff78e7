"""The orders that the papers report, on a small model that was trained, by the divergence of its answers."""

from dataclasses import replace

import pytest
import torch

from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.core.progress import Silent
from quantgate.quantize.algorithms.gptq import Gptq
from quantgate.quantize.algorithms.spqr import Spqr
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.numerics.hessian import Hessian
from quantgate.quantize.settings import GptqSettings, SpqrSettings
from quantgate.subjects.make import quantize_checkpoint
from tests.unit.trained import lessons, sentences, trained_llama

TEXT = sentences(64, 2)


@pytest.fixture(scope="module")
def divergence(tmp_path_factory):
    """Mean KL divergence of a row's answers from the model's, each row quantized once."""
    directory = tmp_path_factory.mktemp("trained")
    trained_llama().save_pretrained(directory / "model")
    with torch.no_grad():
        expected = trained_llama().float()(TEXT).logits.log_softmax(-1)
    known = {}

    def of(name, **changes):
        row = METHODS[name]
        row = replace(row, settings=replace(row.settings, **changes))
        key = (name, *changes.items())
        if key not in known:
            target = directory / str(len(known))
            given = lessons() if row.needs_calibration else None
            quantize_checkpoint(directory / "model", row, given, target, progress=Silent())
            with torch.no_grad():
                found = load_quantized(target, torch.float32)(TEXT).logits.log_softmax(-1)
            known[key] = float((expected.exp() * (expected - found)).sum(-1).mean())
        return known[key]

    return of


@pytest.mark.parametrize("bits", [3, 2])
def test_gptq_is_better_than_rounding(divergence, bits):
    assert divergence(f"gptq{bits}", group_size=32) < 0.6 * divergence(f"rtn{bits}", group_size=32)


@pytest.mark.parametrize(
    ("better", "size", "plain"),
    [("awq2", 32, "rtn2"), ("slim2", 32, "rtn2"), ("quip2", None, "rtn2"), ("easyquant4", 32, "rtn4")],
)
def test_what_looks_harder_is_better_than_rounding(divergence, better, size, plain):
    changes = {"group_size": size} if size else {}
    assert divergence(better, **changes) < 0.9 * divergence(plain, group_size=32)


def test_fewer_bits_are_worse(divergence):
    by_bits = [divergence(f"rtn{bits}", group_size=32) for bits in (8, 4, 3, 2)]
    assert by_bits == sorted(by_bits)
    assert by_bits[0] < 0.1 * by_bits[-1]


def test_learned_ranges_are_better_than_the_whole_range(divergence):
    """OmniQuant against its own start, and against rounding; by how much hangs on what the model learned."""
    learned = divergence("omniquant-brief-w2", group_size=32, step_tokens=256, epochs=4)
    assert learned < divergence("omniquant-brief-w2", group_size=32, step_tokens=256, epochs=1, clip_rate=0.0)
    assert learned < divergence("rtn2", group_size=32)


def test_outliers_save_two_bits_whatever_the_groups(divergence):
    """SpQR's ablation at 2 bit: without outliers it is far worse than with larger groups."""
    dense = divergence("spqr-dense-w2")
    assert divergence("spqr2") < 0.5 * dense
    assert divergence("spqr-g128-w2") < 0.5 * dense


def heavy(seed):
    """A matrix with a few weights that stand out, and correlated inputs: [64, 256], [512, 256]."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(64, 256, generator=generator)
    weight *= torch.where(torch.rand(64, 256, generator=generator) < 0.003, 12.0, 1.0)
    weight *= torch.rand(64, 16, generator=generator).add(0.2).repeat_interleave(16, 1)  # ranges differ by region
    inputs = torch.randn(512, 256, generator=generator) @ torch.randn(256, 256, generator=generator).mul(0.1).add(
        torch.eye(256)
    )
    return weight, inputs


def output_error(algorithm, weight, inputs):
    hessian = Hessian(256, torch.device("cpu"))
    hessian.add(inputs)
    (result,) = algorithm.quantize([weight], hessian)
    error = ((result.weight.dequantize(torch.float32) - weight) @ inputs.t()).square().sum()
    stored = result.weight.tensors()
    bits = 8 * sum(each.nbytes for name, each in stored.items() if "shape" not in name and "g_idx" not in name)
    return float(error), bits / weight.numel()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_ablation_of_spqr(seed):
    """Groups of 16 with outliers, then groups of 128 with them, then groups of 16 without."""
    weight, inputs = heavy(seed)
    small, large, dense = (
        output_error(Spqr(SpqrSettings(2, **changes)), weight, inputs)[0]
        for changes in ({}, {"group_size": 128}, {"relative_threshold": None})
    )
    assert small < large < dense


@pytest.mark.parametrize("seed", [0, 1])
def test_small_groups_of_3_bit_statistics_beat_large_ones_of_16_bit(seed):
    """SpQR's bilevel statistics at an equal budget, both without outliers: the second has no fewer bits a weight."""
    weight, inputs = heavy(seed)
    fine, fine_bits = output_error(Spqr(SpqrSettings(3, relative_threshold=None, desc_act=False)), weight, inputs)
    coarse, coarse_bits = output_error(Gptq(GptqSettings(3, 28, sym=False, desc_act=False)), weight, inputs)
    assert fine_bits < coarse_bits
    assert fine < coarse
