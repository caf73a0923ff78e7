from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quantgate.core.records import Result
from quantgate.verdict.family import benjamini_hochberg, confirmed, confirmed_at_once, decide, green, holm, pool


def case(task: str, verdict: Any = "pass", method: str = "gptq4", p: float = math.nan, **more: Any) -> Result:
    numbers = {"delta": -0.005, "ci_low": -0.015, "ci_high": 0.005, "margin": 0.02, **more}
    return Result(
        task=task,
        dimension="knowledge",
        protocol="",
        method=method,
        metric="acc",
        higher_is_better=True,
        n_items=100,
        reference=0.5,
        value=0.495,
        confidence=0.95,
        verdict=verdict,
        reason="",
        companions={} if math.isnan(p) else {"p_regressed": p},
        **numbers,
    )


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_benjamini_hochberg_by_hand() -> None:
    assert benjamini_hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])


def test_method_passes_when_every_case_passes() -> None:
    (decision,) = decide([case("mmlu"), case("gsm8k")])
    assert decision.verdict == "pass"
    assert decision.sentence == (
        "gptq4 may replace the reference: it passes all 2 cases (knowledge: mmlu, gsm8k); over its cases it uses 25% "
        "of what is allowed (at most 60% with 95% confidence)"
    )


def test_one_open_case_keeps_it_open_and_one_invalid_case_says_nothing() -> None:
    (open_,) = decide([case("mmlu"), case("gsm8k", "inconclusive")])
    assert open_.verdict == "inconclusive"
    assert open_.sentence.startswith("gptq4 is not decided: 1 of 2 cases (gsm8k) undecided")
    (invalid,) = decide([case("mmlu"), case("gsm8k", "invalid")])
    assert invalid.verdict == "invalid"
    assert invalid.sentence.startswith("nothing can be said about gptq4: 1 of 2 cases (gsm8k) invalid")


def test_an_invalid_case_hides_no_regression() -> None:
    (sure,) = decide([case("mmlu", "regressed", p=1e-9), case("gsm8k", "invalid")])
    assert sure.verdict == "regressed"
    assert sure.sentence.startswith(
        "gptq4 must not replace the reference: 1 of 2 cases (mmlu) regressed (Holm's correction); "
        "1 of 2 cases (gsm8k) invalid: of them nothing can be said"
    )
    red = case("mmlu", "regressed", p=0.02)
    (open_,) = decide([red, case("gsm8k", "invalid"), *(case(f"t{i}", p=0.5) for i in range(8))])
    assert open_.verdict == "invalid"
    assert open_.sentence.startswith(
        "nothing can be said about gptq4: 1 of 10 cases (gsm8k) invalid; 1 of 10 cases (mmlu) regressed alone, not "
        "confirmed in this family of 9 cases"
    )


def test_cases_are_counted_not_the_names_of_their_tasks() -> None:
    (decision,) = decide([case("mmlu"), case("mmlu", "inconclusive")])
    assert decision.verdict == "inconclusive"
    assert decision.sentence.startswith("gptq4 is not decided: 1 of 2 cases (mmlu) undecided")
    (red,) = decide([case("mmlu"), case("mmlu", "regressed", p=1e-9)])
    assert (red.verdict, red.passed, red.regressed) == ("regressed", ("mmlu",), ("mmlu",))
    (part,) = decide([case("mmlu")], planned={"gptq4": ["mmlu", "mmlu"]})
    assert (part.verdict, part.left_out) == ("inconclusive", ("mmlu",))


def test_a_regression_alone_is_named_and_keeps_the_method_open() -> None:
    (decision,) = decide([case("mmlu", "regressed", p=0.02), *(case(f"t{i}", p=0.5) for i in range(7))])
    assert (decision.verdict, decision.alone, decision.undecided) == ("inconclusive", ("mmlu",), ())
    assert decision.sentence.startswith(
        "gptq4 is not decided: 1 of 8 cases (mmlu) regressed alone, not confirmed in this family of 8 cases; over its"
    )


