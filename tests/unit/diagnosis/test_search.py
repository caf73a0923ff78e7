"""Mixtures against every possible one, recipes read back, and what a search asks of its judges."""

import itertools
import random
from dataclasses import replace

import pytest

from quantgate.core.errors import UsageError
from quantgate.core.items import Item
from quantgate.core.progress import Silent
from quantgate.diagnosis.frontier import Group, as_method, as_toml, best_mix, frontier, mix_of, rules_of
from quantgate.diagnosis.search import Judged, check_halves, halves, search, sentence, undominated
from quantgate.quantize.catalogue.recipe import NONE, load_recipe

PARTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
)
BITS = {"rtn3": 3, "rtn4": 4, "rtn8": 8}


def group(block, parts, harm, weights=100):
    modules = tuple(f"model.layers.{block}.{part}" for part in parts)
    nbytes = {NONE: 2 * weights} | {method: bits * weights // 8 for method, bits in BITS.items()}
    return Group(modules, weights, {NONE: 0.0} | dict(zip(BITS, harm, strict=True)), nbytes)


def some_groups(blocks=2, seed=0):
    draw = random.Random(seed)
    found = []
    for block in range(blocks):
        for parts in PARTS:
            size = draw.choice([100, 200, 400])
            harm = draw.uniform(0.01, 1)
            found.append(group(block, parts, (harm, harm * draw.uniform(0.1, 0.4), harm / 100), size))
    return found


@pytest.mark.parametrize("seed", range(2))
def test_a_mixture_is_the_best_of_all_that_fit(seed):
    groups = some_groups(seed=seed)
    every = [mix_of(groups, methods) for methods in itertools.product([NONE, *BITS], repeat=len(groups))]
    for budget in sorted({mix.nbytes for mix in every})[5::150]:
        best = min(mix.harm for mix in every if mix.nbytes <= budget)
        found = best_mix(groups, budget)
        assert found.nbytes <= budget
        assert found.harm == pytest.approx(best, rel=1e-3)
    assert best_mix(groups, min(mix.nbytes for mix in every) - 1) is None


def test_a_frontier_always_holds_the_uniform_rows():
    groups = some_groups(blocks=3)
    mixes = frontier(groups, 6)
    assert {mix.uniform for mix in mixes} >= set(BITS)
    assert [mix.nbytes for mix in mixes] == sorted(mix.nbytes for mix in mixes)
    mixed = [mix for mix in mixes if not mix.uniform]
    assert mixed
    assert mixed[0].bits == pytest.approx(8 * mixed[0].nbytes / sum(each.weights for each in groups))


@pytest.mark.parametrize("seed", range(3))
def test_a_recipe_that_is_read_back_gives_every_layer_its_method(tmp_path, seed):
    groups = some_groups(blocks=12, seed=seed)
    draw = random.Random(seed)
    mix = mix_of(groups, [draw.choice([NONE, *BITS]) for _ in groups])
    file = tmp_path / "recipe.toml"
    file.write_text(as_toml(groups, mix, ["said before"]), encoding="utf-8")
    read = load_recipe(file)
    names = [name for each in groups for name in each.modules] + ["lm_head"]
    expected = {
        name: method
        for each, method in zip(groups, mix.methods, strict=True)
        for name in each.modules
        if method != NONE
    }
    assert {name: row.id for name, row in read.settings.assigned(names, "test").items()} == expected
    assert read.id == as_method(groups, mix).id
    assert len(rules_of(groups, mix)[1]) <= 3 * len(PARTS)


def test_a_uniform_mixture_is_the_row_itself():
    groups = some_groups()
    assert as_method(groups, mix_of(groups, ["rtn4"] * len(groups))).id == "rtn4"


def judge(passes, asked):
    def say(method):
        asked.append(method.id)
        verdict = "pass" if passes(method) else "regressed"
        return Judged({"task": verdict}, {"task": "because"})

    return say


def bits_of(groups, mixes):
    return {as_method(groups, mix).id: mix.bits for mix in mixes}


@pytest.mark.parametrize("least", [3.0, 4.2, 8.0])
def test_the_cheapest_that_passes_is_found_and_confirmed_once(least):
    groups = some_groups(blocks=4)
    mixes = [mix for mix in frontier(groups, 6) if mix.uniform != NONE]
    bits = bits_of(groups, mixes)
    asked, confirmed = [], []
    passes = lambda method: bits[method.id] >= least  # noqa: E731
    found = search(groups, mixes, judge(passes, asked), judge(passes, confirmed), 20, Silent())
    expected = min((mix for mix in mixes if mix.bits >= least), key=lambda mix: mix.nbytes)
    assert mixes[found.chosen].nbytes == expected.nbytes
    assert len(confirmed) == 1
    assert len(asked) == len(set(asked)) <= 3 + 5
    assert "passes on the items held apart" in sentence(found)


def test_a_row_that_another_beats_for_as_many_bytes_stops_nothing():
    """rtn4 fails where gptq4, of the same bytes, passes: the walk down the uniform rows goes by the better one."""
    sizes = {"rtn4": 50, "gptq4": 50, "rtn8": 100, "gptq8": 100, NONE: 200}
    harm = {"rtn4": 0.5, "gptq4": 0.3, "rtn8": 0.002, "gptq8": 0.001, NONE: 0.0}
    groups = [
        Group(tuple(f"model.layers.{block}.{part}" for part in parts), 100, harm, sizes)
        for block in range(2)
        for parts in PARTS
    ]
    asked = []
    found = search(
        groups, frontier(groups, 3), judge(lambda method: method.id != "rtn4", asked), judge(lambda _: True, []), 20,
        Silent(),
    )  # fmt: skip
    assert asked[:2] == ["gptq8", "gptq4"]
    assert found.mixes[found.chosen].uniform == "gptq4"
    assert not {"rtn4", "rtn8"} & {*asked}


def test_only_what_nothing_cheaper_beats_is_left():
    mixes = [
        replace(mix_of(some_groups(), ["rtn8"] * 6), nbytes=n, harm=harm) for n, harm in enumerate((5, 7, 5, 3, 4, 1))
    ]
    assert undominated(mixes, range(len(mixes))) == [0, 3, 5]
    assert undominated(mixes, [1, 4]) == [1, 4]
    assert undominated(mixes, []) == []


def test_nothing_that_passes_is_said_and_nothing_is_confirmed():
    groups = some_groups()
    confirmed = []
    never = lambda _: False  # noqa: E731
    found = search(groups, frontier(groups, 4), judge(never, []), judge(never, confirmed), 20, Silent())
    assert (found.chosen, found.confirmed, confirmed) == (None, None, [])
    assert sentence(found) == "none of these passes"


def test_what_is_not_confirmed_is_not_called_passing():
    groups = some_groups()
    found = search(
        groups, frontier(groups, 4), judge(lambda _: True, []), judge(lambda _: False, []), 20, Silent()
    )  # fmt: skip
    assert "is not confirmed on those held apart (task regressed)" in sentence(found)


def test_evaluations_are_bounded():
    groups, asked = some_groups(blocks=4), []
    large = lambda method: method.id in ("rtn8", "rtn4")  # noqa: E731
    search(groups, frontier(groups, 12), judge(large, asked), judge(large, []), 4, Silent())
    assert len(asked) == 4


def test_halves_share_no_group_and_hang_on_the_seed():
    items = [Item(str(number), f"group {number // 3}", {}) for number in range(31)]
    one, other = halves(items, 0)
    assert sorted([*one, *other]) == list(range(31))
    assert not {items[each].group for each in one} & {items[each].group for each in other}
    assert abs(len(one) - len(other)) <= 3
    assert halves(items, 0) == (one, other)
    assert halves(items, 1) != (one, other)


def test_too_few_items_are_refused():
    with pytest.raises(UsageError, match="held apart"):
        check_halves("task", halves([Item(str(number), "same", {}) for number in range(9)], 0), 1)
    with pytest.raises(UsageError, match="expected 60 items"):
        check_halves("task", ([*range(29)], [*range(29)]), 29.5)
    check_halves("task", ([*range(30)], [*range(30)]), 29.5)


def test_what_was_judged_on_nothing_does_not_pass():
    from quantgate.diagnosis.search import Judged

    assert not Judged({}, {}).passes
    assert Judged({"kld_prose": "pass"}, {}).passes
