from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY, PERPLEXITY, Metric
from quantgate.verdict.companions import COMPANIONS, companion_means, compare_companion, items_for_companion
from quantgate.verdict.evidence import Evidence, conclude
from quantgate.verdict.noise import noise_floor
from quantgate.verdict.paired import compare
from quantgate.verdict.turns import calls
from tests.unit.verdict.samples import outcomes, rule, zeros_and_ones


def with_numbers(score: float | None, answer: str, index: int, **numbers: float) -> ItemOutcome:
    unscored = "no answer found" if score is None else ""
    return ItemOutcome(f"item/{index}", f"item/{index}", score, answer, numbers, unscored)


def test_companion_is_compared_like_a_metric() -> None:
    before = [with_numbers(1, "A", i, prob_right=0.6 + 0.01 * i) for i in range(10)]
    after = [with_numbers(1, "A", i, prob_right=0.55 + 0.011 * i) for i in range(10)]
    found = compare_companion(before, after, "prob_right", 0.95)
    assert found.metric == COMPANIONS["prob_right"].metric
    assert found.delta == pytest.approx(-0.05 + 0.001 * 4.5)
    assert found.items_worse == 10


def test_companions_with_a_fixed_reference_need_none_from_it() -> None:
    before = outcomes([2.0, 2.1, 2.2])
    after = [with_numbers(2.0, "", i, same_top_p=0.9 + 0.01 * i) for i in range(3)]
    found = compare_companion(before, after, "same_top_p", 0.95)
    assert (found.reference, found.n_items) == (1.0, 3)
    assert found.value == pytest.approx(0.91)


def test_means_skip_unscored_items() -> None:
    broken = ItemOutcome("x", "x", None, unscored="broken", companions={"a": 100.0})
    items = [with_numbers(1, "", 0, a=1.0, b=4.0), with_numbers(1, "", 1, a=2.0), broken]
    assert companion_means(items) == {"a": 1.5, "b": 4.0}


def test_calls_tell_the_kinds_of_flips() -> None:
    """Two lost and one won; an answer that only one side has, or that only the subject was asked for, is no flip."""
    scored = [(1, "A"), (1, "A"), (0, "B"), (0, "B"), (1, "C"), (0, "D"), (None, ""), (1, "A")]
    now = [(0, "B"), (0, "C"), (1, "A"), (0, "C"), (1, "C"), (0, "D"), (1, "A"), (None, ""), (0, "A")]
    before, after = ([with_numbers(s, a, i) for i, (s, a) in enumerate(each)] for each in (scored, now))
    assert calls(before, after) == {"right_to_wrong": 2, "wrong_to_right": 1, "wrong_to_other": 1}


def test_sensitive_companion_needs_fewer_items() -> None:
    rng = np.random.default_rng(0)
    blunt = zeros_and_ones(30, 20, 500)
    mass = rng.uniform(0.3, 0.9, 500)
    fine = compare(outcomes(mass), outcomes(mass - 0.02 + rng.normal(0, 0.05, 500)), Metric("p", True, "mean"), 0.95)
    assert 0 < items_for_companion(blunt, fine) < 0.1
    sure = (abs(30 - 20) / 500 / math.sqrt(np.var(np.repeat([-1, 1, 0], [30, 20, 450]), ddof=1)), 1 / 2)
    known = compare(outcomes([0.0] * 400), outcomes([3.0, -1.0] * 200), Metric("p", True, "mean"), 0.95)
    assert items_for_companion(blunt, known) == pytest.approx((sure[0] / sure[1]) ** 2, rel=0.05)
    assert math.isnan(items_for_companion(blunt, zeros_and_ones(0, 0, 500)))
    # as many answers won as lost: the metric shows nothing, and no number of items is as good
    assert math.isnan(items_for_companion(zeros_and_ones(5, 5, 500), fine))


def test_a_record_says_what_the_companion_was_and_how_many_items_it_needs() -> None:
    """The reference's mean, and a ratio of sample sizes; neither beside a metric that could not be compared."""
    rng = np.random.default_rng(1)
    mass = rng.uniform(0.3, 0.9, 200)
    moved = mass - 0.02 + rng.normal(0, 0.05, 200)

    def companions(score: float, lost: int, probabilities: np.ndarray) -> Mapping[str, float]:
        before = [with_numbers(score, "A", i, prob_right=p) for i, p in enumerate(mass)]
        after = [with_numbers(score * (i >= lost), "A", i, prob_right=p) for i, p in enumerate(probabilities)]
        return conclude(Evidence(rule(), tuple(before), tuple(after))).companions

    found = companions(1.0, 9, moved)
    assert found["prob_right"] == pytest.approx(moved.mean())
    assert found["prob_right_reference"] == pytest.approx(mass.mean())
    difference = moved - mass
    of_each = (9 / 200 / math.sqrt(9 / 200 * (1 - 9 / 200)), abs(difference.mean()) / difference.std(ddof=1))
    assert found["prob_right_items"] == pytest.approx((of_each[0] / of_each[1]) ** 2, rel=0.02)
    assert "prob_right_items" not in companions(1.0, 0, moved)
    assert "prob_right_reference" not in companions(0.5, 0, moved)


def test_noise_of_an_equal_rerun_is_zero() -> None:
    assert noise_floor(zeros_and_ones(0, 0, 64)) == 0
    losses = outcomes([2.0, 2.1])
    assert noise_floor(compare(losses, losses, PERPLEXITY, 0.95)) == 0
    zeros = outcomes([0.0, 0.0])
    assert noise_floor(compare(zeros, zeros, COMPANIONS["kld_mean"].metric, 0.95)) == 0


def test_noise_of_flips_and_of_losses() -> None:
    assert noise_floor(zeros_and_ones(2, 2, 100)) == pytest.approx(1.96 * math.sqrt(0.04 / 99), rel=1e-4)
    losses = np.array([2.0, 2.2, 2.4])
    again = compare(outcomes(losses), outcomes(losses + np.array([0.01, 0.0, 0.02])), PERPLEXITY, 0.95)
    assert noise_floor(again) == pytest.approx(math.exp(2.2) * math.expm1(0.01 + 1.959964 * 0.01 / math.sqrt(3)))


def test_undefined_rerun_clears_no_margin() -> None:
    assert math.isnan(noise_floor(compare(outcomes([math.nan, 1]), outcomes([1, 1]), ACCURACY, 0.95)))
    assert math.isnan(noise_floor(compare([], [], ACCURACY, 0.95)))
