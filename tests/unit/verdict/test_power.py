from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from quantgate.core.metrics import ACCURACY, KLD_MEAN, PERPLEXITY, Metric
from quantgate.tasks.table import TASKS
from quantgate.verdict import intervals
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from quantgate.verdict.policy import Margin, Rule
from quantgate.verdict.policy_file import load_policy
from quantgate.verdict.power import (
    detectable,
    fewest_items,
    harm,
    items_for_margin,
    items_to_decide,
    p_values,
    power_for_margin,
)
from tests.unit.verdict.samples import outcomes, zeros_and_ones

SCORE = Metric("rouge1", True, "mean", stake=0.0)
LOSS = Metric("nll", False, "mean", stake=0.0)
SYMMETRIC = np.concatenate([np.linspace(0.1, 1, 10), -np.linspace(0.1, 1, 10)]) * 0.1


def test_harm_turns_with_the_direction() -> None:
    base = np.linspace(0, 1, 20)
    up = harm(compare(outcomes(base), outcomes(base + SYMMETRIC + 0.05), SCORE, 0.95), 0.1)
    down = harm(compare(outcomes(base), outcomes(base + SYMMETRIC + 0.05), LOSS, 0.95), 0.1)
    assert up.point == pytest.approx(-0.05)
    assert (down.point, down.low, down.high) == pytest.approx((-up.point, -up.high, -up.low))


def test_harm_of_perplexity_is_on_the_loss() -> None:
    losses = np.linspace(2, 3, 20)
    found = compare(
        outcomes(losses), outcomes(losses + SYMMETRIC + 0.1), replace(PERPLEXITY, stake=0.0, serial=False), 0.95
    )
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
    assert n == 1624
    assert power_for_margin(n, 0.02, 0.08) == pytest.approx(0.8, abs=0.001)
    assert power_for_margin(n, 0.02, 0.08, -0.02) == pytest.approx(0.025, abs=0.001)
    with pytest.raises(ValueError, match="not inside the margin"):
        items_for_margin(0.02, 0.08, -0.02)


def exact_power(n: int, margin: float, discordance: float, difference: float) -> float:
    """P(pass), summed over all counts of turned answers."""
    p_worse, p_better = (discordance - difference) / 2, (discordance + difference) / 2
    worse, better = (side.ravel() for side in np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0)))
    worse, better = worse[worse + better <= n], better[worse + better <= n]
    chances = stats.multinomial.pmf(
        np.column_stack([worse, better, n - worse - better]), n, [p_worse, p_better, 1 - p_worse - p_better]
    )
    low, _ = intervals.tango_interval(worse, better, n, intervals.normal_quantile(0.95))
    return float(chances[-low <= margin].sum())


@pytest.mark.parametrize(
    ("margin", "discordance", "difference"),
    [(0.05, 0.02, 0.0), (0.05, 0.08, 0.0), (0.12, 0.02, 0.0), (0.12, 0.2, -0.06), (0.12, 0.08, -0.04)],
)
def test_planned_sample_has_its_power(margin: float, discordance: float, difference: float) -> None:
    n = items_for_margin(margin, discordance, difference)
    assert exact_power(n, margin, discordance, difference) == pytest.approx(0.8, abs=0.05)
    assert power_for_margin(n, margin, discordance, difference) == pytest.approx(0.8, abs=0.01)


def test_without_a_turned_answer_the_interval_itself_must_fit() -> None:
    """q² / (n + q²) <= margin, whatever the power."""
    n = items_for_margin(0.05, 0.0)
    assert zeros_and_ones(0, 0, n).ci_high <= 0.05 < zeros_and_ones(0, 0, n - 1).ci_high
    assert items_to_decide(zeros_and_ones(0, 0, 10), 0.05) == n
    assert (power_for_margin(n, 0.05, 0.0), power_for_margin(n - 1, 0.05, 0.0)) == (1.0, 0.0)


def test_items_to_decide_may_be_fewer_than_there_are() -> None:
    found = zeros_and_ones(40, 40, 1000)
    assert items_to_decide(found, 0.05) == items_for_margin(0.05, 0.08) < 1000
    assert items_to_decide(found, 2.0) >= 1


def test_plans_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at least as many items that turn"):
        items_for_margin(0.1, 0.02, -0.05)
    with pytest.raises(ValueError, match="at least as many items that turn"):
        power_for_margin(100, 0.1, 1.5)


RULES = {
    "0/1": (ACCURACY, Margin("absolute", 0.025), 150),
    "a perplexity": (replace(PERPLEXITY, stake=2.5), Margin("relative", 0.08), 96),
    "a distance": (replace(KLD_MEAN, stake=2.5), Margin("absolute", 0.1), 74),
    "a share of a score": (Metric("rouge1", True, "mean", best=1.0, worst=0.0), Margin("absolute", 0.02), 149),
}


@pytest.mark.parametrize("name", RULES)
def test_with_fewer_items_not_even_the_reference_itself_would_pass(name: str) -> None:
    """The verdict of scores that all stayed, or moved by what makes no difference, turns at this very number."""
    metric, margin, expected = RULES[name]
    rule = Rule("t", "m", metric, margin, 0.95)
    assert fewest_items(rule) == expected

    def verdict(items: int) -> str:
        before = np.full(items, 1.0)
        after = before if metric.kind == "binary" else before + 1e-9 * (-1.0) ** np.arange(items)
        return judge(compare(outcomes(before), outcomes(after), metric, 0.95), rule).verdict

    near = round(expected * 0.01)  # the bound itself is good to a percent
    assert [verdict(expected - 1 - near), verdict(expected + near)] == ["inconclusive", "pass"]


def test_the_fewest_items_are_those_the_policy_asks_for_where_the_reference_decides() -> None:
    assert fewest_items(Rule("t", "m", ACCURACY, Margin("relative", 0.5), 0.95, min_items=30)) == 30
    assert fewest_items(Rule("t", "m", ACCURACY, Margin("absolute", 0.5), 0.95, min_items=30)) == 30
    assert fewest_items(Rule("t", "m", ACCURACY, Margin("absolute", 0.0), 0.95)) == math.inf
    assert fewest_items(Rule("t", "m", replace(PERPLEXITY, stake=0.0), Margin("relative", 0.08), 0.95)) == 1


def test_the_default_reads_as_much_of_a_text_as_can_pass_under_the_shipped_policy() -> None:
    task = TASKS["perplexity_wikitext2"]
    rule = load_policy(None).rule(task.id, task.dimension, task.metric, "org/model", "gptq4")
    assert fewest_items(rule) == 96
    assert task.max_segments is not None
    assert task.max_segments >= 1.25 * 96  # room for sampling error
