from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from quantgate.verdict import intervals
from tests.unit.verdict.samples import variance_by_search


@pytest.mark.parametrize(("worse", "better", "n"), [(5, 2, 40), (1, 0, 30), (12, 30, 200), (3, 3, 25), (40, 1, 300)])
def test_score_interval_agrees_with_a_likelihood_search(worse: int, better: int, n: int) -> None:
    bounds = intervals.tango_interval(worse, better, n, 1.96)
    for bound, expected in zip(map(float, bounds), (1.96, -1.96), strict=True):
        deviation = math.sqrt(variance_by_search(worse, better, n, bound))
        assert (better - worse - n * bound) / deviation == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("n", [1, 10, 64, 14042])
def test_no_discordant_pair_still_leaves_room(n: int) -> None:
    q = 1.96
    low, high = intervals.tango_interval(0, 0, n, q)
    assert float(high) == pytest.approx(q**2 / (n + q**2), rel=1e-9)
    assert float(low) == -float(high)


def test_score_interval_works_on_arrays_and_at_the_ends() -> None:
    low, high = intervals.tango_interval([10, 0, 3], [0, 10, 3], 10, 1.96)
    assert low[0] == -1
    assert high[1] == 1
    assert low[0] < high[0] < 0 < low[1] < high[1]
    assert low[2] == pytest.approx(-high[2])


def test_statistic_without_variance_is_certain_and_not_nan() -> None:
    one, zero = np.array(1.0), np.array(0.0)
    assert intervals.tango_statistic(zero, zero, one * 10, -one) == math.inf
    assert intervals.tango_statistic(zero, zero, one * 10, zero) == 0


def test_statistic_keeps_its_digits_near_a_difference_of_zero() -> None:
    zero, n = np.array(0.0), np.array(1.0)
    for margin in (1e-6, 1e-200, 2.2e-311):
        assert intervals.tango_statistic(zero, zero, n, np.array(-margin)) == pytest.approx(math.sqrt(margin), rel=1e-5)


def test_quantiles_are_the_known_ones() -> None:
    assert intervals.normal_quantile(0.95) == pytest.approx(1.959964, abs=1e-6)
    assert intervals.t_quantile(0.95, 9) == pytest.approx(2.262157, abs=1e-6)
    assert intervals.t_quantile(0.95, math.inf) == intervals.normal_quantile(0.95)
    assert math.isnan(intervals.t_quantile(0.95, 0.5))
    assert intervals.upper_tail(2.262157, 9) == pytest.approx(0.025, abs=1e-6)
    assert intervals.upper_tail(1.959964, math.inf) == pytest.approx(0.025, abs=1e-6)


def test_symmetric_sample_gets_the_plain_t_interval() -> None:
    half = np.array([0.1, 0.3, 0.35, 0.9, 1.4])
    sample = np.concatenate([2 + half, 2 - half])
    found = intervals.spread(sample, np.arange(10))
    expected = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert intervals.mean_interval(sample, found, intervals.t_quantile(0.95, found.df)) == pytest.approx(
        (expected.low, expected.high)
    )


def test_long_right_tail_lengthens_the_upper_arm_only() -> None:
    below, above = intervals.skewed_arms(np.array([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 2.0]), 2.0, 8)
    assert below < 2.0 < above
    mirrored = intervals.skewed_arms(-np.array([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 2.0]), 2.0, 8)
    assert mirrored == pytest.approx((above, below))


def test_interval_of_a_skewed_sample_is_longer_on_the_side_of_its_tail() -> None:
    sample = np.array([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 2.0])
    found = intervals.spread(sample, np.arange(8))
    low, high = intervals.mean_interval(sample, found, 2.0)
    assert low == pytest.approx(sample.mean() - 2.0 * found.se)
    assert high > sample.mean() + 2.5 * found.se


def test_skewness_correction_undoes_halls_transformation() -> None:
    sample, q = np.array([0.0, 0.1, 0.4, 0.2, 1.1, 0.3]), 1.5
    n = sample.size
    skewness = float(stats.skew(sample))
    t = intervals.skewed_arms(sample, q, n)[0]
    back = t + skewness * t**2 / (3 * math.sqrt(n)) + skewness**2 * t**3 / (27 * n) + skewness / (6 * math.sqrt(n))
    assert back == pytest.approx(q)


