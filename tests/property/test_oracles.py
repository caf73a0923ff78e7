"""Our tests, intervals and plans against scipy's and statsmodels', where those have the same thing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import linalg, stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.descriptivestats import sign_test
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower, normal_power_het, normal_sample_size_one_tail
from statsmodels.stats.proportion import binom_test

from quantgate.core.metrics import ACCURACY, PERPLEXITY, Metric
from quantgate.verdict import intervals
from quantgate.verdict.exact import Resampling, beats_chance, bootstrap_difference, mcnemar_worse
from quantgate.verdict.family import benjamini_hochberg, holm
from quantgate.verdict.paired import compare
from quantgate.verdict.power import detectable, items_for_margin, items_to_decide, p_values, power_for_margin
from tests.unit.verdict.samples import outcomes, variance_by_search, zeros_and_ones

SCORE, LOSS = Metric("score", True, "mean", stake=0.0), Metric("loss", False, "mean", stake=0.0)
usual = settings(deadline=None, max_examples=40)
counts = st.integers(0, 80)
large_counts = st.integers(0, 5000)
reals = st.floats(-5, 5).map(lambda x: round(x, 6))
samples = st.lists(st.tuples(reals, reals), min_size=2, max_size=40)
p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=20)


# --- exact tests ----------------------------------------------------------------------------------------------------


@usual
@given(large_counts, large_counts)
def test_mcnemar_is_the_binomial_test(worse: int, better: int) -> None:
    assume(worse + better > 0)
    expected = stats.binomtest(worse, worse + better, 0.5, alternative="greater").pvalue
    assert mcnemar_worse(worse, better) == pytest.approx(expected, rel=1e-8, abs=1e-300)


@usual
@given(counts, counts, counts)
def test_two_sided_mcnemar_is_statsmodels(worse: int, better: int, rest: int) -> None:
    expected = mcnemar([[rest, worse], [better, 0]], exact=True).pvalue if worse + better else 1.0
    assert min(1.0, 2 * min(mcnemar_worse(worse, better), mcnemar_worse(better, worse))) == pytest.approx(expected)


@usual
@given(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.1, 3.0]), min_size=1, max_size=60))
def test_real_scores_counted_by_sign_are_statsmodels_sign_test(differences: list[float]) -> None:
    worse, better = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    assume(worse + better > 0)
    expected = sign_test(np.array(differences))[1]
    assert min(1.0, 2 * min(mcnemar_worse(worse, better), mcnemar_worse(better, worse))) == pytest.approx(expected)


@usual
@given(st.integers(1, 3000), st.floats(0, 1), st.floats(0.01, 0.99))
def test_beating_chance_is_the_binomial_test(n: int, share: float, chance: float) -> None:
    right = round(share * n)
    expected = stats.binomtest(right, n, chance, alternative="greater").pvalue
    # far in the tail the two libraries differ from each other, and scipy's from the exact sum, by 1e-7 of the value
    assert beats_chance(right, n, chance) == pytest.approx(expected, rel=1e-6, abs=1e-300)
    assert beats_chance(right, n, chance) == pytest.approx(binom_test(right, n, chance, alternative="larger"), abs=1e-9)


def test_paired_bootstrap_is_scipys_basic_interval() -> None:
    rng = np.random.default_rng(5)
    totals = rng.integers(20, 60, 50).astype(float)
    before = np.column_stack([rng.binomial(totals.astype(int), 0.6), totals])
    after = np.column_stack([rng.binomial(totals.astype(int), 0.5), totals])

    def share(sums: np.ndarray) -> float:
        return float(sums[0] / sums[1])

    def loss(picked: np.ndarray) -> float:
        return share(after[picked].sum(axis=0)) - share(before[picked].sum(axis=0))

    items = np.arange(50)
    theirs = stats.bootstrap((items,), loss, method="basic", n_resamples=4000, vectorized=False, rng=rng)
    difference, low, high = bootstrap_difference(before, after, share, items, Resampling(rng, 4000))
    assert difference == pytest.approx(loss(items))
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.05 * width)


# --- t and its clustered form ---------------------------------------------------------------------------------------


@usual
@given(samples)
def test_p_value_and_error_are_the_paired_t_tests(pairs: list[tuple[float, float]]) -> None:
    before, after = (np.array(side) for side in zip(*pairs, strict=True))
    assume(np.std(after - before) > 1e-6)
    for metric, worse in ((SCORE, "less"), (LOSS, "greater")):
        found = compare(outcomes(before), outcomes(after), metric, 0.95)
        assert found.p_worse == pytest.approx(stats.ttest_rel(after, before, alternative=worse).pvalue, rel=1e-6)
        assert found.spread.se == pytest.approx(stats.sem(after - before))


@usual
@given(samples, st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_holds_the_paired_t_interval(pairs: list[tuple[float, float]], confidence: float) -> None:
    """The correction for skewness only ever widens an arm."""
    before, after = (np.array(side) for side in zip(*pairs, strict=True))
    assume(np.std(after - before) > 1e-6)
    found = compare(outcomes(before), outcomes(after), SCORE, confidence)
    expected = stats.ttest_rel(after, before).confidence_interval(confidence)
    assert found.ci_low <= expected.low + 1e-9
    assert found.ci_high >= expected.high - 1e-9


@usual
@given(st.lists(reals, min_size=5, max_size=20), reals, st.sampled_from([0.9, 0.95]))
def test_interval_of_a_symmetric_sample_is_the_t_interval(half: list[float], shift: float, confidence: float) -> None:
    differences = np.concatenate([half, -np.array(half)]) + shift
    assume(np.std(differences) > 1e-3)
    before = np.zeros(differences.size)
    found = compare(outcomes(before), outcomes(differences), SCORE, confidence)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(confidence)
    assert (found.ci_low, found.ci_high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


@usual
@given(st.integers(8, 15), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_error_of_equal_groups_is_statsmodels_clustered_error(n_groups: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_groups), size)
    differences = rng.normal(size=codes.size) + rng.normal(size=n_groups)[codes]
    fitted = OLS(differences, np.ones(codes.size)).fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert intervals.spread(differences, codes).se == pytest.approx(max(fitted.bse[0], stats.sem(differences)))


@usual
@given(st.lists(st.integers(1, 6), min_size=10, max_size=20), st.integers(0, 2**32 - 1))
def test_error_of_unequal_groups_is_cr2_by_its_definition(sizes: list[int], seed: int) -> None:
    """Bell and McCaffrey's sum over groups of A e e' A with A = (I - H)^(-1/2), as matrices."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    assume(intervals.groups_count(codes))
    differences = rng.normal(size=codes.size) + rng.normal(size=len(sizes))[codes]
    n, residuals = codes.size, differences - differences.mean()
    total = 0.0
    for group in range(len(sizes)):
        own = residuals[codes == group]
        adjusted = linalg.inv(linalg.sqrtm(np.eye(own.size) - np.full((own.size, own.size), 1 / n)).real) @ own
        total += adjusted.sum() ** 2
    assert intervals.spread(differences, codes).se == pytest.approx(max(math.sqrt(total) / n, stats.sem(differences)))


