"""Probability mass as a gate of its own: which tasks have it, what it scores, and what it says that it cannot see."""

import math
from dataclasses import replace

import numpy as np
import pytest

from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import PROB_RIGHT
from quantgate.core.requests import LikelihoodResponse
from quantgate.tasks.items import with_shots
from quantgate.tasks.mass import Mass
from quantgate.tasks.table import DEFAULT, GROUPS, TASKS
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from quantgate.verdict.policy_file import load_policy
from tests.unit.verdict.samples import outcomes, rule

BLIND = "it does not see answers that flip at the boundary between two options, so it is no proxy for an accuracy"
WINOGRANDE = Item("1", "1", {"sentence": "The _ is red.", "option1": "cup", "option2": "box", "answer": "2"})


def said(*logprobs: float) -> list[LikelihoodResponse]:
    return [LikelihoodResponse(value, 1, False) for value in logprobs]


def test_every_benchmark_with_options_has_a_row_that_no_run_takes_by_itself() -> None:
    assert {"mass_mmlu", "mass_mmlu_cloze", "mass_hellaswag", "mass_snli_likelihood"} <= set(GROUPS["mass"])
    assert {name.removeprefix("mass_") for name in GROUPS["mass"]} <= TASKS.keys()
    assert not set(GROUPS["mass"]) & {*DEFAULT, *GROUPS["zero_shot"], *GROUPS["paper"]}


def test_the_score_is_the_probability_of_the_right_option() -> None:
    # e^-1 / (e^-3 + e^-1) = 1 / (1 + e^-2) = 0.8808
    outcome = TASKS["mass_winogrande"].score(WINOGRANDE, said(-3.0, -1.0))
    assert outcome.score == pytest.approx(1 / (1 + math.exp(-2)))
    assert outcome.companions == {"prob_right": outcome.score}  # by which the reference itself is known
    assert TASKS["mass_winogrande"].score(WINOGRANDE, said(math.nan, -1.0)).score is None


def test_it_asks_what_its_task_asks() -> None:
    mass = with_shots(TASKS["mass_mmlu"], 2)
    assert isinstance(mass, Mass)
    assert (mass.of, mass.id) == (with_shots(TASKS["mmlu"], 2), "mass_mmlu")
    assert mass.protocol == "2-shot, likelihood of the option letter; probability of the right option among the options"
    assert (mass.dimension, mass.dataset, mass.chance) == ("knowledge", "cais/mmlu", 0.25)


def test_its_margin_is_its_own() -> None:
    found = load_policy(None).rule("mass_mmlu", "knowledge", PROB_RIGHT, "Qwen/Qwen-7B-Chat", "gptq4")
    assert (found.margin.amount, found.sources["margin"]) == (0.02, "metrics.prob_right")


def test_the_sentence_says_what_it_cannot_see() -> None:
    before = 0.5 + 0.2 * np.sin(np.arange(400))
    for loss in (0.001, 0.03, 0.2):
        found = compare(outcomes(before), outcomes(before - loss + 0.01 * np.cos(np.arange(400))), PROB_RIGHT, 0.95)
        assert BLIND in judge(found, rule(0.03, PROB_RIGHT)).reason


def test_flips_at_the_boundary_pass_it_and_fail_the_accuracy() -> None:
    """40 of 600 questions: 0.501 against 0.499 turns round. The mass falls by 0.0001, the accuracy by 6.7 points."""
    mass = [0.501 if i < 40 else 0.9 for i in range(600)]
    after = [0.499 if i < 40 else 0.9 + 0.0001 * (-1) ** i for i in range(600)]
    judged = judge(compare(outcomes(mass), outcomes(after), PROB_RIGHT, 0.95), rule(0.02, PROB_RIGHT))
    assert judged.verdict == "pass"
    right, now = ([float(p > 0.5) for p in each] for each in (mass, after))
    accuracy = compare(outcomes(right), outcomes(now), TASKS["mmlu"].metric, 0.95)
    assert judge(accuracy, rule(0.02)).verdict == "regressed"


def test_answers_equal_to_the_last_bit_are_the_reference() -> None:
    from quantgate.verdict.evidence import Evidence, conclude

    same = tuple(
        replace(each, companions={"prob_right": each.score or 0.0}) for each in outcomes([0.4, 0.6, 0.7, 0.3] * 20)
    )
    assert isinstance(same[0], ItemOutcome)
    assert "to the last bit" in conclude(Evidence(rule(0.02, PROB_RIGHT), same, same)).judgement.reason