def test_cluster_variance_of_a_hand_worked_sample() -> None:
    # Ten groups of two, both items of a group equal: the variance of the mean is that of ten values, exactly.
    values = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    found = intervals.spread(np.repeat(values, 2), np.repeat(np.arange(10), 2))
    assert found.clustered
    assert found.df == pytest.approx(9)
    assert found.se == pytest.approx(math.sqrt(np.var(values, ddof=1) / 10))
    assert found.design_effect == pytest.approx(19 / 9)


def test_unequal_groups_leave_fewer_degrees_of_freedom() -> None:
    sizes = [30, *[5] * 20]
    found = intervals.spread(np.tile([0.0, 1.0], 65), np.repeat(np.arange(21), sizes))
    assert 6 < found.df < 8.6425
    assert found.df < 130**2 / (30**2 + 20 * 25) - 1


def test_groups_only_ever_widen() -> None:
    # Within each group the two items cancel: the robust variance is 0, the independent one stays.
    sample = np.tile([1.0, -1.0], 10)
    found = intervals.spread(sample, np.repeat(np.arange(10), 2))
    assert found.design_effect == 1
    assert found.se == pytest.approx(math.sqrt(np.var(sample, ddof=1) / 20))


@pytest.mark.parametrize(
    ("sizes", "counts"), [([2] * 8, True), ([2] * 2, True), ([1] * 50, False), ([1] * 10 + [90], True), ([90], False)]
)
def test_when_groups_count(sizes: list[int], counts: bool) -> None:
    assert intervals.groups_count(np.repeat(np.arange(len(sizes)), sizes)) is counts


@pytest.mark.parametrize("sizes", [[24] * 10, [150] + [2] * 75, [60] * 3 + [1] * 60, [5, 9, 40]])
def test_degrees_of_freedom_are_those_of_the_quadratic_form(sizes: list[int]) -> None:
    """Satterthwaite, with every matrix written out: 2 · mean² / variance of Σ weight · (group's deviation)²."""
    counts = np.array(sizes, dtype=float)
    shares = counts / counts.sum()
    deviations = np.eye(counts.size) - shares
    noise = np.diag(0.05 + 0.95 / counts)
    form = deviations.T @ np.diag(shares**2 / (1 - shares)) @ deviations @ noise
    expected = np.trace(form) ** 2 / np.trace(form @ form)
    assert intervals.group_df(counts) == pytest.approx(max(1.0, min(expected, 1 / (shares @ shares) - 1)))


def test_groups_without_items_count_for_nothing() -> None:
    assert intervals.group_df(np.array([3.0, 0.0, 3.0, 0.0])) == pytest.approx(1)
    assert not intervals.groups_count(np.array([2, 2, 2]))


def test_a_text_whose_neighbours_resemble_each_other_is_widened() -> None:
    rng = np.random.default_rng(4)
    alone = intervals.serial_spread(rng.normal(size=64))
    assert (alone.df, alone.clustered) == (6, False)
    waves = np.repeat(rng.normal(size=8), 8)  # eight documents of eight equal segments
    found = intervals.serial_spread(waves)
    assert found.design_effect == pytest.approx(8, rel=0.5)
    assert found.se >= intervals.spread(waves, np.arange(64)).se
    assert math.isnan(intervals.serial_spread(np.array([1.0])).se)


def test_few_frequencies_hold_their_error_where_t_alone_does_not() -> None:
    """AR(1) with 0.6, 64 segments: t alone errs in 16.6% a side instead of 2.5."""
    rng = np.random.default_rng(5)
    missed = missed_alone = 0
    for _ in range(400):
        series = [rng.normal()]
        for noise in rng.normal(size=63):
            series.append(0.6 * series[-1] + 0.8 * noise)
        text = np.array(series)
        along, alone = intervals.serial_spread(text), intervals.spread(text, np.arange(64))
        missed += abs(text.mean()) > intervals.t_quantile(0.95, along.df) * along.se
        missed_alone += abs(text.mean()) > intervals.t_quantile(0.95, 63) * alone.se
    assert missed <= 400 * 0.1 < 400 * 0.25 < missed_alone


