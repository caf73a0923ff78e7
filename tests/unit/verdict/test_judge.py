from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from quantgate.core.items import REPEATED, ItemOutcome
from quantgate.core.metrics import ACCURACY, KLD_MEAN, PERPLEXITY, Metric
from quantgate.verdict.evidence import Conclusion
from quantgate.verdict.judge import Judgement, judge, judge_companions, with_companions
from quantgate.verdict.paired import compare, zero_reference
from quantgate.verdict.policy import Floor, Margin
from quantgate.verdict.recording import Told, build_result
from tests.unit.verdict.samples import outcomes, rule, zeros_and_ones

LOSSES = list(np.linspace(2.0, 3.0, 16))
WIGGLE = np.tile([0.01, -0.01], 8)


def perplexity(shift: float, margin: float = 0.1, **more):
    """By what 16 segments show; they are too few to rule out rare damage."""
    seen_only = replace(PERPLEXITY, stake=0.0, serial=False)
    found = compare(outcomes(LOSSES), outcomes(list(np.array(LOSSES) + shift + WIGGLE)), seen_only, 0.95)
    return judge(found, rule(margin, PERPLEXITY, "relative"), **more)


def test_pass_is_proven_and_says_how_much_may_be_lost() -> None:
    verdict = judge(zeros_and_ones(10, 8, 2000), rule(0.02))
    assert verdict.verdict == "pass"
    assert verdict.reason == (
        "acc fell from 99.6% to 99.5%; with 95% confidence it is at most 0.57 points worse (allowed: 2.00 points)"
    )
    assert verdict.p_pass < 0.001 < verdict.p_regressed
    assert math.isnan(verdict.items_needed)


def test_regression_is_proven_and_says_at_least() -> None:
    verdict = judge(zeros_and_ones(120, 10, 2000), rule(0.02))
    assert verdict.verdict == "regressed"
    assert "it is at least 4.47 points worse (allowed: 2.00 points)" in verdict.reason
    assert verdict.p_regressed < 0.001


def test_small_sample_is_inconclusive_and_says_what_would_decide() -> None:
    verdict = judge(zeros_and_ones(2, 2, 64), rule(0.02))
    assert verdict.verdict == "inconclusive"
    assert "anything from 8.09 points better to 8.09 points worse" in verdict.reason
    assert f"about {verdict.items_needed:,.0f} items would decide" in verdict.reason
    assert "64 items can show a difference of 11.56 points" in verdict.reason
    grown = int(verdict.items_needed)
    assert judge(zeros_and_ones(round(2 * grown / 64), round(2 * grown / 64), grown), rule(0.02)).verdict == "pass"


def test_difference_on_the_margin_is_never_decided() -> None:
    verdict = judge(zeros_and_ones(20, 0, 1000), rule(0.02))
    assert verdict.verdict == "inconclusive"
    assert math.isinf(verdict.items_needed)
    assert "more items would hardly decide, it lies on the margin" in verdict.reason


def test_a_better_subject_passes() -> None:
    verdict = judge(zeros_and_ones(5, 400, 1000), rule(0.02))
    assert verdict.verdict == "pass"
    assert "it is not worse at all" in verdict.reason
    assert perplexity(-0.5).verdict == "pass"


def test_a_bound_exactly_on_the_margin_passes_and_one_beyond_it_does_not() -> None:
    found = zeros_and_ones(3, 3, 500)
    assert judge(found, rule(-found.ci_low)).verdict == "pass"
    assert judge(found, rule(float(np.nextafter(-found.ci_low, 0)))).verdict == "inconclusive"


def test_nothing_is_rounded_before_comparing() -> None:
    found = zeros_and_ones(0, 0, 1000)
    close = replace(found, ci_low=-0.0200001)
    assert judge(close, rule(0.02)).verdict == "inconclusive"


def test_relative_margin_of_perplexity() -> None:
    assert perplexity(0.08).verdict == "pass"
    assert "with 95% confidence it is at most 8.93% worse (allowed: 10%)" in perplexity(0.08).reason
    assert perplexity(0.095).verdict == "inconclusive"
    assert perplexity(0.2).verdict == "regressed"


def test_lower_is_better_for_0_1_scores_too() -> None:
    errors = Metric("error_rate", False, "binary")
    before, after = outcomes([0] * 500), outcomes([1] * 50 + [0] * 450)
    verdict = judge(compare(before, after, errors, 0.95), rule(0.02, errors))
    assert verdict.verdict == "regressed"
    assert verdict.p_regressed < 0.01


