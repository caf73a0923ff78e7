"""Every comparator once with numbers that paper and pencil give, and beside scipy and statsmodels."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import fft, signal, stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from quantgate.core.metrics import ACCURACY, Metric
from quantgate.verdict import guided, intervals
from quantgate.verdict.corpus import corpus_interval
from quantgate.verdict.exact import beats_chance, mcnemar_worse
from quantgate.verdict.family import benjamini_hochberg, holm
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare, relative
from quantgate.verdict.power import p_values
from quantgate.verdict.sequential import log_capital
from quantgate.verdict.unseen import unseen_bound
from tests.unit.verdict.samples import outcomes, rule, zeros_and_ones

SCORE = Metric("score", True, "mean", stake=0.0)
LOSS = Metric("loss", False, "exp_mean", stake=0.0)
T3, T4 = 3.182446, 2.776445  # two-sided 95%


def test_paired_0_1_scores() -> None:
    """Nothing turned: on a margin m, P(lost) = m is likeliest, and n·m / sqrt(n·m·(1-m)) = sqrt(n·m / (1-m)).

    96 items, 4 points: sqrt(96 · 0.04 / 0.96) = 2 > 1.96: pass. 92 items: 1.958 < 1.96: open.
    """
    found = zeros_and_ones(0, 0, 96)
    assert stats.norm.isf(p_values(found, 0.04)[0]) == pytest.approx(2.0)
    assert [judge(zeros_and_ones(0, 0, n), rule(0.04)).verdict for n in (96, 92)] == ["pass", "inconclusive"]
    # no margin: 8 lost, 2 won: (8 - 2) / sqrt(8 + 2) = 1.897
    assert stats.norm.isf(p_values(zeros_and_ones(8, 2, 50), 0.0)[1]) == pytest.approx(6 / math.sqrt(10))


def test_exact_p_values_agree_with_statsmodels_and_scipy() -> None:
    """8 of 10 turned answers are losses: (45 + 10 + 1) / 1024 = 0.0547."""
    assert mcnemar_worse(8, 2) == pytest.approx(56 / 1024)
    assert mcnemar_worse(8, 2) == pytest.approx(mcnemar([[30, 8], [2, 10]], exact=True).pvalue / 2)
    assert beats_chance(31, 100, 0.25) == pytest.approx(stats.binomtest(31, 100, 0.25, alternative="greater").pvalue)


def test_real_scores() -> None:
    """Differences -3, -2, -1, 0, 1 (hundredths): mean -1, variance (4 + 1 + 1 + 4) / 4 = 2.5, error sqrt(2.5 / 5)."""
    before = np.array([0.5, 0.6, 0.4, 0.7, 0.5])
    after = before + np.array([-3, -2, -1, 0, 1]) / 100
    found = compare(outcomes(before), outcomes(after), SCORE, 0.95)
    half = T4 * math.sqrt(0.5) / 100
    assert (found.ci_low, found.ci_high) == pytest.approx((-0.01 - half, -0.01 + half), abs=1e-8)
    other = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == pytest.approx((other.low, other.high))
    greater = stats.ttest_1samp(after - before, -0.025, alternative="greater").pvalue
    assert p_values(found, 0.025)[0] == pytest.approx(greater)


def test_losses() -> None:
    """The same differences of a loss of 2 nats: perplexity e² = 7.389 moves by e² · (exp(-0.01 ± half) - 1)."""
    before = np.full(5, 2.0)
    found = compare(outcomes(before), outcomes(before + np.array([-3, -2, -1, 0, 1]) / 100), LOSS, 0.95)
    half = T4 * math.sqrt(0.5) / 100
    expected = [math.exp(2) * math.expm1(-0.01 + sign * half) for sign in (-1, 1)]
    assert [found.ci_low, found.ci_high] == pytest.approx(expected, abs=1e-7)


def test_a_corpus_of_two() -> None:
    """Two texts lose 0.2 and 0: of the resamples a quarter shows -0.2, half -0.1, a quarter 0, so the arms are 0.1.

    Two texts instead of many: times 12.706 / 1.960 (Student against normal) and sqrt(2 / 1).
    """
    before, after = np.array([[0.5, 1.0], [0.5, 1.0]]), np.array([[0.3, 1.0], [0.5, 1.0]])
    found = corpus_interval(before, after, lambda sums: float(sums[0] / sums[1]), np.arange(2), 0.95)
    assert found.half == pytest.approx(0.1 * 12.7062 / 1.959964 * math.sqrt(2), abs=1e-4)


def test_a_relative_margin_of_0_1_scores() -> None:
    """20 right on both sides, 5 lost of 25, none won, 40 items; half may be lost.

    The share right somewhere is s = 25/40. At the ratio 1/2 with none won, P(lost) = s/2 = 0.3125 and the variance is
    40 · 1/2 · 0.3125 = 6.25; the distance 20 - 25/2 = 7.5; the statistic 7.5 / 2.5 = 3.
    """
    found = compare(outcomes([1] * 25 + [0] * 15), outcomes([1] * 20 + [0] * 20), ACCURACY, 0.95)
    p = p_values(relative(found, 0.5), 0.5 * 25 / 40)[0]
    assert stats.t.isf(p, 24) == pytest.approx(3.0)  # 25 right answers of the reference: 24 degrees of freedom


def test_a_relative_margin_of_real_scores() -> None:
    """Half of 0.2, 0.4, 0.6, 0.8 may be lost. Subject less half of the reference: 0, 2, 2, 4 hundredths: mean 2,
    variance (4 + 0 + 0 + 4) / 3, error sqrt(8/3 / 4) = 0.8165; 0 lies at a loss of 0.25.
    """
    before = np.array([0.2, 0.4, 0.6, 0.8])
    found = compare(outcomes(before), outcomes(before / 2 + np.array([0, 2, 2, 4]) / 100), SCORE, 0.95)
    half = T3 * math.sqrt(2 / 3) / 100
    shown = relative(found, 0.5)
    assert (shown.ci_low, shown.ci_high) == pytest.approx((-0.23 - half, -0.23 + half), abs=1e-8)
    assert shown.delta == pytest.approx(-0.23)
    by_scipy = stats.ttest_1samp(np.array([0, 2, 2, 4]) / 100, 0.0, alternative="greater").pvalue
    assert p_values(shown, 0.25)[0] == pytest.approx(by_scipy)


def test_room_for_rare_damage() -> None:
    """One item that lost 0.2 of at most 1: the unseen one has a uniform weight, so 95% lie below 0.2 + 0.95 · 0.8.

    59 items without any loss: 1 - 0.05^(1/59) = 4.95%, Clopper and Pearson's bound.
    """
    assert unseen_bound(np.array([0.2]), 1.0, 0.05) == pytest.approx(
        0.96, abs=0.004
    )  # the formula is good to a percent
    nothing = unseen_bound(np.zeros(59), 1.0, 0.05)
    exact = stats.binomtest(0, 59).proportion_ci(0.9, "exact").high
    assert (nothing, exact) == pytest.approx((0.0495, 0.0495), rel=0.01)


def test_groups() -> None:
    """Three groups of two: 1 1, 0 0, -1 1: mean 1/3, sums of residuals 4/3, -2/3, -2/3, squares 16/9 + 4/9 + 4/9 = 8/3.

    CR2 divides by 1 - 2/6: 8/3 · 3/2 = 4, over 6²: 1/9. Student's t has 2 degrees of freedom.
    """
    differences, codes = np.array([1.0, 1, 0, 0, -1, 1]), np.array([0, 0, 1, 1, 2, 2])
    found = intervals.spread(differences, codes)
    # items alone: (2 · 4/9 + 2 · 1/9 + 16/9 + 4/9) / 5 / 6 = 0.1111: the same, so the groups do not widen it
    assert (found.se**2, found.design_effect, found.df) == pytest.approx((1 / 9, 1.0, 2.0))
    together = np.array([1.0, 1, 0, 0, 0, 1])
    found = intervals.spread(together, codes)
    fitted = OLS(together, np.ones(6)).fit(cov_type="cluster", cov_kwds={"groups": codes})  # of equal groups the same
    assert found.se == pytest.approx(float(fitted.bse[0]))


def test_neighbours_in_a_text() -> None:
    """Eight segments, at least three frequencies. Differences that are half a cosine wave are the first one alone: the
    squares sum to 8/2 = 4, so its coefficient is sqrt(2/8) · 4 = 2, and the others are 0.

    Variance from the waves (2² + 0 + 0) / 3 = 4/3, of single items 4/7: a design effect of 7/3, 3 degrees of freedom.
    """
    found = intervals.serial_spread(np.cos(np.pi * (np.arange(8) + 0.5) / 8))
    assert (found.design_effect, found.df) == pytest.approx((7 / 3, 3.0))
    assert found.se**2 == pytest.approx(4 / 3 / 8)


def test_the_long_run_variance_agrees_with_scipy_and_statsmodels() -> None:
    """Its waves are a discrete cosine transform, and the coefficients of a regression on these waves.

    27 segments: 0.4 * 27^(2/3) = 3.6, so four frequencies. In a long text x = 0.5 x before + noise has, for a noise of
    1, the long-run variance 1 / (1 - 0.5)^2 = 4, three times the 4/3 of single items.
    """
    rng = np.random.default_rng(3)
    series = np.cumsum(rng.normal(size=27)) / 10 + 0.3
    found = intervals.serial_spread(series)
    by_scipy = fft.dct(series, type=2, norm="ortho")[1:5]
    waves = np.cos(np.pi * np.arange(1, 5) * (np.arange(27)[:, None] + 0.5) / 27) * math.sqrt(2 / 27)
    by_statsmodels = OLS(series, np.column_stack([np.ones(27), waves])).fit()
    assert by_statsmodels.params[1:] == pytest.approx(by_scipy)
    assert by_statsmodels.params[0] == pytest.approx(series.mean())
    assert (found.se**2, found.df) == pytest.approx((float(np.mean(by_scipy**2)) / 27, 4.0))
    assert found.design_effect == pytest.approx(found.se**2 / (stats.sem(series) ** 2))
    steps = rng.normal(size=(200, 2100))
    errors = [intervals.serial_spread(signal.lfilter([1], [1, -0.5], each)[100:]).se ** 2 * 2000 for each in steps]
    assert float(np.mean(errors)) == pytest.approx(4, rel=0.06)


def _all_draws(harm: list[int], chances: list[Fraction], fold: list[int]) -> tuple[Fraction, Fraction, float, float]:
    """Over every possible draw of the items: mean and variance of the estimate, mean of its stated variance, mass."""
    weight = np.array([float(each) for each in chances])
    mass, values = Fraction(0), []
    for drawn in itertools.product((False, True), repeat=len(harm)):
        probability = Fraction(1)
        for each, chance in zip(drawn, chances, strict=True):
            probability *= chance if each else 1 - chance
        # at the threshold 1 an item of weight w is drawn with the chance w
        enters = np.where(drawn, 0.5, 2.0)
        draw = guided.Draw(np.zeros(len(harm), dtype=np.intp), weight, enters, np.array(fold, dtype=np.intp))
        value, variance, _ = draw.estimate(np.array(harm, dtype=float), 1.0)
        values.append((probability, Fraction(value), variance))
        mass += probability
    mean = sum((probability * value for probability, value, _ in values), Fraction(0))
    spread = sum((probability * (value - mean) ** 2 for probability, value, _ in values), Fraction(0))
    stated = math.fsum(float(probability) * variance for probability, _, variance in values)
    return mass, mean, float(spread), stated


def test_a_guided_estimate_over_all_possible_draws() -> None:
    """Six items of harm 1 0 0 1 -1 0, drawn with chances 1/2 1/3 1/4 3/4 2/3 1: 64 draws, each with its probability.

    Whatever f is, the estimate is on average the mean harm, (1 + 1 - 1) / 6. Without f its variance is that of a sum
    of independent terms, harm^2 (1 - pi) / pi: (1 + 1/3 + 1/2) / 36. What it states is that on average.
    """
    harm = [1, 0, 0, 1, -1, 0]
    chances = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(3, 4), Fraction(2, 3), Fraction(1)]
    mass, mean, spread, stated = _all_draws(harm, chances, [0] * 6)
    assert mass == 1
    assert float(mean) == pytest.approx(1 / 6)
    assert (spread, stated) == pytest.approx((Fraction(11, 6) / 36,) * 2)
    # with f from the other half it stays without bias; two halves that teach each other are not quite independent
    _, mean, spread, stated = _all_draws(harm, chances, [0, 1, 0, 1, 0, 1])
    assert float(mean) == pytest.approx(1 / 6)
    assert stated == pytest.approx(spread, rel=0.15)


def test_the_boundaries_of_a_guided_draw_agree_with_scipy() -> None:
    """Scores at information I and J correlate by sqrt(I / J): the chance to stay below all boundaries is a normal one.

    Up to a look the root of its share of the largest information is spent: at a quarter of it half of the error.
    """
    margin, alpha = 0.02, 0.025
    largest = guided.spent([1e9], margin, alpha)[0]
    assert largest == alpha
    full = next(each for each in np.arange(1e4, 2e5, 50) if guided.spent([each], margin, alpha)[0] == alpha)
    assert guided.spent([full / 4], margin, alpha)[0] == pytest.approx(alpha / 2, rel=1e-3)
    information = np.array([2e3, 5e3, 1.2e4])
    limits = guided.boundaries(list(information), margin, alpha)
    correlation = np.sqrt(np.minimum.outer(information, information) / np.maximum.outer(information, information))
    for count in (1, 2, 3):
        inside = stats.multivariate_normal(np.zeros(count), correlation[:count, :count]).cdf(np.array(limits[:count]))
        spent = guided.spent(list(information[:count]), margin, alpha)[-1]
        assert 1 - float(inside) == pytest.approx(spent, abs=3e-5)


def test_a_guided_estimate() -> None:
    """Four items with a chance of one half each, two drawn, of which one is lost: (1 / 0.5 + 0) / 4 = 0.5.

    Variance (1 - 0.5) / 0.5² · 1² / 4² = 0.125; a unit of unseen harm adds (1 - 0.5) / 0.5 / 4 = 0.25. Items
    not drawn and of the other fold expect what the drawn ones showed: 1 of 2, shrunk by 2 / (2 + 5), so 1/7:
    mean f = (0 + 0 + 1/7 + 1/7) / 4.
    """
    harm, weight = np.array([1.0, 0, 0, 0]), np.full(4, 0.25)
    enters, cell = np.array([0.1, 0.2, 9.0, 9.0]), np.zeros(4, dtype=np.intp)
    alone = guided.Draw(cell, weight, enters, np.zeros(4, dtype=np.intp))
    assert alone.estimate(harm, 2.0) == pytest.approx((0.5, 0.125, 0.25))
    crossed = guided.Draw(cell, weight, enters, np.array([0, 0, 1, 1]))
    assert crossed.estimate(harm, 2.0)[0] == pytest.approx(0.5 + 2 / 7 / 4)
    # one look that may spend everything is the usual test
    assert guided.Boundaries().next(100.0, 0.025) == pytest.approx(stats.norm.isf(0.025), abs=1e-4)


def test_bets() -> None:
    """Fourteen stakes 0.98 · 2^(-j/2), in all 0.98 · (1 - 2^-7) / (1 - 2^-0.5) = 3.3198, on average 0.23713.

    Margin 0.1, one item without harm: stakes over 0.9, each wins stake · 0.1: 1 + 0.23713 / 0.9 · 0.1 = 1.02635. A
    lost one: stake · (0.1 - 1) / 0.9 = -stake: 1 - 0.23713 = 0.76287.
    """
    one = np.ones(1)
    assert math.exp(log_capital(np.array([0.0]), one, 0.1, 1.0)) == pytest.approx(1.02635, abs=1e-5)
    assert math.exp(log_capital(np.array([1.0]), one, 0.1, 1.0)) == pytest.approx(0.76287, abs=1e-5)


def test_corrections_agree_with_statsmodels() -> None:
    p = [0.001, 0.2, 0.013, 0.04, 0.013, 0.9]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])