def test_effective_groups_of_equal_and_unequal_sizes() -> None:
    assert intervals.effective_groups(np.repeat(np.arange(5), 4)) == 5
    assert intervals.effective_groups(np.repeat([0, 1], [1, 3])) == pytest.approx(1.6)
    assert intervals.effective_groups(np.array([], dtype=np.intp)) == 0


def test_design_effect_of_few_discordant_pairs_leans_on_the_assumed_one() -> None:
    one = np.array(1.0)
    assert intervals.cautious_effect(one, np.array(0.0), 51.0) == pytest.approx(2.0)
    assert intervals.cautious_effect(one, np.array(10.0), 51.0) == pytest.approx(1.5)
    assert intervals.cautious_effect(np.array(4.0), np.array(10.0), 51.0) == 4.0  # never below the estimate


def test_one_item_has_no_spread() -> None:
    found = intervals.spread(np.array([0.3]), np.array([0]))
    assert math.isnan(found.se)
    assert all(math.isnan(x) for x in intervals.mean_interval(np.array([0.3]), found, 2.0))


def test_a_series_design_effect_counts_for_the_unseen_where_chance_does_not_explain_it() -> None:
    """Of 10 frequencies the 95% quantile of chi-squared / 10 is 18.307 / 10: an effect of 1.5 is noise, 4 is 2.185."""
    found = [intervals.sure_effect(intervals.Spread(1.0, 10.0, effect, False)) for effect in (1.0, 1.5, 4.0)]
    assert found == pytest.approx([1.0, 1.0, 4 / 1.8307], abs=1e-4)
    assert intervals.sure_effect(intervals.Spread(1.0, 10.0, 4.0, True)) == 4.0  # groups are no noise
    assert intervals.sure_effect(intervals.Spread(1.0, 99.0, 1.0, False)) == 1.0
    rng = np.random.default_rng(4)
    above = [intervals.sure_effect(intervals.serial_spread(rng.normal(size=140))) > 1 for _ in range(2000)]
    assert np.mean(above) == pytest.approx(0.05, abs=0.015)


def test_skewness_of_groups_counts_where_chance_does_not_explain_it() -> None:
    """One bad group of ten: mean 0.1, deviations nine of -0.1 and one of 0.9, so cubes average (0.729 - 0.009) / 10 and
    the variance is 0.09: 0.072 / 0.027 = 2.667, more than 1.645 · sqrt(6 / 10) = 1.274. Two of five are noise.
    """
    assert float(intervals.sure_skewness(np.array([0.0] * 9 + [1.0]), np.full(10, 7.0))) == pytest.approx(8 / 3)
    two = np.array([[0.0] * 9 + [1.0], [5.0] * 9 + [4.0]])  # each sample about its own mean
    assert intervals.sure_skewness(two, np.full(10, 7.0)) == pytest.approx([8 / 3, -8 / 3])
    assert intervals.sure_skewness(np.array([[0.0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]), np.full(5, 7.0)).tolist() == [
        0.0,
        0.0,
    ]
    rng = np.random.default_rng(6)
    for sizes in (np.full(57, 20.0), np.array([80.0] + [4.0] * 55)):
        sums = rng.normal(size=(4000, sizes.size)) * np.sqrt(sizes * (1 + (sizes - 1) * 0.05))
        found = intervals.sure_skewness(sums - sums.mean(axis=1, keepdims=True), sizes)
        assert np.mean(found != 0) < 0.11  # two-sided, 5% a side


def test_a_few_bad_groups_among_many_lengthen_the_interval_on_their_side() -> None:
    codes = np.repeat(np.arange(20), 10)
    lost = np.where((codes == 3) & (np.arange(200) % 2 == 0), -1.0, 0.0)
    found = intervals.binary_spread(lost, codes)
    below, above = found.arms(2.0)
    assert (found.groups, above) == (20, 2.0)
    assert below > 2.5
    low, high = intervals.binary_interval(lost, found, 2.0)
    plain = intervals.binary_interval(lost, replace(found, skewness=0.0), 2.0)
    assert low < plain[0]
    assert high == plain[1]
    assert intervals.mean_interval(lost, found, 2.0)[0] <= lost.mean() - below * found.se
