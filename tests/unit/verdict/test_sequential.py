from __future__ import annotations

import math

import numpy as np
import pytest

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY, Metric
from quantgate.verdict.evidence import Evidence, conclude
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from quantgate.verdict.sequential import SequentialTest, log_capital, looks, score_differences, visiting_order
from tests.unit.verdict.samples import outcomes, rule


def draws(rng: np.random.Generator, n: int, worse: float, better: float) -> np.ndarray:
    return rng.choice([-1.0, 1.0, 0.0], size=n, p=[worse, better, 1 - worse - better])


def test_visits_are_a_seeded_permutation() -> None:
    assert sorted(visiting_order(100, 3)) == list(range(100))
    assert visiting_order(100, 3) == visiting_order(100, 3) != visiting_order(100, 4)


def test_looks_grow_and_end_at_the_last_item() -> None:
    assert list(looks(40)) == [32, 33, 35, 37, 38, 40]
    assert list(looks(10)) == [10]
    assert len(list(looks(14042))) < 140


def test_capital_of_a_fair_bet_is_a_martingale() -> None:
    """At a mean harm equal to the margin the expected capital stays 1: worked out exactly over all two-item samples."""
    margin, p = 0.1, {1.0: 0.25, -1.0: 0.15, 0.0: 0.6}
    for sign in (1.0, -1.0):
        expected = sum(
            p[a] * p[b] * math.exp(float(log_capital(np.array([a, b]), np.ones(2), margin, sign))) for a in p for b in p
        )
        assert expected == pytest.approx(1.0)


def test_clear_cases_stop_early_on_the_right_side() -> None:
    rng = np.random.default_rng(0)
    test = SequentialTest(0.05, 0.95, 10_000)
    assert test.look(draws(rng, 2000, 0.02, 0.02)) == "pass"
    assert test.look(draws(rng, 2000, 0.2, 0.02)) == "regressed"
    assert test.look(draws(rng, 40, 0.1, 0.1)) == "inconclusive"
    assert SequentialTest(0.05, 0.95, 10_000, higher_is_better=False).look(draws(rng, 2000, 0.02, 0.2)) == "regressed"


@pytest.mark.parametrize("population", ["beyond", "benchmark"])
def test_wrong_stops_stay_below_the_level_over_all_looks(population) -> None:
    """The truth lies on the margin: ever stopping, at any of the looks, is an error. Level 5% both sides."""
    rng = np.random.default_rng(1)
    wrong = 0
    whole = np.concatenate([-np.ones(60), np.ones(30), np.zeros(210)])  # mean -0.1, exactly
    for _ in range(300):
        sample = rng.permutation(whole) if population == "benchmark" else draws(rng, 300, 0.2, 0.1)
        test = SequentialTest(0.1, 0.95, 300, population=population)
        wrong += any(test.look(sample[:at]) != "inconclusive" for at in looks(299, growth=1.2))
    assert wrong <= 300 * 0.05


def test_without_replacement_the_last_items_make_it_certain() -> None:
    whole = np.concatenate([-np.ones(5), np.zeros(195)])
    seen = np.random.default_rng(2).permutation(whole)[:195]
    assert SequentialTest(0.06, 0.95, 200, population="benchmark").look(seen) == "pass"
    assert SequentialTest(0.06, 0.95, 200, population="beyond").look(seen) == "inconclusive"


def test_without_replacement_what_cannot_happen_any_more_is_certain() -> None:
    """After three gains out of four items the mean harm cannot reach 0, long before a bet has won."""
    gains = -np.ones(3)
    assert SequentialTest(0.0, 0.95, 4, higher_is_better=False, population="benchmark").look(gains) == "pass"
    assert (
        SequentialTest(0.0, 0.95, 4, higher_is_better=False, population="benchmark").look(gains[:2]) == "inconclusive"
    )
    assert SequentialTest(0.0, 0.95, 4, population="benchmark").look(gains) == "regressed"


