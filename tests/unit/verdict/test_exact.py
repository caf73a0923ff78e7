from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from quantgate.verdict.exact import Resampling, beats_chance, bootstrap_difference, mcnemar_worse


@pytest.mark.parametrize(
    ("worse", "better", "p"), [(0, 0, 1.0), (0, 7, 1.0), (1, 0, 0.5), (5, 0, 1 / 32), (3, 1, 5 / 16)]
)
def test_mcnemar_by_hand(worse: int, better: int, p: float) -> None:
    assert mcnemar_worse(worse, better) == pytest.approx(p)


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="negative"):
        mcnemar_worse(-1, 2)


def test_chance_is_the_binomial_test() -> None:
    assert beats_chance(40, 100, 0.25) == pytest.approx(stats.binomtest(40, 100, 0.25, alternative="greater").pvalue)
    assert beats_chance(0, 100, 0.0) == 1.0
    assert beats_chance(1, 100, 0.0) == 0.0


def test_bootstrap_of_a_ratio_covers_the_difference() -> None:
    rng = np.random.default_rng(7)
    totals = rng.integers(5, 30, 80).astype(float)
    before = np.column_stack([np.round(totals * 0.6), totals])
    after = np.column_stack([np.round(totals * 0.5), totals])

    def share(sums: np.ndarray) -> float:
        return float(sums[0] / sums[1])

    difference, low, high = bootstrap_difference(before, after, share, np.arange(80), Resampling(rng, 300))
    assert difference == pytest.approx(-0.1, abs=0.01)
    assert low < difference < high < 0
    again = bootstrap_difference(before, after, share, np.arange(80), Resampling(np.random.default_rng(1), 50))
    assert again == bootstrap_difference(before, after, share, np.arange(80), Resampling(np.random.default_rng(1), 50))


def test_bootstrap_is_undefined_with_one_group_or_an_undefined_value() -> None:
    rows, rng = np.ones((4, 1)), np.random.default_rng(0)
    one_group = bootstrap_difference(rows, rows, lambda s: float(s[0]), np.zeros(4, dtype=int), Resampling(rng, 5))
    no_value = bootstrap_difference(rows, rows, lambda s: math.nan, np.arange(4), Resampling(rng, 5))
    assert all(math.isnan(number) for number in (*one_group, *no_value))
