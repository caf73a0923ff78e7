"""Relative margins of 0/1 scores: the score test on the ratio, against a search and a case worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from quantgate.core.metrics import ACCURACY, Metric
from quantgate.verdict.comparators.ratio import deviations, ratio_interval, ratio_shares, ratio_statistic
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare, relative
from quantgate.verdict.power import items_to_decide, p_values
from tests.unit.verdict.samples import outcomes, rule, zeros_and_ones


@pytest.mark.parametrize(("both", "lost", "won", "n"), [(20, 8, 3, 88), (5, 9, 1, 60), (40, 0, 0, 50), (3, 0, 6, 30)])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9, 0.999])
def test_shares_are_the_likeliest_with_that_ratio(both: int, lost: int, won: int, n: int, ratio: float) -> None:
    def minus_log_likelihood(q: float, missed: float) -> float:
        w = (1 - ratio) * (1 - missed) + ratio * q
        cells = (1 - missed - w - q, w, q, missed)
        if min(cells) < 0:
            return 1e9
        seen = (both, lost, won, n - both - lost - won)
        return -sum(count * math.log(max(p, 1e-300)) for count, p in zip(seen, cells, strict=True) if count)

    def at(missed: float) -> optimize.OptimizeResult:
        most = ratio * (1 - missed) / (1 + ratio)
        return optimize.minimize_scalar(
            lambda q: minus_log_likelihood(q, missed), bounds=(0, most), method="bounded", options={"xatol": 1e-12}
        )

    outer = optimize.minimize_scalar(lambda m: at(m).fun, bounds=(1e-9, 1 - 1e-9), method="bounded")
    lost_share, q = ratio_shares(both, lost, won, n, ratio)
    assert q == pytest.approx(at(outer.x).x, abs=2e-4)
    assert lost_share == pytest.approx((1 - ratio) * (1 - outer.x) + ratio * q, abs=2e-4)


def test_a_case_worked_by_hand() -> None:
    """Nothing turned: 40 right of 50 on both sides, half may be lost: P(lost) = 0.4, variance 50 · 0.5 · 0.4 = 10."""
    assert ratio_shares(40, 0, 0, 50, 0.5) == pytest.approx((0.4, 0.0))
    assert ratio_statistic(40, 0, 0, 50, 0.5) == pytest.approx((40 - 0.5 * 40) / math.sqrt(10))


def test_at_a_ratio_of_one_it_is_mcnemar_and_the_sides_can_change_places() -> None:
    assert ratio_statistic(20, 8, 3, 88, 1.0) == pytest.approx((3 - 8) / math.sqrt(11))
    assert ratio_statistic(20, 8, 3, 88, 1.25) == pytest.approx(-ratio_statistic(20, 3, 8, 88, 0.8))
    low, high = ratio_interval(20, 8, 3, 88, (1.96, 1.96))
    other = ratio_interval(20, 3, 8, 88, (1.96, 1.96))
    assert (low, high) == pytest.approx((1 / other[1], 1 / other[0]))
    assert ratio_statistic(20, 8, 3, 88, low) == pytest.approx(1.96, abs=1e-6)
    assert low < 23 / 28 < high


def test_verdict_interval_and_p_value_say_the_same() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        worse, better, right = (int(rng.integers(0, top)) for top in (14, 10, 30))
        for metric in (ACCURACY, Metric("error_rate", False, "binary")):
            before = [1] * (right + worse) + [0] * (88 - right - worse)
            after = [1] * right + [0] * worse + [1] * better + [0] * (88 - right - worse - better)
            found = compare(outcomes(before), outcomes(after), metric, 0.95)
            if not found.reference:
                continue
            judged = judge(found, rule(0.5, metric, "relative"))
            p = p_values(relative(found, 0.5), 0.5 * found.reference)
            expected = "pass" if p[0] <= 0.025 else "regressed" if p[1] <= 0.025 else "inconclusive"
            assert judged.verdict == expected


def power(n: int, cells: tuple[float, ...], new: bool, runs: int = 20000) -> float:
    """P(pass) at r = 0.5; ``cells``: right on both, lost, won, wrong on both."""
    draws = np.random.default_rng(2).multinomial(n, cells, size=runs)
    rows, times = np.unique(draws[:, :3], axis=0, return_counts=True)
    passed = 0
    for (both, lost, won), count in zip(rows.tolist(), times.tolist(), strict=True):
        if both + lost == 0:
            continue
        found = zeros_and_ones(lost, won, n, right=both) if not new else None
        passed += count * (
            ratio_statistic(both, lost, won, n, 0.5) >= stats.t.ppf(0.975, max(1, both + lost - 1))
            if found is None
            else -found.ci_low <= 0.5 * found.reference
        )
    return passed / runs


@pytest.mark.parametrize(
    ("accuracy", "turned", "before", "now"), [(0.15, 0.16, 0.35, 0.556), (0.33, 0.32, 0.82, 0.934)]
)
def test_power_without_harm_and_error_at_the_margin(accuracy: float, turned: float, before: float, now: float) -> None:
    half = turned / 2
    none = (accuracy - half, half, half, 1 - accuracy - half)
    assert power(88, none, new=True) == pytest.approx(now, abs=0.03)
    at = (accuracy / 2 - half / 2, accuracy / 2 + half / 2, half / 2, 1 - accuracy - half / 2)
    assert power(88, at, new=True) <= 0.027  # 2.5% and two Monte Carlo errors


def test_record_shows_the_interval_that_judged() -> None:
    found = zeros_and_ones(8, 3, 88, right=20)
    shown = relative(found, 0.5)
    assert shown.statement == "Nam and Blackwelder's score interval of the ratio, independent items"
    assert shown.ci_low == pytest.approx((ratio_interval(20, 8, 3, 88, (stats.t.ppf(0.975, 27), 2.0))[0] - 1) * 28 / 88)
    assert relative(shown, 0.5) is shown
    assert items_to_decide(shown, 0.5 * shown.reference) > 1


@pytest.mark.parametrize("kind", ["absolute", "relative"])
@pytest.mark.parametrize("higher", [True, False])
def test_verdict_and_p_value_agree_where_groups_are_skewed(kind: str, higher: bool) -> None:
    rng = np.random.default_rng(8)
    metric, groups = Metric("rate", higher, "binary"), [str(i // 10) for i in range(300)]
    skewed = 0
    for _ in range(40):
        before = (rng.random(300) < 0.5).astype(float)
        bad = np.repeat(rng.random(30) < 0.1, 10) & (rng.random(300) < 0.6)
        after = np.where(bad, 0.0 if higher else 1.0, before)
        margin = rule(0.1 if kind == "absolute" else 0.25, metric, kind)
        found = compare(outcomes(before, groups), outcomes(after, groups), metric, 0.95)
        verdict = judge(found, margin)
        skewed += found.spread.skewness != 0
        assert (verdict.verdict == "pass") == (verdict.p_pass <= 0.025)
        assert (verdict.verdict == "regressed") == (verdict.p_regressed <= 0.025)
    assert skewed > 10


@pytest.mark.parametrize(("margin", "ratio"), [(0.2, 0.75), (0.4, 0.5), (0.8, 0.0)])
def test_deviations_are_those_of_the_weighed_differences(margin: float, ratio: float) -> None:
    """80 items, 64 right before: distance and spread of (subject - ratio * reference), item by item."""
    comparison = zeros_and_ones(worse=10, better=6, n=80, right=54)
    assert comparison.reference == 0.8
    before = np.array([1] * 10 + [0] * 6 + [1] * 54 + [0] * 10)
    after = np.array([0] * 10 + [1] * 6 + [1] * 54 + [0] * 10)
    each = after - ratio * before
    distance, null, own = deviations(comparison, margin)
    assert distance == pytest.approx(abs(each.mean()))
    assert own == pytest.approx(each.std())
    if ratio:  # at the margin: ratio times the share that changed, as the likeliest cells there have it
        assert null**2 == pytest.approx(ratio * sum(ratio_shares(54, 10, 6, 80, ratio)))
    else:
        assert null == 0.0
