"""Rows with the settings of the papers beside ours, and sizes that no row may have."""

import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.quantize import settings as all_settings
from quantgate.quantize.algorithms.easyquant import descend, easyquant
from quantgate.quantize.algorithms.gptq import Gptq, gptq
from quantgate.quantize.algorithms.quip import from_tensors, quip
from quantgate.quantize.algorithms.rtn import rtn
from quantgate.quantize.algorithms.slim import fit, salient_weights
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.numerics.layout import layout_config
from quantgate.quantize.numerics.rotations import KroneckerRotation
from quantgate.quantize.settings import (
    ActivationSettings,
    CacheSettings,
    EasyQuantSettings,
    GptqSettings,
    QuipSettings,
    RtnSettings,
)

GROUPED = [
    getattr(all_settings, name)
    for name in ("RtnSettings", "GptqSettings", "AwqSettings", "ClipSettings", "SpqrSettings", "SlimSettings",
                 "EasyQuantSettings", "HqqSettings", "ActivationSettings", "CacheSettings")
]  # fmt: skip


@pytest.mark.parametrize("size", [0, -2, 1.5, True])
@pytest.mark.parametrize("kind", GROUPED, ids=lambda kind: kind.__name__)
def test_a_group_size_that_is_none_is_a_sentence(kind, size):
    with pytest.raises(MethodError, match=rf"group_size {size}.*a whole number of at least 1"):
        kind(bits=4, group_size=size) if kind is not ActivationSettings else kind(granularity="group", group_size=size)


def test_every_size_of_a_method_is_looked_at():
    sized = {"group_size", "statistic_group", "blocksize", "grid", "steps", "sample"}
    for kind in vars(all_settings).values():
        names = sized & set(getattr(kind, "__dataclass_fields__", ()))
        for name in names:
            first = {"quant_type": "nf4"} if kind is all_settings.Float4Settings else {"bits": 4}
            with pytest.raises(MethodError, match=name):
                kind(**first, **{name: 0})


def test_later_settings_are_written_down_only_where_they_say_something():
    assert "whole" not in METHODS["rtn8"].as_record()["settings"]
    assert METHODS["rtn-whole-w8"].as_record()["settings"]["whole"] is True
    assert "factors" not in layout_config("quip", QuipSettings(2))
    assert "kind" not in METHODS["smoothquant8"].as_record()["activations"]
    assert METHODS["float-token-a8-w8"].as_record()["activations"]["kind"] == "e4m3"
    assert "kind" not in all_settings.as_settings(CacheSettings(8))


def test_one_scale_a_matrix():
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    stored = rtn(weight, RtnSettings(8, -1, whole=True))
    scale = (2 * weight.abs().max() / 255).half()
    assert stored.scales.shape == (1, 24)
    assert bool((stored.scales == scale).all())
    expected = ((weight.double() / scale.double()).round().clamp(-128, 127) * scale.double()).float()
    assert torch.equal(stored.dequantize(torch.float32), expected)
    with pytest.raises(MethodError, match="one scale a matrix and group_size 128"):
        RtnSettings(8, whole=True)


