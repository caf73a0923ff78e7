"""Calibration shift: paired contrasts, paper B's count, variance, advice: against closed forms and planted effects."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from quantgate.studies.shift import Block, advice, contrast, contrasts, shares, wins
from quantgate.verdict.family import holm

SETS = ("a", "b", "c", "d")


def block(gains, own=0, test="a", method="m", **further):
    gains = np.asarray(gains, dtype=float)
    codes = further.pop("codes", np.arange(gains.shape[2]))
    return Block(method, test, SETS[: len(gains)], gains, codes, own, further.pop("margin", 0.1), **further)


def toy(generator, sets=4, draws=3, items=60, of_set=0.0, of_draw=0.0, noise=0.3):
    """Scores of exchangeable sets, or of sets that differ by ``of_set`` standard deviations of a set's effect."""
    shared = generator.normal(size=items)
    found = shared + generator.normal(scale=noise, size=(sets, draws, items))
    found = found + of_draw * generator.normal(size=(sets, draws, 1))
    return found + of_set * np.arange(sets)[:, None, None]


def test_one_draw_is_the_paired_t_test():
    gains = toy(np.random.default_rng(0), sets=2, draws=1)
    found = contrast(block(gains), 0, 1)
    expected = stats.ttest_rel(gains[0, 0], gains[1, 0])
    low, high = expected.confidence_interval()
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, low, high))
    assert not found.with_draws


def test_several_draws_widen_the_interval_by_their_variance():
    gains = toy(np.random.default_rng(1), sets=2, draws=3, of_draw=0.5)
    found = contrast(block(gains), 0, 1)
    difference = gains[0].mean(axis=0) - gains[1].mean(axis=0)
    items = difference.var(ddof=1) / difference.size
    draws = [gains[number].mean(axis=1).var(ddof=1) / 3 for number in (0, 1)]
    variance = items + sum(draws)
    df = variance**2 / (items**2 / 59 + sum(each**2 / 2 for each in draws))
    assert found.high - found.delta == pytest.approx(stats.t.ppf(0.975, df) * math.sqrt(variance))
    assert found.with_draws
    half = replace(block(gains), overlap=(0.5, 0.5))  # draws of half of a finite set overlap
    assert contrast(half, 0, 1).high > found.high


def test_the_same_text_under_two_names_has_no_gap():
    gains = toy(np.random.default_rng(2), sets=1, draws=2)
    found = contrast(block(np.concatenate([gains, gains])), 0, 1)
    assert (found.delta, found.p) != (0.0, 0.0)
    assert found.delta == 0.0
    alone = contrast(block(np.repeat(gains[:, :1], 2, axis=0)), 0, 1)
    assert (alone.delta, alone.low, alone.high, alone.p) == (0.0, 0.0, 0.0, 1.0)


def test_contrasts_are_the_own_set_against_each_other_one_with_holm():
    generator = np.random.default_rng(3)
    blocks = [block(toy(generator), own, SETS[own]) for own in range(3)] + [block(toy(generator), -1, "z")]
    found = contrasts(blocks)
    assert [(each.first, each.second) for each in found] == [
        (SETS[own], other) for own in range(3) for other in SETS if other != SETS[own]
    ]
    assert [each.adjusted for each in found] == pytest.approx(holm([each.p for each in found]))


def renamed(blocks, order):
    """The sets in another order."""
    return [
        replace(each, sets=tuple(each.sets[index] for index in order), gains=each.gains[list(order)],
                own=list(order).index(each.own))
        for each in blocks
    ]  # fmt: skip


def test_permuting_names_permutes_the_matrix_and_changes_no_number():
    generator = np.random.default_rng(4)
    blocks = [block(toy(generator, of_set=0.02), own, SETS[own]) for own in range(4)]
    for order in ((1, 0, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1)):
        other = renamed(blocks, order)
        assert [each.by_set[each.own] for each in other] == pytest.approx([each.by_set[each.own] for each in blocks])
        one = {(each.test, each.second): (each.delta, each.p, each.adjusted) for each in contrasts(blocks)}
        two = {(each.test, each.second): (each.delta, each.p, each.adjusted) for each in contrasts(other)}
        assert set(one) == set(two)
        for key, numbers in one.items():
            assert numbers == pytest.approx(two[key])
        assert wins(blocks).p == wins(other).p
        assert wins(blocks).best == wins(other).best
        ours, theirs = advice(blocks), advice(other)
        assert (ours.best, ours.by_set[ours.best]) == (theirs.best, pytest.approx(theirs.by_set[theirs.best]))


