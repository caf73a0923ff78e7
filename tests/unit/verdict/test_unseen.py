"""Room for items that were not drawn: against closed forms, exact sums, draws, and the error it is there to prevent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from quantgate.core.metrics import KLD_MEAN, PERPLEXITY, Metric
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from quantgate.verdict.unseen import _root, _roots, items_to_show, unseen_bound, unseen_tail
from tests.unit.verdict.samples import outcomes, rule

RATE = Metric("rate", True, "mean", best=1.0, worst=0.0)


@pytest.mark.parametrize("n", [5, 30, 300])
def test_equal_values_leave_what_no_sample_could_show(n: int) -> None:
    assert unseen_bound(np.full(n, 0.1), 1.0, 0.05) == pytest.approx(0.1 + 0.9 * (1 - 0.05 ** (1 / n)), rel=0.005)


@pytest.mark.parametrize(("n", "lost"), [(30, 0), (30, 1), (30, 5), (200, 3), (500, 200)])
def test_of_0_1_values_it_is_clopper_and_pearsons_bound(n: int, lost: int) -> None:
    values = np.concatenate([np.ones(lost), np.zeros(n - lost)])
    assert unseen_bound(values, 1.0, 0.05) == pytest.approx(stats.beta.ppf(0.95, lost + 1, n - lost), rel=0.005)


def test_of_many_well_behaved_values_it_is_the_normal_bound() -> None:
    values = np.random.default_rng(1).normal(0.2, 0.1, 5000)
    assert unseen_bound(values, 1.0, 0.05) == pytest.approx(0.2 + 1.645 * 0.1 / math.sqrt(5000), abs=0.003)


@pytest.mark.parametrize("effect", [1.0, 3.0])
def test_the_saddlepoint_agrees_with_draws(effect: float) -> None:
    rng = np.random.default_rng(2)
    values = rng.lognormal(-2, 1, 60)
    weights = np.column_stack([rng.gamma(1 / effect, size=(40000, 60)), rng.exponential(size=40000)])
    means = weights @ np.append(values, 3.0) / weights.sum(axis=1)
    for at in (0.3, 0.4, 0.6):
        assert float(unseen_tail(values, 3.0, at, effect)) == pytest.approx(np.mean(means > at), abs=0.008)
    assert unseen_bound(values, 3.0, 0.05, effect) == pytest.approx(np.quantile(means, 0.95), rel=0.02)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=40),
    st.sampled_from([1e-300, 1e-9, 0.01, 1.0]),
    st.sampled_from([1.0, 2.5]),
)
def test_one_sample_is_solved_as_many_are_to_the_last_bit(values: list[float], smallest: float, effect: float) -> None:
    scaled = np.array([*values, -smallest, 1.0])
    weights = np.array([1 / effect] * (len(scaled) - 1) + [1.0])
    with np.errstate(all="ignore"):
        one, many = float(_root(scaled, weights)), float(_roots(scaled, weights))
    assert one == many or (math.isnan(one) and math.isnan(many))


def test_tail_at_the_ends_and_over_many_samples() -> None:
    one, two = np.array([0.1, 0.2, 0.1]), np.array([0.0, 0.0, 0.4])
    both = unseen_tail(np.stack([one, two]), 1.0, 0.3)
    assert both == pytest.approx([float(unseen_tail(each, 1.0, 0.3)) for each in (one, two)])
    assert float(unseen_tail(one, 1.0, 1.0)) == 0
    assert float(unseen_tail(one, 1.0, 0.05)) == 1
    assert math.isnan(unseen_bound(np.array([]), 1.0, 0.05))
    assert unseen_bound(np.array([0.5, 2.0]), 1.0, 0.05) <= 2.0


def test_the_promised_items_show_it() -> None:
    n = items_to_show(0.01, 0.002, 100, 10.0, 0.1, 0.05, 1.0)
    bound = unseen_bound(np.full(int(n), 0.01), 10.0, 0.05)
    assert 0.09 < bound <= 0.1
    assert math.isinf(items_to_show(0.1, 0.0, 10, 10.0, 0.1, 0.05, 1.0))
    assert items_to_show(0.0, 0.0, 10, 0.05, 0.1, 0.05, 1.0) == 1.0


def passes(metric: Metric, draw, margin: float, kind: str, runs: int = 60) -> int:
    """How many of ``runs`` subjects exactly on the margin pass."""
    passed = 0
    for seed in range(runs):
        before, after = draw(np.random.default_rng(seed))
        passed += judge(
            compare(outcomes(before), outcomes(after), metric, 0.95), rule(margin, metric, kind)
        ).verdict == ("pass")
    return passed


@pytest.mark.parametrize("n", [30, 88])
def test_two_broken_texts_in_a_hundred_do_not_pass(n: int) -> None:
    """Student's t and Hall's correction passed 54% of them at 30 items and 18% at 88."""

    def draw(rng):
        return np.zeros(n), np.where(rng.random(n) < 0.02, 4.51, 0.01 * rng.lognormal(-0.02, 0.2, n))

    assert passes(KLD_MEAN, draw, 0.1, "absolute") <= 5


@pytest.mark.parametrize("n", [16, 64])
def test_a_few_segments_that_carry_all_harm_do_not_pass(n: int) -> None:
    """They passed in 61% and 14%."""

    def draw(rng):
        base = 3 + 0.4 * rng.normal(size=n)
        return base, base + 0.01 * rng.normal(size=n) + (rng.random(n) < 0.03) * (math.log(1.08) / 0.03)

    assert passes(PERPLEXITY, draw, 0.08, "relative") <= 5


@pytest.mark.parametrize("jitter", [0.0, 1e-11, 5e-4])
def test_jitter_does_not_hide_rare_total_losses(jitter: float) -> None:
    def draw(rng):
        before = np.full(150, 0.9) + jitter * rng.normal(size=150)
        return before, before - (rng.random(150) < 0.01 / 0.9) * 0.9

    assert passes(Metric("x", True, "mean"), draw, 0.01, "absolute") <= 5
    assert passes(RATE, draw, 0.01, "absolute") <= 5


def test_the_reason_says_what_could_hide_and_how_many_items_would_show_it() -> None:
    rng = np.random.default_rng(3)
    base = 3 + 0.4 * rng.normal(size=64)
    found = compare(outcomes(base), outcomes(base + 0.01 + 0.01 * rng.normal(size=64)), PERPLEXITY, 0.95)
    judgement = judge(found, rule(0.08, PERPLEXITY, "relative"))
    assert judgement.verdict == "inconclusive"
    assert "rare damage could hide: 64 items can all miss what befalls 4.6% of items" in judgement.reason
    assert f"about {judgement.items_needed:,.0f} items would show it" in judgement.reason
    n = int(judgement.items_needed)
    base = 3 + 0.4 * rng.normal(size=n)
    enough = compare(outcomes(base), outcomes(base + 0.01 + 0.01 * rng.normal(size=n)), PERPLEXITY, 0.95)
    assert judge(enough, rule(0.08, PERPLEXITY, "relative")).verdict == "pass"


def test_a_policy_may_state_a_smaller_stake() -> None:
    rng = np.random.default_rng(3)
    base = 3 + 0.4 * rng.normal(size=64)
    small = rule(0.08, PERPLEXITY, "relative", stake=0.5)
    found = compare(outcomes(base), outcomes(base + 0.01 + 0.01 * rng.normal(size=64)), small.metric, 0.95)
    assert (found.stake, judge(found, small).verdict) == (0.5, "pass")


def test_a_measurement_repeated_has_nothing_unseen() -> None:
    from quantgate.tasks.efficiency import EFFICIENCY_TASKS

    assert {task.metric.stake for task in EFFICIENCY_TASKS.values()} == {0.0}
