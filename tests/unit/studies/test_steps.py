"""Which step lost what: against differences counted by hand."""

import math
from dataclasses import replace

import pytest

from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.reports.payload import invalid_result
from quantgate.reports.studies import shown
from quantgate.studies.steps import FORMS, steps_record
from quantgate.verdict.evidence import outcomes_to_json

COUNT = 40  # items, all of them right at 16 bit
RIGHT = {"16-bit": range(40), "made": range(2, 40), "packed": range(2, 40), "served": range(20, 40)}


def outcomes(right, asked=range(COUNT)):
    return outcomes_to_json([ItemOutcome(f"i{at}", "g", float(at in right)) for at in asked])


def case(name, task="truthfulqa"):
    return replace(invalid_result(CaseKey(name, task), "alignment", ""), metric="acc", confidence=0.95, verdict="pass")


def record(asked=(), without=(), lost=(), task="truthfulqa", forms=("made", "packed", "served")):
    asked = dict(asked)

    def sides(key):
        if key.subject in without:
            return None
        mine = outcomes(RIGHT[key.subject], asked.get(key.subject, range(COUNT)))
        return {"reference": outcomes(RIGHT["16-bit"]), "subject": mine}

    subjects = {name: {FORMS: list(forms)} for name in forms if name not in lost} | {"other": {}}
    return steps_record([case(name, task) for name in reversed(forms) if name not in lost], sides, subjects)


def test_each_step_is_compared_with_the_one_before_it():
    found = record()
    assert found["forms"] == ["made", "packed", "served"]
    said = [(step["from"], step["to"], step["worse"], step["better"], step["says"]) for step in found["steps"]]
    assert said == [
        ("16-bit", "made", 2, 0, "open"),  # two of 40 may be chance
        ("made", "packed", 0, 0, "equal"),
        ("packed", "served", 18, 0, "lost"),
    ]
    assert [step["delta"] for step in found["steps"]] == pytest.approx([-2 / 40, 0.0, -18 / 40])
    assert math.fsum(step["delta"] for step in found["steps"]) == pytest.approx(20 / 40 - 1)
    assert all(step["low"] <= step["delta"] <= step["high"] for step in found["steps"])
    assert found["answer"] == "truthfulqa: served lost 0.45"


def test_all_steps_speak_of_the_items_that_all_forms_were_asked():
    found = record({"packed": range(10, 40), "made": range(35)})
    assert {step["items"] for step in found["steps"]} == {25}
    assert found["steps"][2]["worse"] == 10  # items 10 to 19


def test_what_cannot_be_compared_is_said():
    assert record(without=["packed"])["steps"] == []
    assert record(without=["packed"])["holes"][0]["why"].startswith("packed has no scores")
    assert record({"packed": range(10), "made": range(30, 40)})["holes"] == [
        {"task": "truthfulqa", "why": "no item was asked of all forms"}
    ]
    assert "no score of a form alone" in record(task="kld_prompts")["holes"][0]["why"]
    assert record(without=["packed"])["answer"] == "truthfulqa: unknown"
    assert record(lost=["packed"])["holes"] == [{"task": "truthfulqa", "why": "packed was not judged on it"}]
    assert record(forms=("made",)) == {}


def test_the_page_says_it():
    [page] = shown([record()])
    assert page.lines == ("steps from 16 bit to made to packed to served: truthfulqa: served lost 0.45",)
    [table] = page.tables
    assert [row[-1] for row in table.rows] == ["no loss shown", "nothing moved", "lost"]
    assert [row[1] for row in table.rows] == ["16-bit to made", "made to packed", "packed to served"]
