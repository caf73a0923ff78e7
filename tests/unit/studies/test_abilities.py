"""Gains against a plain paired test, planted losses found and ascribed to the right ability, and what is left out."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.reports.studies import shown
from quantgate.studies.abilities import PAIRS, TASKS_ASKED, abilities_record
from quantgate.studies.table import STUDIES
from quantgate.tasks.bbh import Bbh, without_reasoning
from quantgate.tasks.table import TASKS
from quantgate.verdict.evidence import outcomes_to_json

N = 400


def result_of(task, about):
    """As much of a result as the study reads."""
    return SimpleNamespace(
        about=about, task=task, key=CaseKey(about, task), higher_is_better=True, metric="exact_match"
    )


def drawn(seed, probability, n=N):
    return (np.random.default_rng(seed).random(n) < probability).astype(float)


def outcomes(scores, **companions):
    return [
        ItemOutcome(
            str(number), str(number), float(score), "", {key: float(v[number]) for key, v in companions.items()}
        )
        for number, score in enumerate(scores)
    ]


def record(sides, subjects=None):
    """``sides``: (subject, task) -> (reference outcomes, subject outcomes)."""
    results = [result_of(task, about) for about, task in sides]
    content = {
        result.key: {"reference": outcomes_to_json(sides[result.about, result.task][0]),
                     "subject": outcomes_to_json(sides[result.about, result.task][1])}
        for result in results
    }  # fmt: skip
    return abilities_record(results, content.get, subjects or {})


def pair(reference, subject, names=("gsm8k_direct", "gsm8k_cot"), who="gptq3"):
    return {(who, name): (outcomes(r), outcomes(s)) for name, r, s in zip(names, reference, subject, strict=True)}


def test_a_gain_is_the_paired_difference_of_differences():
    ours, theirs = [drawn(1, 0.2), drawn(2, 0.7)], [drawn(3, 0.2), drawn(4, 0.3)]
    found = record(pair(ours, theirs))
    [gain] = found["gains"]
    values = (theirs[1] - theirs[0]) - (ours[1] - ours[0])
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(0.95)
    assert (gain["change"], gain["low"], gain["high"]) == pytest.approx((values.mean(), low, high))
    assert gain["p"] == pytest.approx(test.pvalue)
    assert gain["reference_gain"] == pytest.approx((ours[1] - ours[0]).mean())
    assert gain["items"] == N
    assert "gptq3 loses chain of thought (GSM8K" in found["answer"]


def test_a_model_that_is_worse_at_everything_alike_has_lost_no_ability():
    hard, base, more = drawn(5, 0.5), drawn(6, 0.4), drawn(7, 0.5)
    ours = [base, np.maximum(base, more)]
    found = record(pair(ours, [ours[0] * hard, np.where(hard > 0, ours[1], ours[1] - ours[0])]))
    [gain] = found["gains"]
    assert gain["change"] == pytest.approx(0.0)
    assert found["answer"] == "none of 1 gains is proven to have changed"


def test_where_the_original_gains_nothing_nothing_could_be_lost():
    found = record(pair([drawn(8, 0.3), drawn(9, 0.3)], [drawn(10, 0.3), drawn(11, 0.3)]))
    assert "the original shows no proven chain of thought on GSM8K: nothing could be lost there" in found["answer"]


def test_many_comparisons_are_corrected():
    sides = {}
    for number in range(8):
        sides |= pair([drawn(20 + number, 0.2), drawn(40 + number, 0.6)], [drawn(60 + number, 0.2),
                      drawn(80 + number, 0.52)], who=f"row{number}")  # fmt: skip
    gains = record(sides)["gains"]
    assert all(each["adjusted"] >= each["p"] for each in gains)
    assert max(each["adjusted"] / each["p"] for each in gains if each["p"] > 0) > 1.5


def test_items_that_one_side_lacks_are_left_out_and_too_few_are_a_hole():
    sides = pair([drawn(1, 0.5, 5), drawn(2, 0.5, 5)], [drawn(3, 0.5, 5), drawn(4, 0.5, 5)])
    reference, subject = sides["gptq3", "gsm8k_cot"]
    sides["gptq3", "gsm8k_cot"] = (reference, [*subject[:3], ItemOutcome("3", "3", None, unscored="cut"), subject[4]])
    assert record(sides)["gains"][0]["items"] == 4
    sides["gptq3", "gsm8k_cot"] = (reference, subject[:1])
    found = record(sides)
    assert found["gains"] == []
    assert "share 1 items" in found["holes"][0]["why"]
    assert found["answer"] == "no ability could be compared"


@pytest.mark.parametrize(("items", "p", "lost"), [(2, 0.5, False), (5, 0.0625, False), (8, 2.0**-7, True)])
def test_a_few_items_that_all_moved_alike_prove_no_more_than_a_coin_would(items, p, lost):
    none, all_right = [0.0] * items, [1.0] * items
    [gain] = (found := record(pair([none, all_right], [none, none])))["gains"]
    assert gain["change"] == -1.0
    assert gain["p"] == pytest.approx(p) == stats.binomtest(0, items).pvalue
    assert (gain["high"] < 0, gain["reference_low"] > 0) == (lost, lost)
    assert ("loses chain of thought" in found["answer"]) is lost


def test_lengths_of_items_that_belong_together_count_as_one():
    lengths = np.repeat([20.0, 40.0, 30.0, 60.0], 10)
    ratios = np.repeat([1.0, 2.0, 3.0, 1.5], 10)
    sides = []
    for values in (lengths, ratios * lengths):
        plain = outcomes(np.zeros(40), tokens=values - 1, capped=np.zeros(40), not_final=np.zeros(40))
        sides.append([replace(each, group=str(number // 10)) for number, each in enumerate(plain)])
    [answers] = record({("gptq3", "gsm8k_cot"): tuple(sides), **pair([[0.0], [0.0]], [[0.0], [0.0]], who="x")})[
        "answers"
    ]
    low, high = stats.ttest_1samp(np.log([1.0, 2.0, 3.0, 1.5]), 0.0).confidence_interval(0.95)
    assert (math.log(answers["length_low"]), math.log(answers["length_high"])) == pytest.approx((low, high), rel=1e-6)


def test_without_a_pair_there_is_no_study():
    assert record({("gptq3", "gsm8k_cot"): (outcomes([1, 0]), outcomes([1, 1]))}) == {}


def test_lengths_cuts_and_answers_that_were_not_kept_are_told():
    n = 50
    lengths = np.random.default_rng(0).integers(20, 60, n).astype(float)
    ours = outcomes(drawn(1, 0.5, n), tokens=lengths, capped=np.zeros(n), not_final=np.zeros(n))
    theirs = outcomes(drawn(2, 0.4, n), tokens=2 * lengths + 1, capped=np.arange(n) < 5, not_final=np.arange(n) < 10)
    sides = {("gptq3", "gsm8k_cot"): (ours, theirs), ("gptq3", "gsm8k_direct"): (outcomes(drawn(3, 0.2, n)),) * 2}
    [answers] = record(sides)["answers"]
    assert answers["length_ratio"] == pytest.approx(2.0)
    assert answers["length_low"] <= 2.0 <= answers["length_high"]
    assert (answers["capped_reference"], answers["capped"], answers["not_final"]) == (0.0, 0.1, 0.2)
    [page] = shown([record(sides)])
    assert page.title == "Study of abilities"
    assert "x 2.00 [" in str(page.matrices[-1].rows)
    assert math.isnan(record(sides)["subjects"][0]["bits"])


def test_both_tasks_of_every_pair_are_there_and_ask_the_same_data():
    for each in PAIRS:
        one, other = TASKS[each.without], TASKS[each.given]
        assert one.dataset == other.dataset
        assert one.metric == other.metric
        assert one.protocol != other.protocol
    assert set(TASKS_ASKED) <= set(TASKS)
    assert "abilities" in STUDIES


PROMPT = (
    "Say whether.\n\nQ: Is one one?\nOptions:\n- Yes\n- No\nA: Let's think step by step.\nSo the answer is Yes."
    "\n\nQ: Is it two?\nA: Let's think step by step.\nIt is not. So the answer is No."
)


def test_examples_without_their_reasoning_keep_question_and_answer():
    assert without_reasoning(PROMPT) == (
        "Say whether.\n\nQ: Is one one?\nOptions:\n- Yes\n- No\nA: Yes\n\nQ: Is it two?\nA: No"
    )
    with pytest.raises(ValueError, match="no reasoned answer"):
        without_reasoning("Head.\n\nQ: What?\nA: That.")
    assert Bbh("bbh_direct", "direct", 64).protocol != Bbh().protocol