def test_the_pooled_loss_says_of_what_and_how_surely_it_speaks() -> None:
    bytes_ = replace(case("weight_bytes"), dimension="efficiency")
    (decision,) = decide(
        [replace(case("mmlu"), confidence=0.99), case("gsm8k", "inconclusive", ci_low=math.nan), bytes_]
    )
    assert decision.sentence.endswith(
        "; over 1 of its 3 cases it uses 25% of what is allowed (at most 75% with 99% confidence; not among them: "
        "gsm8k (no interval), weight_bytes (no quality))"
    )
    assert decision.pooled.without == ("gsm8k (no interval)", "weight_bytes (no quality)")


@pytest.mark.parametrize("correction", ["holm", "bh"])
def test_what_its_number_of_cases_confirms_no_other_case_can_undo(correction: Any) -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        p = generator.random(12) ** 4
        results = [case(f"t{i}", "regressed" if value <= 0.025 else "pass", p=value) for i, value in enumerate(p)]
        for result, sure in zip(results, confirmed(results, correction), strict=True):
            assert sure or not confirmed_at_once(result, len(results), correction)


def test_green_follows_the_family_only_where_the_policy_says_so() -> None:
    results = [case("mmlu", "regressed", p=0.02), *(case(f"t{i}", p=0.5) for i in range(7))]
    assert green(results, "holm", "confirmed", strict=False) == [True] * 8
    assert green(results, "holm", "confirmed", strict=True) == [False] + [True] * 7  # open, as inconclusive is
    assert green(results, "holm", "case", strict=False) == [False] + [True] * 7
    assert green(results, "none", "confirmed", strict=False) == [False] + [True] * 7
    broken = [case("mmlu", "regressed", p=1e-5), *results[1:], case("other", "invalid")]
    assert green(broken, "holm", "confirmed", strict=False) == [False] + [True] * 7 + [False]


def test_a_regression_by_chance_among_many_cases_does_not_decide() -> None:
    lucky = [case(f"t{i}", p=0.5) for i in range(19)]
    red = case("mmlu", "regressed", p=0.02)
    assert decide([red, *lucky])[0].verdict == "inconclusive"
    assert decide([red, *lucky], "none")[0].verdict == "regressed"
    strong = decide([case("mmlu", "regressed", p=0.001), *lucky])[0]
    assert (strong.verdict, strong.regressed) == ("regressed", ("mmlu",))
    assert "gptq4 must not replace the reference: 1 of 20 cases (mmlu) regressed (Holm's correction)" in strong.sentence


def test_hochbergs_correction_is_milder_than_holms() -> None:
    cases = [case(f"t{i}", "regressed", p=0.02) for i in range(4)]
    assert decide(cases, "bh")[0].verdict == "regressed"
    assert decide(cases, "holm")[0].verdict == "inconclusive"


def test_correction_runs_over_all_methods_and_each_gets_a_decision() -> None:
    results = [
        case("mmlu", "regressed", method="rtn2", p=0.02),
        *(case("mmlu", method=f"m{i}", p=0.5) for i in range(9)),
    ]
    decisions = decide(results)
    assert [each.method for each in decisions] == ["rtn2", *(f"m{i}" for i in range(9))]
    assert decisions[0].verdict == "inconclusive"
    assert all(each.verdict == "pass" for each in decisions[1:])


def test_pooled_loss_of_independent_cases_is_surer_than_any_of_them() -> None:
    cases = [case(f"t{i}", "inconclusive", ci_low=-0.035, ci_high=0.025) for i in range(9)]
    pooled = pool(cases)
    assert (pooled.share, pooled.n_cases) == (pytest.approx(0.25), 9)
    assert pooled.high == pytest.approx(0.25 + 1.5 / 3)


