from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from quantgate.core.errors import ProvenanceError
from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY, KLD_MEAN, PERPLEXITY, Metric
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import companion_outcomes, compare, zero_reference
from tests.unit.verdict.samples import outcomes, rule, zeros_and_ones

SCORE = Metric("rouge1", True, "mean")
ERRORS = Metric("error_rate", False, "binary")


def test_pairs_by_id_and_not_by_order() -> None:
    before, after = outcomes([1, 0, 1, 1]), outcomes([1, 1, 0, 1])
    found = compare(before, after[::-1], ACCURACY, 0.95)
    assert (found.reference, found.value, found.delta) == (0.75, 0.75, 0.0)
    assert (found.items_worse, found.items_better, found.flips) == (1, 1, 2)
    assert found == compare(before[::-1], after, ACCURACY, 0.95)


def test_worse_and_better_follow_the_metrics_direction() -> None:
    found = compare(outcomes([0, 0, 1]), outcomes([1, 1, 0]), ERRORS, 0.95)
    assert (found.items_worse, found.items_better) == (2, 1)


def test_refuses_missing_and_extra_items() -> None:
    before, after = outcomes([1, 0, 1]), outcomes([1, 0, 1])
    extra = ItemOutcome("other", "g", 1.0)
    with pytest.raises(ProvenanceError, match=r"1 item of the reference is missing \(item/2\).*--limit and --seed"):
        compare(before, after[:2], ACCURACY, 0.95)
    with pytest.raises(ProvenanceError, match=r"1 item is not in the reference \(other\)"):
        compare(before, [*after, extra], ACCURACY, 0.95)


@pytest.mark.parametrize("side", [0, 1])
def test_refuses_duplicates_on_either_side(side: int) -> None:
    sides = [outcomes([1, 0]), outcomes([1, 0])]
    sides[side].append(sides[side][0])
    name = ("reference", "subject")[side]
    with pytest.raises(ProvenanceError, match=rf"outcomes of the {name}: 1 item ids occur more than once \(item/0\)"):
        compare(sides[0], sides[1], ACCURACY, 0.95)


def test_refuses_other_groups() -> None:
    with pytest.raises(ProvenanceError, match="another group"):
        compare(outcomes([1, 0], ["a", "b"]), outcomes([1, 0], ["a", "a"]), ACCURACY, 0.95)


def test_unscored_items_are_counted_by_reason_and_left_out() -> None:
    found = compare(outcomes([1, None, None, 1, 0]), outcomes([1, None, 1, None, 0]), PERPLEXITY, 0.95)
    assert found.n_items == 2
    assert found.unscored == {
        "both: no answer found": 1,
        "reference: no answer found": 1,
        "subject: no answer found": 1,
    }
    assert [found.n_missing(side) for side in ("both", "reference", "subject")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (ACCURACY, 1 / 3),
        (Metric("errors", False, "binary"), 2 / 3),
        (Metric("levels", True, "mean", best=5.0, worst=0.0), 1 / 3),
    ],
)
def test_what_only_the_subject_lacks_counts_at_the_metrics_worst(metric: Metric, value: float) -> None:
    found = compare(outcomes([1, None, None, 1, 0]), outcomes([1, None, 1, None, 0]), metric, 0.95)
    assert (found.n_items, found.n_failed, found.n_missing("subject")) == (3, 1, 0)
    assert (found.unscored, found.failed) == (
        {"both: no answer found": 1, "reference: no answer found": 1},
        {"no answer found": 1},
    )
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ([], [], "there are no items"),
        ([None, None], [1, 1], r"no item was scored on both sides \(2 x reference: no answer found\)"),
        ([1, 1], [1, math.nan], "1 of 2 scores of the subject are not finite numbers"),
        ([math.inf, 1], [1, 1], "1 of 2 scores of the reference are not finite numbers"),
        ([1, 0.5], [1, 1], "scores of the reference other than 0 and 1"),
    ],
)
def test_undefined_comparisons_say_why_and_hold_no_interval(before: list, after: list, words: str) -> None:
    found = compare(outcomes(before), outcomes(after), ACCURACY, 0.95)
    assert re.search(words, found.undefined)
    assert all(math.isnan(number) for number in (found.ci_low, found.ci_high, found.p_worse, found.shift))


def test_one_segment_and_overflowing_perplexity_are_undefined() -> None:
    assert "at least two" in compare(outcomes([2.0]), outcomes([2.1]), PERPLEXITY, 0.95).undefined
    assert "too large" in compare(outcomes([2.0, 2.1]), outcomes([800.0, 900.0]), PERPLEXITY, 0.95).undefined
    assert "nothing varies" in compare(outcomes([0.0, 0.0]), outcomes([0.0, 0.0]), KLD_MEAN, 0.95).undefined


def test_equal_answers_leave_an_interval_that_is_not_of_zero_width() -> None:
    found = zeros_and_ones(0, 0, 64)
    assert found.delta == 0
    assert found.ci_high == pytest.approx(1.959964**2 / (64 + 1.959964**2), rel=1e-5)
    greedy = outcomes([0.3, 0.5, 0.2, 0.9] * 5)
    same = compare(greedy, greedy, SCORE, 0.95)
    assert same.ci_low < 0 < same.ci_high
    assert same.p_worse == 1.0


