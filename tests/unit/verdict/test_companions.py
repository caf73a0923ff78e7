from __future__ import annotations

import math

import numpy as np
import pytest

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY, PERPLEXITY, Metric
from quantgate.verdict.companions import COMPANIONS, companion_means, compare_companion, items_for_companion
from quantgate.verdict.noise import noise_floor
from quantgate.verdict.paired import compare
from quantgate.verdict.turns import calls
from tests.unit.verdict.samples import outcomes, zeros_and_ones


def with_numbers(score: float, answer: str, index: int, **numbers: float) -> ItemOutcome:
    return ItemOutcome(f"item/{index}", f"item/{index}", score, answer, numbers)


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
    before = [with_numbers(s, a, i) for i, (s, a) in enumerate([(1, "A"), (0, "B"), (0, "B"), (1, "C"), (0, "D")])]
    after = [with_numbers(s, a, i) for i, (s, a) in enumerate([(0, "B"), (1, "A"), (0, "C"), (1, "C"), (0, "D")])]
    assert calls(before, after) == {"right_to_wrong": 1, "wrong_to_right": 1, "wrong_to_other": 1}


def test_sensitive_companion_needs_fewer_items() -> None:
    rng = np.random.default_rng(0)
    blunt = zeros_and_ones(30, 20, 500)
    mass = rng.uniform(0.3, 0.9, 500)
    fine = compare(outcomes(mass), outcomes(mass - 0.02 + rng.normal(0, 0.05, 500)), Metric("p", True, "mean"), 0.95)
    assert 0 < items_for_companion(blunt, fine) < 0.1
    assert math.isnan(items_for_companion(blunt, zeros_and_ones(0, 0, 500)))


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