def test_the_count_and_its_p_value_by_hand():
    """The own set is best in all of three blocks over three sets: one of six arrangements wins as often."""
    gains = [np.full((3, 1, 4), 0.0) for _ in range(3)]
    for own, each in enumerate(gains):
        each[own] = 1.0
    found = wins([block(each, own, SETS[own]) for own, each in enumerate(gains)])
    counts = [sum(order[own] == own for own in range(3)) for order in itertools.permutations(range(3))]
    assert (found.best, found.expected, found.pairs, found.n_pairs) == (3, pytest.approx(1.0), 6, 6)
    assert found.p == pytest.approx(sum(count >= 3 for count in counts) / 6) == pytest.approx(1 / 6)
    assert found.p_fewer == 1.0
    tied = wins([block(np.zeros((3, 1, 4)), own, SETS[own]) for own in range(3)])
    assert (tied.best, tied.p, tied.pairs) == (pytest.approx(1.0), 1.0, 3.0)


def test_methods_that_saw_the_same_texts_are_no_further_evidence():
    """Ten methods that answer alike: the p-value stays that of one, however many wins are counted."""
    gains = [np.zeros((4, 1, 4)) for _ in range(4)]
    for own, each in enumerate(gains):
        each[own] = 1.0
    blocks = [block(each, own, SETS[own], f"m{n}") for n in range(10) for own, each in enumerate(gains)]
    assert wins(blocks).p == pytest.approx(1 / 24)
    assert wins(blocks).best == 40


def test_a_planted_set_effect_is_found_and_its_share_told():
    generator = np.random.default_rng(5)
    blocks = [block(toy(generator, of_set=0.3), own, SETS[own]) for own in range(4)]
    found = shares(blocks)
    assert found.p < 0.01
    assert found.set > 0.8
    assert sum((found.set, found.draw, found.items)) == pytest.approx(1)
    noisy = shares([block(toy(generator, of_draw=0.3), own, SETS[own]) for own in range(4)])
    assert noisy.p > 0.01
    assert noisy.draw > 0.6


def test_one_draw_cannot_tell_the_set_from_the_draw():
    found = shares([block(toy(np.random.default_rng(6), draws=1))])
    assert math.isnan(found.p)
    assert math.isnan(found.draw)


def test_the_advice_is_the_smallest_worst_regret():
    means = np.array([[0.9, 0.5, 0.8], [0.2, 0.9, 0.7]])  # tests x sets: the third is never far from the best
    blocks = [block(np.repeat(row[:, None, None], 40, axis=2), 0, "ab"[n]) for n, row in enumerate(means)]
    found = advice(blocks)
    assert found.best == "c"
    assert found.by_set == pytest.approx({"a": 7.0, "b": 4.0, "c": 2.0})
    assert (found.worst_set, found.worst, found.sure) == ("a", pytest.approx(7.0), 1.0)
    assert advice([replace(blocks[0], margin=math.nan)]) is None


def test_harmless_sets_are_called_so_only_within_the_margin():
    generator = np.random.default_rng(7)
    alike = [block(toy(generator, items=400, noise=0.05), own, SETS[own], margin=0.1) for own in range(4)]
    assert advice(alike).worst_high < 1
    few = [block(toy(generator, items=12, noise=0.5), own, SETS[own], margin=0.1) for own in range(4)]
    assert advice(few).worst_high > 1


def test_groups_widen_the_contrast():
    gains = np.repeat(toy(np.random.default_rng(8), sets=2, draws=1, items=15), 4, axis=2)
    plain, grouped = (contrast(block(gains, codes=codes), 0, 1) for codes in (np.arange(60), np.repeat(range(15), 4)))
    assert grouped.high - grouped.low > 1.8 * (plain.high - plain.low)
