"""Effects against full evaluations by a plain forward in float64, and what is asked of units and segments."""

import copy

import pytest
import torch
from torch import nn

from quantgate.core.errors import ModelError
from quantgate.core.requests import Generate, Likelihood, Rolling
from quantgate.diagnosis.estimate import draw, draw_together
from quantgate.diagnosis.passes import Bench, Segment
from quantgate.diagnosis.scan import Plan, ranks_agree, sums, value_of
from quantgate.diagnosis.segments import segments_of
from quantgate.diagnosis.units import LEVELS
from quantgate.runs.asked import Asked
from tests.unit.diagnosis.models import reference, scanner, segments, subject


def full_evaluation(one, other, read):
    """KL of every segment, mean over its scored positions: whole models, one text at a time, float64."""
    found = []
    for segment in read:
        ids = torch.tensor([segment.tokens])
        p, q = (model(ids).logits[0].double().log_softmax(-1)[segment.first - 1 : -1] for model in (one, other))
        found.append(float((p.exp() * (p - q)).sum(-1).mean()))
    return found


@pytest.fixture(scope="module")
def pair():
    one = reference()
    with torch.no_grad():
        return one, subject(one, bits=3)


@pytest.fixture(scope="module")
def read():
    return [*segments((20, 13, 20, 9, 31)), Segment("scored late", tuple(range(1, 30)), 12)]


@pytest.fixture(scope="module")
def scanned(pair, read):
    maker = scanner(*pair, read)
    return maker, maker.run(Plan(exact=-1, marginal=2))


