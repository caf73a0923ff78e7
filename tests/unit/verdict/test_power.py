from __future__ import annotations

import math

import numpy as np
import pytest

from quantgate.tasks.base import ACCURACY, PERPLEXITY, Metric
from quantgate.verdict.paired import compare
from quantgate.verdict.power import detectable, harm, items_for_margin, items_to_decide, p_values, power_for_margin
from tests.unit.verdict.samples import outcomes, zeros_and_ones

SCORE = Metric("rouge1", True, "mean")
LOSS = Metric("nll", False, "mean")
SYMMETRIC = np.concatenate([np.linspace(0.1, 1, 10), -np.linspace(0.1, 1, 10)]) * 0.1


def test_harm_turns_with_the_direction() -> None:
    base = np.linspace(0, 1, 20)
    up = harm(compare(outcomes(base), outcomes(base + SYMMETRIC + 0.05), SCORE, 0.95), 0.1)
    down = harm(compare(outcomes(base), outcomes(base + SYMMETRIC + 0.05), LOSS, 0.95), 0.1)
    assert up.point == pytest.approx(-0.05)
    assert (down.point, down.low, down.high) == pytest.approx((-up.point, -up.high, -up.low))


def test_harm_of_perplexity_is_on_the_loss() -> None:
    losses = np.linspace(2, 3, 20)
    found = compare(outcomes(losses), outcomes(losses + SYMMETRIC + 0.1), PERPLEXITY, 0.95)
    seen = harm(found, 0.25 * found.reference)
    assert seen.margin == pytest.approx(math.log(1.25))
    assert seen.point == pytest.approx(0.1)
    assert (seen.low + seen.high) / 2 == pytest.approx(0.1)


@pytest.mark.parametrize(("worse", "better", "n"), [(0, 0, 40), (5, 3, 60), (30, 8, 200), (0, 9, 50)])
def test_p_values_agree_with_the_interval(worse: int, better: int, n: int) -> None:
    found = zeros_and_ones(worse, better, n)
    at_worst = p_values(found, -found.ci_low)
    assert at_worst[0] == pytest.approx(0.025, abs=1e-6)
    assert sum(p_values(found, 0.02)) == pytest.approx(1)
    assert p_values(found, 0.5)[0] < p_values(found, 0.1)[0]


def test_p_values_of_means_agree_with_the_interval() -> None:
    base = np.linspace(0, 1, 20)
    skewed = np.linspace(0, 1, 20) ** 4
    found = compare(outcomes(base), outcomes(base - skewed), SCORE, 0.95)
    assert p_values(found, -found.ci_low)[0] == pytest.approx(0.025, abs=1e-9)
    assert p_values(found, -found.ci_high)[1] == pytest.approx(0.025, abs=1e-9)


def test_detectable_difference_is_the_planning_formula() -> None:
    base = np.linspace(0, 1, 20)
    found = compare(outcomes(base), outcomes(base + SYMMETRIC), SCORE, 0.95)
    assert detectable(found) == pytest.approx((found.quantile + 0.841621) * found.spread.se, rel=1e-6)


def test_undefined_comparisons_have_no_power() -> None:
    found = compare([], [], ACCURACY, 0.95)
    assert all(math.isnan(x) for x in (*p_values(found, 0.1), detectable(found), items_to_decide(found, 0.1)))


def test_items_to_decide_follow_the_square_of_the_distance() -> None:
    base = np.linspace(0, 1, 20)
    found = compare(outcomes(base), outcomes(base + SYMMETRIC), SCORE, 0.95)
    near, far = items_to_decide(found, 0.001), items_to_decide(found, 0.002)
    assert near == pytest.approx(4 * far, rel=0.01)
    assert math.isinf(items_to_decide(found, 0.0))


def test_planning_formulas_invert_each_other() -> None:
    n = items_for_margin(0.02, 0.08)
    assert n == 1570
    assert power_for_margin(n, 0.02, 0.08) == pytest.approx(0.8, abs=0.001)
    assert power_for_margin(n, 0.02, 0.08, -0.02) == pytest.approx(0.025, abs=0.001)
    with pytest.raises(ValueError, match="not inside the margin"):
        items_for_margin(0.02, 0.08, -0.02)


def test_planned_sample_has_its_power_in_simulation() -> None:
    rng = np.random.default_rng(11)
    n = items_for_margin(0.05, 0.1)
    draws = rng.multinomial(n, [0.05, 0.05, 0.9], size=300)
    passed = np.mean([-zeros_and_ones(int(w), int(b), n).ci_low <= 0.05 for w, b, _ in draws])
    assert passed == pytest.approx(0.8, abs=0.08)