def test_static_groups_are_stored_in_order_and_say_so():
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(16, 64, generator=generator), torch.randn(200, 64, generator=generator)
    x[:, 40:] *= 4  # act-order takes these first
    settings = GptqSettings(4, 16, static_groups=True)
    stored, _ = gptq(weight, 2 * x.t() @ x / 200, settings)
    assert torch.equal(stored.g_idx, torch.arange(64, dtype=torch.int32) // 16)
    assert Gptq(settings).checkpoint_config()["desc_act"] is False
    assert Gptq(GptqSettings(4, 16)).checkpoint_config()["desc_act"] is True
    plain, _ = gptq(weight, 2 * x.t() @ x / 200, GptqSettings(4, 16, desc_act=False))

    def error(each):
        return float(((each.dequantize(torch.float32) - weight) @ x.t()).square().sum())

    assert error(stored) < error(plain)  # why anybody wants act-order


def test_easyquants_descent_equals_torchs_adam():
    members = torch.randn(96, 20, generator=torch.Generator().manual_seed(2))
    found = descend(members, 4)
    scale = (members.abs().amax(0) / 7).clone().double().requires_grad_()
    start = scale.detach().clone()
    part = torch.ones(20, dtype=torch.float64, requires_grad=True)  # the scale relative to its start
    optimizer = torch.optim.Adam([part], lr=1e-3)
    best = torch.full((20,), torch.inf, dtype=torch.float64)
    for _ in range(500):
        optimizer.zero_grad()
        scale = start * part
        codes = (members / scale).detach().round().clamp(-7, 8)
        errors = (scale * codes - members).square().sum(0)
        best = torch.minimum(best, errors.detach())
        errors.sum().backward()
        optimizer.step()
    codes = (members / found).round().clamp(-7, 8)
    ours = (found * codes - members).square().sum(0)
    torch.testing.assert_close(ours.double(), best, rtol=0.02, atol=0)
    absmax = (members / start).round().clamp(-7, 8) * start - members
    assert float(ours.sum()) < 0.95 * float(absmax.square().sum())


def test_easyquant_as_published_has_one_scale_an_output_feature():
    stored = easyquant(
        torch.randn(12, 256, generator=torch.Generator().manual_seed(3)), EasyQuantSettings(4, -1, search="adam")
    )
    assert stored.scales.shape == (1, 12)


def test_quips_orthogonal_factors():
    rotation = KroneckerRotation(72, 5)
    assert [len(each) for each in rotation.factors] == [8, 9]
    matrix = rotation.apply(torch.eye(72)).t()
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(72), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.kron(*rotation.factors).float(), matrix, rtol=0, atol=1e-6)
    x = torch.randn(3, 72)
    torch.testing.assert_close(rotation.invert(rotation.apply(x)), x, rtol=0, atol=1e-5)
    spike = torch.eye(72)[:1]
    assert float(rotation.apply(spike).abs().max()) < 0.7  # no direction stands out any more


def test_quip_as_published_reads_what_it_wrote_and_beats_rounding():
    generator = torch.Generator().manual_seed(4)
    weight, x = torch.randn(24, 72, generator=generator), torch.randn(300, 72, generator=generator)
    weight[:, 7] *= 6
    settings = QuipSettings(2, factors="orthogonal")
    stored, _ = quip(weight, 2 * x.t() @ x / 300, settings)
    again = from_tensors(stored.tensors(), layout_config("quip", settings), "layer")
    assert torch.equal(again.dequantize(torch.bfloat16), stored.dequantize(torch.bfloat16))

    def error(values):
        return float(((values - weight) @ x.t()).square().sum())

    assert error(stored.dequantize(torch.float32)) < 0.6 * error(
        rtn(weight, RtnSettings(2, -1)).dequantize(torch.float32)
    )


def test_slims_split_by_definition():
    generator = torch.Generator().manual_seed(5)
    members = torch.randn(32, 6, generator=generator)
    members[3, 2], pivots = 9.0, torch.ones(32, 1)
    stretches = [1.0, 0.95, 1.05, 0.9, 1.1]
    scale, _ = fit(members, 3, stretches, 2.4, salient_weights(members, pivots))
    salience = members.square()
    salient = salience > salience.mean() + 2 * salience.std(correction=0)
    assert bool(salient[3, 2])
    for column in range(6):
        found = []
        for stretch in stretches:
            low, high = members[:, column].min().clamp(max=0), members[:, column].max().clamp(min=0)
            step = ((high - low) * stretch / 7).half().float()
            origin = (-low * stretch / step).round().clamp(0, 7)
            codes = ((members[:, column] / step).round() + origin).clamp(0, 7)
            powers = ((codes - origin) * step - members[:, column]).abs().double().pow(2.4)
            mask = salient[:, column]
            found.append((sum(float(p.mean()) for p in (powers[mask], powers[~mask]) if len(p)), float(step)))
        least = min(loss for loss, _ in found)
        assert any(step == float(scale[column]) and loss <= least * 1.05 for loss, step in found)
