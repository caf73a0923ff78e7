"""The plan reads every token once where that pays, within its limits, and always the same way."""

from __future__ import annotations

import random

import pytest

from quantgate.engines.torch.plan import ROOT, Limits, Plan, _Item, _pack
from quantgate.engines.torch.tree import build_tree, common_prefix


def benchmark(subjects=3, questions=40, preamble=200, seed=0):
    draw = random.Random(seed)

    def tokens(n):
        return tuple(draw.randrange(5000) for _ in range(n))

    sequences = []
    for subject in range(subjects):
        shared = tuple(random.Random(subject).choices(range(5000), k=preamble))
        for _ in range(questions):
            question = tokens(draw.randrange(20, 90))
            sequences += [shared + question + tokens(draw.randrange(1, 6)) for _ in range(4)]
    return sequences


def plan_of(sequences, **limits):
    tree, _ = build_tree(sequences, [1] * len(sequences))
    return Plan(tree, Limits(**limits))


def test_common_prefix_beyond_the_stride():
    left = tuple(range(300))
    assert common_prefix(left, (*left[:200], 7)) == 200
    assert common_prefix(left, left) == 300
    assert common_prefix(left, ()) == 0


def test_a_tree_holds_each_shared_token_once():
    tree, ids = build_tree([(1, 2, 3), (1, 2, 4, 5), (9,), (1, 2)], [3, 2, 1, 2])
    assert len(tree) == 6
    assert tree.tokens == [1, 2, 3, 4, 5, 9]
    assert tree.depth == [0, 1, 2, 2, 3, 0]
    assert ids == [[0, 1, 2], [3, 4], [5], [0, 1]]
    assert tree.branches(0, 6) == [0, 5]
    assert tree.run_end(0) == 2


def test_preambles_are_read_once_and_almost_nothing_twice():
    plan = plan_of(benchmark())
    assert plan.tokens_read == len(plan.tree)
    kept = [row for batch in plan.batches for row in batch.rows if row.keep != ROOT]
    assert sorted(len(row.ids) for row in kept) == [200, 200, 200]


@pytest.mark.parametrize("branching", [True, False])
@pytest.mark.parametrize("batch", [64, 512, 4096])
def test_batches_stay_within_the_limits_and_read_everything(batch, branching):
    limits = {"batch": batch, "context": 8 * batch, "row": min(128, batch), "item": min(768, batch)}
    plan = plan_of([*benchmark(), tuple(range(1500))], **limits, branching=branching)
    seen, held = set(), set()
    for step in plan.batches:
        width = max(len(row.ids) for row in step.rows)
        assert width * len(step.rows) <= batch
        for row in step.rows:
            assert row.trunk == ROOT or row.trunk in held
            assert branching or row.is_chain
            seen.update(row.ids)
        held.update(row.keep for row in step.rows if row.keep != ROOT)
        held.difference_update(step.drop)
    assert seen == set(range(len(plan.tree)))
    assert not held, "keys and values of a trunk were never freed"


def test_padding_is_a_small_share():
    short = [tuple(range(at, at + 100)) for at in range(2000, 2020)]
    plan = plan_of([*short, tuple(range(700)), tuple(range(1000, 1650))])
    padded = sum(max(len(row.ids) for row in batch.rows) * len(batch.rows) for batch in plan.batches)
    assert padded < 1.15 * plan.tokens_read


def test_rows_of_one_trunk_lie_side_by_side():
    for batch in plan_of(benchmark(subjects=4)).batches:
        trunks = [row.trunk for row in batch.rows]
        assert trunks == sorted(trunks)


def test_doubling_the_shots_adds_the_preamble_only():
    few, many = (plan_of(benchmark(subjects=1, preamble=shots)) for shots in (200, 400))
    assert many.tokens_read - few.tokens_read == 200


def test_the_plan_does_not_depend_on_the_order_of_requests():
    sequences = benchmark()
    shuffled = sequences[:]
    random.Random(3).shuffle(shuffled)
    assert plan_of(sequences).batches == plan_of(shuffled).batches


def test_a_prefix_that_is_read_in_place_is_held_once():
    sequences = benchmark(subjects=1, questions=60, preamble=2000)
    rows = {
        in_place: [len(batch.rows) for batch in plan_of(sequences, context=16384, in_place=in_place).batches[1:]]
        for in_place in (False, True)
    }
    assert max(rows[False]) == 16384 // (2000 + 128)
    assert max(rows[True]) == 4096 // 128
    assert sum(rows[False]) == sum(rows[True])


def test_rows_are_filled_to_the_brim_and_not_beyond():
    """Three rows of ten hold six items exactly; what is longer than a row stands alone."""
    packed = _pack([_Item((), 0, length) for length in (3, 5, 7, 4, 5, 6, 12, 10)], 10)
    assert sorted(sorted(map(len, row)) for row in packed) == [[3, 7], [4, 6], [5, 5], [10], [12]]
    draw = random.Random(3)
    items = [_Item((), at, at + draw.randrange(1, 12)) for at in range(200)]
    packed = _pack(items, 16)
    assert sorted(item.start for row in packed for item in row) == list(range(200))
    assert all(sum(map(len, row)) <= 16 for row in packed)