def test_interval_holds_the_mean_and_agrees_with_the_look() -> None:
    sample = draws(np.random.default_rng(3), 1500, 0.05, 0.03)
    wide = SequentialTest(0.5, 0.95, 5000)
    low, high = wide.interval(sample)
    assert low < sample.mean() < high
    assert SequentialTest(-low + 1e-6, 0.95, 5000).look(sample) == "pass"
    assert SequentialTest(-low - 1e-6, 0.95, 5000).look(sample) == "inconclusive"
    assert SequentialTest(-high - 1e-6, 0.95, 5000).look(sample) == "regressed"
    mirrored = SequentialTest(0.5, 0.95, 5000, higher_is_better=False).interval(-sample)
    assert mirrored == pytest.approx((-high, -low))


def test_interval_of_nothing_is_everything() -> None:
    assert SequentialTest(0.1, 0.95, 100).interval(np.array([])) == (-1.0, 1.0)


@pytest.mark.parametrize("values", [[0.0, 1.5], [math.nan]])
def test_unbounded_scores_are_refused(values: list) -> None:
    with pytest.raises(ValueError, match="between -1 and 1"):
        SequentialTest(0.1, 0.95, 100).look(np.array(values))


def test_groups_must_agree_before_it_stops() -> None:
    """All losses sit in two of 20 groups that happen to be gains here: single items decide, groups do not."""
    codes = np.repeat(np.arange(20), 50)
    sample = np.where(codes < 2, 1.0, 0.0) * np.tile([1, 1, 1, 0, 0], 200)
    test = SequentialTest(0.01, 0.95, 5000)
    assert test.look(sample) == "pass"
    assert test.look(sample, codes) == "inconclusive"


def test_stopped_comparison_is_judged_like_any_other() -> None:
    rng = np.random.default_rng(4)
    sample = draws(rng, 3000, 0.02, 0.02)
    before = [1.0 if d < 0 else 0.0 for d in sample]
    after = [float(b + d) for b, d in zip(before, sample, strict=True)]
    test = SequentialTest(0.02, 0.95, 10_000)
    assert test.look(sample) == "pass"
    fixed = compare(outcomes(before), outcomes(after), ACCURACY, 0.95)
    stopped = test.applied(fixed, sample)
    assert stopped.ci_low < fixed.ci_low < fixed.ci_high < stopped.ci_high
    assert "3000 of 10000 items used, 7000 saved" in stopped.statement
    assert judge(stopped, rule(0.02)).verdict == "pass"


def test_differences_follow_the_visit_and_count_missing_answers_as_wrong() -> None:
    reference = outcomes([1, 0, 1, None, 1], ["a", "a", "b", "b", "b"])
    missing = ItemOutcome("item/4", "b", None, unscored="nothing came back")
    subject = [ItemOutcome("item/2", "b", 0.0), *outcomes([1, 1], ["a", "a"]), ItemOutcome("item/3", "b", 1.0), missing]
    differences, codes = score_differences(reference, subject, ACCURACY)
    assert differences.tolist() == [-1.0, 0.0, 1.0, -1.0]
    assert codes.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("kept", [0.1, 0.3, 0.55, 0.7, 1.0])
def test_a_relative_margin_is_bet_on_item_by_item(higher: bool, kept: float) -> None:
    """The claim is about subject - (1 - share) · reference: the reference's value is an estimate too."""
    metric, share = Metric("rate", higher, "binary"), 0.4
    rng = np.random.default_rng(11)
    before = (rng.random(800) < 0.4).astype(float)
    after = np.where(rng.random(800) < kept, before, 0.0) if higher else np.maximum(before, rng.random(800) < 1 - kept)
    reference, subject = outcomes(before), outcomes(after)
    order = visiting_order(800, 3)[:300]
    evidence = Evidence(
        rule(share, metric, "relative"), tuple(reference), tuple(subject[i] for i in order), sequential=True
    )
    found = conclude(evidence).judgement
    ratio = 1 - share if higher else 1 + share
    harm = (ratio * before - after)[order] if higher else (after - ratio * before)[order]
    values, counts = np.unique(harm / max(1, ratio), return_counts=True)
    capitals = [float(log_capital(values, counts.astype(float), 0.0, sign)) for sign in (1.0, -1.0)]
    assert [found.p_pass, found.p_regressed] == pytest.approx([math.exp(-max(0, each)) for each in capitals])
    goal = math.log(40)
    expected = "pass" if capitals[0] >= goal else "regressed" if capitals[1] >= goal else "inconclusive"
    assert found.verdict == expected