@torch.no_grad()
def test_the_whole_is_the_full_evaluation_of_the_subject(pair, read, scanned):
    assert scanned[1].whole.by_segment() == pytest.approx(full_evaluation(*pair, read), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("level", LEVELS)
@torch.no_grad()
def test_an_isolated_effect_is_the_full_evaluation_of_a_model_with_only_that_unit_quantized(pair, read, scanned, level):
    one, other = pair
    rows = scanned[1].of(level)
    for row in (rows[0], rows[len(rows) // 2], rows[-1]):
        made = copy.deepcopy(one)
        for name in row.unit.modules:
            made.set_submodule(name, copy.deepcopy(other.get_submodule(name)))
        expected = full_evaluation(one, made, read)
        assert row.isolated.mean == pytest.approx(sum(expected) / len(expected), rel=1e-4, abs=1e-7), row.unit.name


def test_estimates_of_several_subjects_share_the_references_passes(pair, read):
    """Each is, to the last bit, what it is alone; every subject more costs one forward of its own layers."""
    one, _ = pair
    with torch.no_grad():
        others = [subject(one, bits=bits) for bits in (2, 3, 4)]
    names = [name for name, module in one.named_modules() if isinstance(module, nn.Linear) and "layers" in name]
    donors = [{name: other.get_submodule(name) for name in names[count:]} for count, other in enumerate(others)]
    donors[0]["model.embed_tokens"] = others[0].get_submodule("model.embed_tokens")
    benches = [Bench(one, read, "one") for _ in range(2)]
    together = draw_together(benches[0], donors, probes=3, seed=5)
    for mine, found in zip(donors, together, strict=True):
        alone = draw(benches[1], mine, probes=3, seed=5)
        assert torch.equal(alone.products, found.products)
        assert alone.of(tuple(mine)) == found.of(tuple(mine))
        assert float(found.products.abs().sum()) > 0
    costs = [bench.spent.full_evaluations(len(one.model.layers), 1.0) for bench in benches]
    assert costs == [pytest.approx(1 + 3 + 3, rel=0.01), pytest.approx(3 * (1 + 1 + 3), rel=0.01)]


@torch.no_grad()
def test_a_marginal_effect_is_what_the_rest_alone_lacks(pair, read, scanned):
    one, other = pair
    row = scanned[1].of("module")[0]
    made = copy.deepcopy(other)
    for name in row.unit.modules:
        made.set_submodule(name, copy.deepcopy(one.get_submodule(name)))
    without = full_evaluation(one, made, read)
    whole = full_evaluation(one, other, read)
    assert row.marginal.mean == pytest.approx((sum(whole) - sum(without)) / len(read), rel=1e-3, abs=1e-6)


def test_the_models_are_what_they_were(pair, scanned):
    one, other = pair
    fresh = reference()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one.parameters(), fresh.parameters(), strict=True))
    assert not torch.equal(one.model.layers[0].mlp.up_proj.weight, other.model.layers[0].mlp.up_proj.weight)
    assert all("forward" not in vars(block) for model in pair for block in model.model.layers)


def test_estimates_rank_as_the_measured_effects_do(scanned):
    assert ranks_agree(scanned[1].of("module")) > 0.8


@torch.no_grad()
def test_small_effects_are_estimated_without_bias():
    """Against measured ones, where second order is exact enough: the ratio of the sums, over many draws."""
    one = reference()
    other = subject(one, bits=8)
    maker = scanner(one, other)
    scan = maker.run(Plan(exact=-1, marginal=0, probes=32))
    found = dict(sums(scan, "block"))
    assert found["estimated"] == pytest.approx(found["measured"], rel=0.2)


def test_no_difference_is_an_error(pair):
    with pytest.raises(ModelError, match="no module differs"):
        scanner(pair[0], copy.deepcopy(pair[0]))


@torch.no_grad()
def test_a_model_without_numbers_is_an_error(pair):
    broken = copy.deepcopy(pair[1])
    broken.model.layers[1].mlp.up_proj.weight[0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        scanner(pair[0], broken).run(Plan(exact=0, marginal=0))


def test_modules_by_other_names_are_an_error(pair):
    other = copy.deepcopy(pair[1])
    other.model.layers[0].mlp.del_submodule = None
    del other.model.layers[0].mlp.up_proj
    with pytest.raises(ModelError, match=r"no module model\.layers\.0\.mlp\.up_proj"):
        scanner(pair[0], other)


@torch.no_grad()
def test_scales_folded_into_a_norm_tie_the_component_together(pair):
    """The norm divided, the matrices behind it multiplied: one by one they compute nonsense, together they do not."""
    one = pair[0]
    folded = subject(one, bits=4)
    block = folded.model.layers[1]
    scale = torch.linspace(0.3, 3.0, 96)
    block.post_attention_layernorm.weight.div_(scale)
    for layer in (block.mlp.gate_proj, block.mlp.up_proj):
        layer.weight.mul_(scale)
    maker = scanner(one, folded)
    assert maker.anatomy.tied == {(1, "feed-forward")}
    scan = maker.run(Plan(exact=-1, marginal=0))
    names = [row.unit.name for row in scan.of("module")]
    assert "feed-forward of block 1" in names
    assert not any("layers.1.mlp" in name or "layers.1.post" in name for name in names)
    plain = scanner(one, subject(one, bits=4)).run(Plan(exact=-1, marginal=0))
    unfolded = {row.unit.name: row.effect for row in plain.of("component")}
    mine = {row.unit.name: row.effect for row in scan.of("component")}
    assert mine["feed-forward of block 1"] == pytest.approx(unfolded["feed-forward of block 1"], rel=1e-3)


@torch.no_grad()
def test_hooks_count_as_changes(pair):
    hooked = copy.deepcopy(pair[0])
    hooked.model.layers[2].self_attn.v_proj.register_forward_hook(lambda _, __, out: out.round(decimals=1))
    assert scanner(pair[0], hooked).anatomy.changed == ("model.layers.2.self_attn.v_proj",)


def test_a_forward_that_was_put_on_a_block_is_put_back(pair):
    model = copy.deepcopy(pair[0])
    block = model.model.layers[0]
    mine = vars(block)["forward"] = block.forward
    bench = Bench(model, segments((8, 8)), "model")
    bench.observe()
    bench.effect({}, 2)
    assert vars(block)["forward"] is mine


def test_values_have_intervals_over_segments():
    found = value_of([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.30265, standard error 1 / sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert value_of([1.0]).low != value_of([1.0]).low


class Echo(nn.Module):
    """Says after every token the next number."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, past_key_values=None, use_cache=True):
        class Out:
            pass

        out = Out()
        out.logits, out.past_key_values = nn.functional.one_hot(input_ids + 1, 100).float(), None
        return out


def test_segments_keep_what_is_scored():
    class Some:
        def __init__(self, name, row):
            self.id, self.row = name, row

    asked = Asked([], [], [])
    asked.add(Some("text", {"first": 2}), [Rolling(tuple(range(40)))])
    asked.add(Some("question", {}), [Likelihood(tuple(range(50)), (90, 91)), Likelihood((1,), (2,))])
    asked.add(Some("free", {}), [Generate((5, 6, 7), 10, ends=(11,))])
    asked.add(Some("unasked", {}), [])
    found = segments_of("task", asked, 12, Echo())
    assert [(each.item, each.tokens, each.first) for each in found] == [
        ("text", tuple(range(12)), 2),
        ("question", (*range(40, 50), 90, 91), 10),
        ("free", (5, 6, 7, 8, 9, 10, 11), 3),
    ]