def test_mean_scores_get_the_paired_t_interval() -> None:
    rng = np.random.default_rng(5)
    before = rng.normal(size=30)
    half = rng.normal(size=15)
    after = before + np.concatenate([half, -half]) - 0.2  # symmetric differences: no skewness correction
    found = compare(outcomes(before), outcomes(after), replace(SCORE, stake=0.0), 0.9)
    expected = stats.ttest_rel(after, before).confidence_interval(0.9)
    assert (found.ci_low, found.ci_high) == pytest.approx((expected.low, expected.high))
    assert found.p_worse == pytest.approx(stats.ttest_rel(after, before, alternative="less").pvalue)


def test_binary_p_value_is_mcnemars() -> None:
    assert zeros_and_ones(9, 2, 100).p_worse == pytest.approx(stats.binomtest(9, 11, 0.5, alternative="greater").pvalue)


def test_perplexity_interval_is_a_ratio_in_units_of_the_value() -> None:
    losses = np.array([2.2, 2.4, 2.5, 2.7])
    shift = np.array([0.1, 0.2, 0.2, 0.3])
    found = compare(outcomes(losses), outcomes(losses + shift), replace(PERPLEXITY, stake=0.0, serial=False), 0.95)
    reference = math.exp(losses.mean())
    assert found.reference == pytest.approx(reference)
    assert found.value == pytest.approx(reference * math.exp(0.2))
    arm = stats.t.ppf(0.975, 3) * shift.std(ddof=1) / 2
    assert found.ci_low == pytest.approx(reference * math.expm1(0.2 - arm))
    assert found.ci_high == pytest.approx(reference * math.expm1(0.2 + arm))
    assert found.items_worse == 4


def test_clustered_items_widen_the_interval_and_say_so() -> None:
    n, groups = 200, [f"subject {i // 10}" for i in range(200)]
    before = [1] * n
    after = [0 if i // 10 in (3, 11) else 1 for i in range(n)]  # two whole subjects are lost
    clustered = compare(outcomes(before, groups), outcomes(after, groups), ACCURACY, 0.95)
    alone = compare(outcomes(before), outcomes(after), ACCURACY, 0.95)
    assert clustered.ci_low < alone.ci_low < clustered.delta < 0
    assert "clustered by 20 groups" in clustered.statement
    assert alone.statement == "Tango's score interval, independent items"
    assert clustered.spread.design_effect > 8


def test_what_an_interval_speaks_about_is_in_statement_and_sentence() -> None:
    groups = ["a", "b", "c", "d"] * 10
    found = compare(outcomes([1, 0] * 20, groups), outcomes([1, 1] * 20, groups), ACCURACY, 0.95)
    assert found.n_groups == 4
    assert "clustered by 4 groups" in found.statement
    assert "3.0 degrees of freedom), about groups like these" in found.statement
    reason = judge(found, rule(0.02)).reason
    assert "it speaks of groups like these, of which 4 are few: more groups would tell more" in reason
    one = compare(outcomes([1, 0] * 20, ["a"] * 40), outcomes([1, 1] * 20, ["a"] * 40), ACCURACY, 0.95)
    assert one.statement == "Tango's score interval per item, about the items of this one group"
    losses = np.linspace(2, 3, 12)
    text = compare(outcomes(losses), outcomes(losses + 0.1 * losses), PERPLEXITY, 0.95)
    assert "along the text" in text.statement
    assert text.statement.endswith("about text like this; an item not seen may lose 10")
    assert judge(text, rule(5.0, PERPLEXITY)).reason.endswith("; it speaks of text like this")


def test_few_groups_do_not_decide_for_groups_like_these() -> None:
    """Three large groups, of which one lost much by chance: 18% of unchanged models were called regressed."""
    groups = [f"g{i // 60}" if i < 180 else f"s{i}" for i in range(240)]
    lost = [1] * 240, [0 if i < 50 else 1 for i in range(240)]
    found = judge(compare(outcomes(lost[0], groups), outcomes(lost[1], groups), ACCURACY, 0.95), rule(0.03))
    assert found.verdict == "inconclusive"
    alone = judge(compare(outcomes(lost[0]), outcomes(lost[1]), ACCURACY, 0.95), rule(0.03))
    assert alone.verdict == "regressed"


def test_neighbours_of_a_text_are_put_in_order_by_their_numbers() -> None:
    drift = np.concatenate([np.zeros(60), np.ones(60)]) + np.tile([0.01, -0.01], 60)
    found = compare(outcomes(np.full(120, 2.0)), outcomes(2 + drift), PERPLEXITY, 0.95)
    assert found.spread.design_effect > 8


def test_divergence_is_compared_with_zero() -> None:
    subject = outcomes([0.1, 0.2, 0.4, 0.3])
    found = compare(zero_reference(subject), subject, KLD_MEAN, 0.95)
    assert found.reference == 0
    assert found.value == pytest.approx(0.25)
    assert found.items_worse == 4


def test_companions_become_scores_or_reasons() -> None:
    with_mass = ItemOutcome("a", "a", 1.0, companions={"prob_right": 0.7})
    without = ItemOutcome("b", "b", 1.0)
    broken = ItemOutcome("c", "c", None, unscored="no answer found", companions={"prob_right": 0.1})
    scores = companion_outcomes([with_mass, without, broken], "prob_right")
    assert [each.score for each in scores] == [0.7, None, None]
    assert [each.unscored for each in scores] == ["", "no companion number 'prob_right'", "no answer found"]


@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0, math.nan, 95.0])
def test_confidence_must_be_one(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"between 0\.5 and 1"):
        compare([], [], ACCURACY, confidence)
