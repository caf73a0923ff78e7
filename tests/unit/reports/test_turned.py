"""Items that turned: both answers side by side, the most harmed first, few, escaped, quoted only where allowed."""

import json
from dataclasses import replace

import pytest

from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.reports import markdown, turned
from quantgate.reports.payload import Payload, invalid_result
from quantgate.reports.run import Run
from quantgate.tasks.licences import Quotable, quotable
from quantgate.tasks.table import TASKS
from quantgate.verdict.evidence import outcomes_to_json, rule_to_json
from quantgate.verdict.policy_file import load_policy

RESULT = replace(invalid_result(CaseKey("gptq4", "mmlu"), "knowledge", "x"), verdict="pass", higher_is_better=True)


def sides(*pairs):
    """(answer, score) of the reference and of the subject, item by item."""

    def outcome(number, answer, score):
        return ItemOutcome(f"i{number}", "g", score, answer, unscored="" if score is not None else "unreadable")

    return rule("mean") | {
        side: outcomes_to_json([outcome(number, *pair[place]) for number, pair in enumerate(pairs)])
        for place, side in enumerate(("reference", "subject"))
    }


def rule(kind):
    return {"rule": {"metric": {"kind": kind}}}


FLIPS = sides(
    (("A", 1.0), ("A", 1.0)), (("B", 0.0), ("C", 0.0)), (("D", 0.0), ("A", 1.0)), (("B", 1.0), ("D", 0.0)),
    (("B", 1.0), ("", None)),
)  # fmt: skip


def test_both_answers_and_the_most_harmed_first():
    assert [(t.item, t.before, t.after, t.change) for t in turned.turned(RESULT, FLIPS)] == [
        ("i3", "B (1)", "D (0)", "worse"),
        ("i1", "B (0)", "C (0)", "another answer"),
        ("i4", "B (1)", "unscored: unreadable", "another answer"),
        ("i2", "D (0)", "A (1)", "better"),
    ]


def test_a_loss_is_worse_when_it_rises():
    loss = replace(RESULT, higher_is_better=False)
    found = turned.turned(loss, sides((("", 2.0), ("", 1.5)), (("", 2.0), ("", 2.5))))
    assert [(each.item, each.change) for each in found] == [("i1", "worse"), ("i0", "better")]


def test_few_are_shown_and_only_those_are_quoted():
    found = turned.turned(RESULT, sides(*[(("A", 1.0), ("B", 0.0))] * 60))
    assert len(found) == 60
    assert len(turned.rows(found, {})) == turned.MOST
    quoted = turned.quotes(found, {f"i{number}": Quotable("long " * 100) for number in range(60)})
    assert len(quoted) == turned.MOST_SHOWN
    assert max(map(len, quoted.values())) <= 120


def test_what_an_answer_stands_for_and_how_probable_the_right_one_was():
    [one] = turned.turned(RESULT, rule("binary") | {
        side: outcomes_to_json([ItemOutcome("i0", "g", score, answer, {"prob_right": p})])
        for side, score, answer, p in (("reference", 1.0, "B", 0.8125), ("subject", 0.0, "A", 0.25))
    })  # fmt: skip
    assert (one.before, one.after) == ("B (right, p 0.81)", "A (wrong, p 0.25)")
    row = {"question": "2 + 2?", "choices": ["3", "4", "5", "x " * 60], "answer": 1}
    text = turned.quotes([one], {"i0": quotable(row, "cais/mmlu", "dir")})["i0"]
    assert text.startswith("2 + 2? | A: 3 | B ✓: 4 | C: 5 | D: x x")
    assert len(text) <= 120 + 4 * 70


@pytest.mark.parametrize(("row", "shown"), [
    ({"question": "q", "mc1_targets": {"choices": ["no", "yes"], "labels": [0, 1]}}, "q | 0: no | 1 ✓: yes"),
    ({"question": "q", "answer": "2 and 2 are <<2+2=4>>4\n#### 4"}, "q | expected: 4"),
    ({"question": "q", "answer": "four"}, "q"),
    ({"question": "q", "choices": ["a", "b"], "answer": 9}, "q | A: a | B: b"),
    ({"question": "q", "choices": [1, 2], "answer": "A"}, "q"),
])  # fmt: skip
def test_rows_of_every_form_that_may_be_quoted(row, shown):
    [one] = turned.turned(RESULT, sides((("A", 1.0), ("B", 0.0))))
    assert turned.quotes([one], {"i0": quotable(row, "", "bundled")}) == {"i0": shown}


@pytest.mark.parametrize(("dataset", "source", "text"), [
    ("cais/mmlu", "dir", "why?"), ("haonan-li/cmmlu", "dir", ""), ("haonan-li/cmmlu", "bundled", "why?"),
])  # fmt: skip
def test_only_items_that_may_be_quoted_are(dataset, source, text):
    row = {"question": "why?", "choices": ["so", "not so"], "answer": 0}
    assert quotable(row, dataset, source).question == text
    assert bool(quotable(row, dataset, source).options) == bool(text)


def test_the_report_shows_them_escaped():
    run = Run()
    run.add(Payload(RESULT, evidence=FLIPS, texts={"i3": "<b>|which [one](x)?"}))
    text = markdown.render(run.report({}))
    assert "gptq4 on mmlu: 4 items came out otherwise" in text
    assert "| i3 | &lt;b&gt;\\|which \\[one\\](x)? | B (1) | D (0) | worse |" in text
    assert "<b>" not in text


RIGHT_OR_WRONG = [task for task in TASKS.values() if task.metric.scale.either]


@pytest.mark.parametrize("task", RIGHT_OR_WRONG, ids=lambda task: task.id)
def test_every_metric_of_right_and_wrong_answers_says_so(task):
    recorded = rule_to_json(load_policy(None).rule(task.id, task.dimension, task.metric, "m", "q"))
    told = {"rule": json.loads(json.dumps(recorded))}
    [one] = turned.turned(RESULT, sides((("A", 1.0), ("B", 0.0))) | told)
    assert (one.before, one.after) == ("A (right)", "B (wrong)")