@pytest.mark.parametrize("side", ["ci_low", "ci_high", "reference", "value"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_broken_numbers_are_invalid(side: str, poison: float) -> None:
    good = zeros_and_ones(1, 1, 2000)
    assert judge(good, rule(0.02)).verdict == "pass"
    assert judge(replace(good, **{side: poison}), rule(0.02)).verdict == "invalid"


@pytest.mark.parametrize("margin", [math.nan, math.inf, -0.01])
def test_broken_margins_are_invalid(margin: float) -> None:
    assert judge(zeros_and_ones(1, 1, 2000), rule(margin)).verdict == "invalid"


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([], "there are no items"),
        ([None] * 50, "50 of 50 items have no score of the subject"),
        ([1.0] * 49 + [math.nan], "not finite"),
    ],
)
def test_nothing_compared_is_invalid(scores: list, words: str) -> None:
    verdict = judge(compare(outcomes([1] * len(scores)), outcomes(scores), ACCURACY, 0.95), rule(0.02))
    assert verdict.verdict == "invalid"
    assert words in verdict.reason


def test_too_many_unscored_items_are_invalid() -> None:
    found = compare(outcomes([1] * 980 + [None] * 20), outcomes([1] * 1000), ACCURACY, 0.95)
    assert judge(found, rule(0.02, max_unscored=0.02)).verdict == "pass"
    verdict = judge(found, rule(0.02, max_unscored=0.01))
    assert verdict.verdict == "invalid"
    reason = "20 of 1000 items have no score (20 x reference: no answer found), and the policy allows 1%"
    assert reason in verdict.reason


def test_what_only_the_subject_could_not_answer_counts_as_lost() -> None:
    """Left out, the items that broke it would spare it: 1% of 2,000 under a margin of 0.5% used to pass."""
    found = compare(outcomes([1] * 2000), outcomes([1] * 1980 + [None] * 20), ACCURACY, 0.95)
    verdict = judge(found, rule(0.005, max_unscored=0.01))
    assert (found.n_items, found.items_worse, found.failed) == (2000, 20, {"no answer found": 20})
    assert verdict.verdict == "regressed"
    assert verdict.reason.endswith("without a score of the subject, counted as lost: 20")
    assert judge(found, rule(0.02, max_unscored=0.01)).verdict == "pass"
    too_many = judge(found, rule(0.02, max_unscored=0.009))
    assert (too_many.verdict, "20 of 2000 items have no score of the subject" in too_many.reason) == ("invalid", True)


def test_a_loss_has_no_worst_score_so_a_missing_one_is_invalid() -> None:
    losses = list(np.linspace(2, 3, 200))
    found = compare(outcomes(losses), outcomes([*losses[:-1], None]), PERPLEXITY, 0.95)
    verdict = judge(found, rule(0.5, PERPLEXITY, max_unscored=0.5))
    assert verdict.verdict == "invalid"
    assert "1 of 200 items have a score of the reference alone" in verdict.reason
    assert "no worst score" in verdict.reason


def test_one_item_that_neither_side_could_be_asked_is_no_share() -> None:
    found = compare(outcomes([1] * 49 + [None]), outcomes([1] * 49 + [None]), ACCURACY, 0.95)
    assert judge(found, rule(0.2, max_unscored=0.01)).verdict == "pass"
    two = compare(outcomes([1] * 48 + [None] * 2), outcomes([1] * 48 + [None] * 2), ACCURACY, 0.95)
    assert judge(two, rule(0.2, max_unscored=0.01)).verdict == "invalid"


def test_repeats_are_neither_pairs_nor_missing() -> None:
    items = [*outcomes([1] * 40), *(ItemOutcome(f"r/{n}", f"r/{n}", None, unscored=REPEATED) for n in range(60))]
    found = compare(items, items, ACCURACY, 0.95)
    assert (found.n_items, found.n_unscored, found.n_repeated) == (40, 0, 60)
    verdict = judge(found, rule(0.2))
    assert verdict.verdict == "pass"
    assert verdict.reason.endswith("repeats of other items, not counted: 60")


