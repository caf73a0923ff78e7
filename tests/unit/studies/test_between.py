"""Larger in few bits against smaller in 16: paired by item, simultaneous, and never over what cannot be paired."""

import dataclasses
import math

import pytest
from scipy import stats

from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import KLD_MEAN, Metric
from quantgate.studies.between import between_record, reference_of
from quantgate.verdict.evidence import Evidence, conclude
from quantgate.verdict.policy import Margin, Rule
from quantgate.verdict.recording import Told, build_result

QUALITY = Metric("quality", True, "mean", stake=0.0)  # nothing unseen at stake: its interval is the plain t interval
MODELS = {
    "": {"id": "large", "bytes_on_disk": 400, "digest": {"whole": "a"}},
    "small": {"id": "small", "bytes_on_disk": 100, "digest": {"whole": "b"}},
}


def outcomes(scores):
    return tuple(ItemOutcome(f"i{at}", "", float(score), str(score)) for at, score in enumerate(scores))


class Made:
    """A run of cases: (model, method, task) -> the scores of both sides."""

    def __init__(self, cases, metric=QUALITY, digests=None):
        self.evidence, self.results = {}, []
        for (model, method, task), (before, after) in cases.items():
            rule = Rule(task, method, metric, Margin("absolute", 0.1), min_items=2)
            evidence = Evidence(rule, outcomes(before), outcomes(after))
            told = Told(task=task, dimension="knowledge", protocol="", method=method, model=model,
                        data_digest=(digests or {}).get(model, "same"))  # fmt: skip
            result = build_result(conclude(evidence), rule, told)
            self.evidence[result.key] = evidence
            self.results.append(result)

    def record(self, models=MODELS):
        subjects = {"q4": {"bytes_on_disk": 120}}
        return between_record(self.results, self.evidence.get, subjects, models)


LARGE, SMALL = [0.9, 0.8, 0.9, 0.7, 0.95, 0.85, 0.9, 0.8], [0.5, 0.45, 0.6, 0.4, 0.5, 0.5, 0.6, 0.4]
CASES = {("", "q4", "quiz"): (LARGE, LARGE[::-1]), ("small", "q4", "quiz"): (SMALL, SMALL[::-1])}


def test_the_interval_is_the_paired_t_interval_over_all_comparisons():
    more = {("", "q4", "exam"): (LARGE, SMALL), ("small", "q4", "exam"): (SMALL, SMALL[::-1])}
    record = Made(CASES | more).record()
    row, level = record["contrasts"][0], record["contrasts"][1]
    differences = [new - old for new, old in zip(LARGE[::-1], SMALL, strict=True)]
    found = stats.ttest_1samp(differences, 0).confidence_interval(1 - 0.05 / 2)
    assert row["delta"] == pytest.approx(sum(differences) / 8)
    assert row["low"] == pytest.approx(found.low)
    assert found.high <= row["high"] < found.high + 0.01  # with room for what eight items may not have shown
    assert (row["says"], level["says"]) == ("better", "open")
    assert (row["subject"], row["against"], row["subject_bytes"], row["against_bytes"]) == (
        "q4",
        "small:16-bit",
        120,
        100,
    )
    [sentence] = record["sentences"]
    assert sentence.endswith("better on quiz; not told apart on exam")
    assert "1 are better, 0 worse and 1 not told apart; the intervals hold together at 95%" in record["answer"]


def test_lower_is_better_turns_the_words_and_not_the_numbers():
    wrong = dataclasses.replace(QUALITY, name="loss", higher_is_better=False)
    [row] = Made(CASES, wrong).record()["contrasts"]
    assert row["delta"] > 0
    assert row["says"] == "worse"


def test_a_smaller_model_is_not_held_against_a_larger_one_and_equals_meet_both_ways():
    assert {row["against"] for row in Made(CASES).record()["contrasts"]} == {"small:16-bit"}
    equal = {name: {**each, "bytes_on_disk": 100} for name, each in MODELS.items()}
    assert {row["against"] for row in Made(CASES).record(equal)["contrasts"]} == {"small:16-bit", "16-bit"}


HOLES = {
    "another tokenizer": ({"digests": {"small": "other"}}, CASES, "were not asked the same"),
    "a distance": ({"metric": KLD_MEAN}, {key: ([0.0] * 8, each[1]) for key, each in CASES.items()}, "a distance from"),
    "missing there": ({}, {("", "q4", "quiz"): (LARGE, LARGE[::-1])}, "nothing was scored on it beside small:16-bit"),
    "never quantized": ({}, CASES | {("", "q4", "quiz"): (LARGE, [math.nan] * 8)}, "its own case is invalid"),
}


@pytest.mark.parametrize("name", HOLES)
def test_what_cannot_be_paired_is_named(name):
    how, cases, why = HOLES[name]
    record = Made(cases, **how).record()
    assert record["contrasts"] == []
    assert why in record["holes"][0]["why"]
    assert record["answer"] == "nothing could be compared item by item"


def test_items_asked_in_part_are_not_compared():
    made = Made(CASES)
    key = CaseKey("q4", "quiz")
    made.evidence[key] = dataclasses.replace(made.evidence[key], subject=made.evidence[key].subject[:5])
    record = made.record()
    assert "only a part of the items was asked" in record["holes"][0]["why"]


def test_the_same_weights_under_two_names_are_no_comparison():
    same = {name: {**each, "digest": {"whole": "a"}} for name, each in MODELS.items()}
    record = Made(CASES).record(same)
    assert record["contrasts"] == record["holes"] == []
    assert "the same weights under two names" in record["answer"]


def test_one_model_is_no_study():
    assert Made(CASES).record({"": MODELS[""]}) == {}
    assert (reference_of(""), reference_of("small")) == ("16-bit", "small:16-bit")