@usual
@given(st.floats(0.51, 0.999), st.floats(1, 500))
def test_quantiles_and_tails_are_scipys(confidence: float, df: float) -> None:
    quantile = intervals.t_quantile(confidence, df)
    assert quantile == pytest.approx(stats.t.ppf(0.5 + confidence / 2, df))
    assert intervals.upper_tail(quantile, df) == pytest.approx(stats.t.sf(quantile, df))
    assert intervals.normal_quantile(confidence) == pytest.approx(stats.norm.ppf(0.5 + confidence / 2))


# --- score interval of paired proportions ---------------------------------------------------------------------------


@usual
@given(counts, counts, counts)
def test_score_statistic_of_no_difference_is_mcnemars_chi_squared(worse: int, better: int, rest: int) -> None:
    assume(worse + better > 0)
    expected = mcnemar([[rest, worse], [better, 0]], exact=False, correction=False).statistic
    n = np.array(float(worse + better + rest))
    found = intervals.tango_statistic(np.array(float(worse)), np.array(float(better)), n, np.array(0.0))
    assert float(found) ** 2 == pytest.approx(expected, abs=1e-9)
    assert float(found) * (better - worse) >= 0


@usual
@given(counts, counts, counts, st.sampled_from([0.9, 0.95, 0.99]))
def test_verdict_p_values_are_normal_tails_of_the_score_statistic(
    worse: int, better: int, rest: int, confidence: float
) -> None:
    """Where the interval ends, the one-sided p-value of the margin there is (1 - confidence) / 2."""
    assume(worse + better + rest > 1)
    before = [1] * worse + [0] * better + [1] * rest
    after = [0] * worse + [1] * better + [1] * rest
    found = compare(outcomes(before), outcomes(after), ACCURACY, confidence)
    assume(found.ci_low > -0.999)
    assert p_values(found, -found.ci_low)[0] == pytest.approx((1 - confidence) / 2, rel=1e-4)