def test_a_subject_at_the_margin_passes_rarely_when_its_loss_is_in_missing_answers() -> None:
    """2.5 points of harm, one of them in missing answers, n = 2,000: left out, 43% of such subjects passed."""
    generator = np.random.default_rng(5)
    passed = 0
    for _ in range(40):
        before = generator.random(2000) < 0.8
        draw = generator.random(2000)
        # of 2,000: 1.5 points net lost among the answered, and one in missing answers
        lost, gained = before & (draw < 0.04375), ~before & (draw < 0.1)
        missing = before & (draw > 1 - 0.0125)
        after = [
            None if gone else float((b and not w) or g)
            for b, w, g, gone in zip(before, lost, gained, missing, strict=True)
        ]
        found = compare(outcomes([float(b) for b in before]), outcomes(after), ACCURACY, 0.95)
        passed += judge(found, rule(0.025, max_unscored=0.02)).verdict == "pass"
    assert passed <= 4  # 2.5% by design: five of 40 would come of it once in 300 tries


def test_fewer_items_than_asked_are_inconclusive_even_for_a_collapse() -> None:
    verdict = judge(zeros_and_ones(20, 0, 20), rule(0.02, min_items=30))
    assert verdict.verdict == "inconclusive"
    assert verdict.reason == "only 20 items were scored, and the policy asks for 30"


def test_reference_at_chance_is_invalid() -> None:
    found = zeros_and_ones(1, 1, 1000, right=259)
    verdict = judge(found, rule(0.02, floor=Floor(0.25)))
    assert verdict.verdict == "invalid"
    assert "the reference itself is at chance (26.0% on 1000 items, chance 25.0%)" in verdict.reason
    assert judge(zeros_and_ones(1, 1, 1000, right=400), rule(0.02, floor=Floor(0.25))).verdict == "pass"


def test_the_tasks_own_chance_is_used_unless_the_policy_speaks() -> None:
    found = zeros_and_ones(1, 1, 1000, right=250)
    assert judge(found, rule(0.02), chance=0.25).verdict == "invalid"
    assert judge(found, rule(0.02, sources={"floor": "tasks.x"}), chance=0.25).verdict == "pass"


def test_reference_perplexity_above_chance_is_invalid() -> None:
    broken = list(np.array(LOSSES) + 7)
    found = compare(outcomes(broken), outcomes(list(np.array(broken) + WIGGLE)), PERPLEXITY, 0.95)
    assert judge(found, rule(0.1, PERPLEXITY, "relative", floor=Floor(1000.0))).verdict == "invalid"


def test_margin_that_even_guessing_would_keep_is_invalid() -> None:
    found = zeros_and_ones(1, 1, 2000, right=600)  # 30%, five points above chance
    verdict = judge(found, rule(0.06, floor=Floor(0.25)))
    assert verdict.verdict == "invalid"
    assert "even guessing would pass" in verdict.reason
    assert judge(found, rule(0.04, floor=Floor(0.25))).verdict == "pass"


def test_foreign_data_and_equal_weights_are_invalid() -> None:
    found = zeros_and_ones(1, 1, 2000)
    verdict = judge(found, rule(0.02), problems=["data digest ab12 is not cd34"])
    assert verdict.verdict == "invalid"
    assert verdict.reason == "reference and subject do not belong together: data digest ab12 is not cd34"
    assert judge(found, rule(0.02), identical_weights=True).verdict == "invalid"


def test_losses_equal_to_the_last_bit_are_invalid() -> None:
    found = compare(outcomes(LOSSES), outcomes(LOSSES), PERPLEXITY, 0.95)
    verdict = judge(found, rule(5.0, PERPLEXITY, "relative"))
    assert verdict.verdict == "invalid"
    assert verdict.reason == "all 16 losses are exactly the reference's: nothing was quantized"
    zeros = outcomes([0.0] * 16)
    assert judge(compare(zero_reference(zeros), zeros, KLD_MEAN, 0.95), rule(0.1, KLD_MEAN)).verdict == "invalid"


def test_relative_margin_of_nothing_is_invalid() -> None:
    subject = outcomes([0.1, 0.2, 0.3])
    found = compare(zero_reference(subject), subject, KLD_MEAN, 0.95)
    assert "relative margin means nothing" in judge(found, rule(0.1, KLD_MEAN, "relative")).reason


def test_margin_below_the_noise_is_refused() -> None:
    assert perplexity(0.0, 0.1, noise=0.5).verdict == "pass"
    verdict = perplexity(0.0, 0.1, noise=2.0)
    assert verdict.verdict == "invalid"
    assert "lies below the noise" in verdict.reason
    assert perplexity(0.0, 0.1, noise=math.nan).verdict == "invalid"


def test_rule_and_comparison_must_belong_together() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        judge(zeros_and_ones(1, 1, 100), rule(0.1, PERPLEXITY))
    with pytest.raises(ValueError, match="does not fit"):
        judge(zeros_and_ones(1, 1, 100), rule(0.1, confidence=0.9))