def test_cases_on_the_same_items_do_not_count_as_independent() -> None:
    pooled = pool([case(f"t{i}", data_digest="same") for i in range(4)])
    assert pooled.high == pytest.approx(0.25 + 0.5)


def test_invalid_cases_and_cases_without_margin_are_not_pooled() -> None:
    cases = [case("a", "invalid"), case("b", margin=0.0), case("c", margin=math.nan), case("d", ci_low=math.nan)]
    assert math.isnan(pool(cases).share)
    assert pool(cases).n_cases == 0
    assert "over its cases" not in decide(cases[:1])[0].sentence


def test_speed_and_bytes_do_not_make_up_for_quality() -> None:
    quality = case("mmlu")
    faster = replace(case("decode_speed"), dimension="efficiency", delta=50.0, ci_low=40.0, ci_high=60.0)
    assert replace(pool([quality, faster]), without=()) == pool([quality])


def test_a_part_of_the_plan_never_passes_and_says_what_was_left_out() -> None:
    (part,) = decide([case("mmlu")], planned={"gptq4": ["mmlu", "gsm8k", "boolq"]})
    assert (part.verdict, part.left_out) == ("inconclusive", ("gsm8k", "boolq"))
    assert part.sentence.startswith(
        "gptq4 is not decided: it passes the 1 judged (knowledge: mmlu); 2 (gsm8k, boolq) of 3 planned cases were "
        "not judged"
    )
    (red,) = decide([case("mmlu", "regressed", p=0.0)], planned={"gptq4": ["mmlu", "gsm8k"]})
    assert red.verdict == "regressed"
    assert "1 (gsm8k) of 2 planned cases were not judged" in red.sentence
    (whole,) = decide([case("mmlu")], planned={"gptq4": ["mmlu"]})
    assert whole.verdict == "pass"


def test_a_method_of_which_nothing_was_judged_is_named() -> None:
    (decision,) = decide([], planned={"gptq4": ["mmlu"]})
    assert decision.verdict == "inconclusive"
    assert decision.sentence == "gptq4 is not decided: 1 (mmlu) of 1 planned cases were not judged"


def fact(verdict: Any, p: float) -> Result:
    return replace(case("weight_bytes", verdict, p=p), dimension="efficiency", metric="weight_bytes", n_items=1)


def test_counted_bytes_alone_never_replace_the_reference() -> None:
    (decision,) = decide([fact("pass", 1.0)])
    assert decision.verdict == "inconclusive"
    assert "may replace" not in decision.sentence
    assert "no answer of the two models" in decision.sentence
    (both,) = decide([fact("pass", 1.0), case("mmlu")])
    assert both.sentence.startswith(
        "gptq4 may replace the reference: it passes all 2 cases (efficiency: weight_bytes; knowledge: mmlu)"
    )


def test_a_certain_regression_survives_any_number_of_cases() -> None:
    many = [case(f"t{i}", p=0.5) for i in range(200)]
    (decision,) = decide([fact("regressed", 0.0), *many])
    assert (decision.verdict, decision.regressed) == ("regressed", ("weight_bytes",))


def test_probability_mass_alone_replaces_nothing_and_beside_an_accuracy_it_is_named() -> None:
    mass = replace(case("mass_mmlu"), metric="prob_right")
    blind = "1 (mass_mmlu) by prob_right, which does not see answers that flip at the boundary between two options"
    (alone,) = decide([mass])
    assert (alone.verdict, blind in alone.sentence) == ("inconclusive", True)
    assert "it passes the 1 judged (knowledge: mass_mmlu), but 1 (mass_mmlu) by prob_right" in alone.sentence
    (both,) = decide([mass, case("mmlu")])
    assert (both.verdict, blind in both.sentence) == ("pass", True)
    bytes_alone = replace(mass, task="weight_bytes", dimension="efficiency", metric="weight_bytes")
    (neither,) = decide([mass, bytes_alone])
    assert neither.verdict == "inconclusive"