# --- many cases -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)  # multipletests collects garbage at every call
@given(p_lists, st.sampled_from([0.01, 0.025, 0.05]))
def test_corrections_are_statsmodels(p: list[float], level: float) -> None:
    for ours, theirs in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
        rejected, adjusted, *_ = multipletests(p, alpha=level, method=theirs)
        assert ours(p) == pytest.approx(list(adjusted))
        assume(all(abs(value - level) > 1e-9 for value in adjusted))
        assert [value <= level for value in ours(p)] == list(rejected)
    assert benjamini_hochberg(p) == pytest.approx(list(stats.false_discovery_control(p)))


# --- planning -------------------------------------------------------------------------------------------------------


@usual
@given(st.floats(0.005, 0.1), st.floats(0.02, 0.5), st.floats(-0.9, 0.5), st.floats(0.5, 0.95))
def test_planned_items_and_power_are_statsmodels(margin: float, discordance: float, share: float, power: float) -> None:
    difference = share * margin
    assume(abs(difference) < discordance)
    shares = (discordance - difference) / 2, (discordance + difference) / 2
    on_margin = math.sqrt(variance_by_search(*shares, 1.0, -margin))
    deviation, room = math.sqrt(discordance - difference**2), margin + difference
    items = items_for_margin(margin, discordance, difference, 0.95, power)
    expected = max(1.0, normal_sample_size_one_tail(room, power, 0.025, on_margin, deviation))
    assert expected * 0.999 <= items <= expected * 1.001 + 1
    expected = normal_power_het(room, items, 0.025, on_margin, deviation, alternative="larger")
    assert power_for_margin(items, margin, discordance, difference) == pytest.approx(expected, abs=1e-3)


@settings(deadline=None, max_examples=15)
@given(st.integers(15, 200), st.sampled_from([0.7, 0.8, 0.9]), st.floats(0.01, 10))
def test_detectable_difference_is_that_of_statsmodels_t_test(n: int, power: float, scale: float) -> None:
    """Ours is the planning formula, theirs the noncentral t: they part by less than 3% from fifteen items on."""
    half = np.linspace(0.1, 1, n) * scale
    differences = np.concatenate([half, -half])
    found = compare(outcomes(np.zeros(2 * n)), outcomes(differences), SCORE, 0.95)
    effect = TTestPower().solve_power(nobs=2 * n, alpha=0.025, power=power, alternative="larger")
    assert detectable(found, power) == pytest.approx(effect * np.std(differences, ddof=1), rel=0.03)


@settings(deadline=None, max_examples=15)
@given(st.floats(0.02, 0.3), st.sampled_from([0.8, 0.9]))
def test_items_that_would_decide_are_statsmodels(margin: float, power: float) -> None:
    half = np.linspace(0.1, 1, 150)
    differences = np.concatenate([half, -half])
    base = np.linspace(2, 3, 300)
    deviation = float(np.std(differences, ddof=1))
    scores = compare(outcomes(base), outcomes(base + differences), SCORE, 0.95)
    expected = normal_sample_size_one_tail(margin, power, 0.025, deviation)
    assert items_to_decide(scores, margin, power) == pytest.approx(expected, rel=0.02, abs=2)
    seen_only = replace(PERPLEXITY, stake=0.0, serial=False)
    losses = compare(outcomes(base), outcomes(base + differences), seen_only, 0.95)
    expected = normal_sample_size_one_tail(math.log1p(margin), power, 0.025, deviation)
    assert items_to_decide(losses, margin * losses.reference, power) == pytest.approx(expected, rel=0.02, abs=2)


@settings(deadline=None, max_examples=15)
@given(counts, counts, st.integers(0, 300), st.floats(0.01, 0.3))
def test_items_that_would_decide_a_task_of_questions_are_statsmodels(
    worse: int, better: int, rest: int, margin: float
) -> None:
    n = worse + better + rest
    assume(n > 0)
    difference = (better - worse) / n
    assume(abs(difference + margin) > 0.01)
    on_margin = math.sqrt(variance_by_search(worse / n, better / n, 1.0, -margin))
    deviation = math.sqrt((worse + better) / n - difference**2)
    found = items_to_decide(zeros_and_ones(worse, better, n), margin)
    expected = normal_sample_size_one_tail(abs(difference + margin), 0.8, 0.025, on_margin, deviation)
    assert expected * 0.999 <= found <= max(1.0, expected * 1.001 + 1)