def test_worst_companion_leads() -> None:
    main = Judgement("pass", "fine", 0.02, 0.001, 0.9)
    lost = Judgement("regressed", "prob_right fell", 0.01, 0.99, 0.004)
    unclear = Judgement("inconclusive", "who knows", 0.01, 0.3, 0.7)
    combined = with_companions(main, {"nll": unclear, "prob_right": lost})
    assert (combined.verdict, combined.reason) == ("regressed", "prob_right: prob_right fell")
    assert combined.margin == 0.02
    assert with_companions(main, {}) == main


def test_a_companions_p_value_reaches_the_decision() -> None:
    """Otherwise a case that only its companion turned red could never count against its method."""
    main = Judgement("pass", "fine", 0.02, 0.001, 0.9)
    lost, fine = Judgement("regressed", "", 0.01, 0.99, 0.004), Judgement("pass", "", 0.01, 0.02, 0.8)
    combined = with_companions(main, {"prob_right": lost, "nll": fine})
    assert (combined.p_pass, combined.p_regressed) == (0.99, pytest.approx(0.012))
    assert with_companions(main, {"nll": fine}).p_regressed == 1.0
    unknown = with_companions(main, {"nll": Judgement("invalid", "")})
    assert math.isnan(unknown.p_pass)
    assert math.isnan(unknown.p_regressed)


def test_companions_are_judged_by_their_own_margins() -> None:
    masses = np.linspace(0.3, 0.9, 120)
    before = [replace(each, companions={"prob_right": m}) for each, m in zip(outcomes([1] * 120), masses, strict=True)]
    after = [replace(each, companions={"prob_right": each.companions["prob_right"] - 0.05}) for each in before]
    shaken = [
        replace(o, companions={"prob_right": o.companions["prob_right"] + (-1) ** i * 0.01})
        for i, o in enumerate(after)
    ]
    found = judge_companions(before, shaken, rule(0.02, companions={"prob_right": Margin("absolute", 0.01)}))
    assert found["prob_right"].verdict == "regressed"
    assert "prob_right fell from 0.6 to 0.55" in found["prob_right"].reason
    wide = judge_companions(before, shaken, rule(0.02, companions={"prob_right": Margin("absolute", 0.1)}))
    assert wide["prob_right"].verdict == "pass"
    assert judge_companions(before, shaken, rule(0.02)) == {}


def test_record_holds_comparison_and_judgement() -> None:
    found = zeros_and_ones(10, 8, 2000)
    verdict = judge(found, rule(0.02))
    told = Told(task="mmlu", dimension="knowledge", protocol="5-shot", method="gptq4", data_digest="d")
    waived = rule(0.02, allow=("inconclusive",), because="not yet")
    record = build_result(Conclusion(found, verdict, {"prob_right": 0.5}), waived, told)
    assert (record.delta, record.ci_low, record.margin, record.verdict) == (found.delta, found.ci_low, 0.02, "pass")
    assert (record.reason, record.waived) == (verdict.reason, "")
    assert record.companions == {"prob_right": 0.5, "p_pass": verdict.p_pass, "p_regressed": verdict.p_regressed}
    assert (record.items_worse, record.items_better, record.n_items) == (10, 8, 2000)


def test_full_marks_on_both_sides_are_a_result_where_the_scores_have_bounds() -> None:
    """A bound that misses what befalls one item in 67 in 5% of samples, on the metric's own range."""
    rate = Metric("hsr", True, "mean", best=1.0, worst=0.0)
    found = compare(outcomes([1] * 200), outcomes([1] * 200), rate, 0.95)
    assert found.ci_low == pytest.approx(-(1 - 0.05 ** (1 / 200)), rel=0.005)
    assert judge(found, rule(0.02, rate)).verdict == "pass"
    assert judge(found, rule(0.01, rate)).verdict == "inconclusive"
    assert (
        judge(compare(outcomes([1] * 200), outcomes([1] * 200), KLD_MEAN, 0.95), rule(0.02, KLD_MEAN)).verdict
        == "invalid"
    )


@pytest.mark.parametrize(("after", "words"), [(0, "acc fell from 50.0% to 0.0%"), (1, "acc rose from 50.0% to 100.0%")])
def test_the_sentence_says_which_way_it_went(after, words):
    before = outcomes([0, 1] * 40)
    judged = judge(compare(before, outcomes([after] * 80), ACCURACY, 0.95), rule(0.02))
    assert words in judged.reason
