"""Items that turned: both answers side by side, the most harmed first, few, escaped, quoted only where allowed."""

from dataclasses import replace

import pytest

from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.reports import markdown, turned
from quantgate.reports.payload import Payload, invalid_result
from quantgate.reports.run import Run
from quantgate.tasks.licences import quotable
from quantgate.verdict.evidence import outcomes_to_json

RESULT = replace(invalid_result(CaseKey("gptq4", "mmlu"), "knowledge", "x"), verdict="pass", higher_is_better=True)


def sides(*pairs):
    """(answer, score) of the reference and of the subject, item by item."""

    def outcome(number, answer, score):
        return ItemOutcome(f"i{number}", "g", score, answer, unscored="" if score is not None else "unreadable")

    return {
        side: outcomes_to_json([outcome(number, *pair[place]) for number, pair in enumerate(pairs)])
        for place, side in enumerate(("reference", "subject"))
    }


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
    quoted = turned.quotes(found, {f"i{number}": "long " * 100 for number in range(60)})
    assert len(quoted) == turned.MOST_SHOWN
    assert max(map(len, quoted.values())) <= 120


@pytest.mark.parametrize(("dataset", "source", "text"), [
    ("cais/mmlu", "dir", "why?"), ("haonan-li/cmmlu", "dir", ""), ("haonan-li/cmmlu", "bundled", "why?"),
])  # fmt: skip
def test_only_items_that_may_be_quoted_are(dataset, source, text):
    assert quotable({"question": "why?"}, dataset, source) == text


def test_the_report_shows_them_escaped():
    run = Run()
    run.add(Payload(RESULT, evidence=evidence(FLIPS), texts={"i3": "<b>|which [one](x)?"}))
    text = markdown.render(run.report({}))
    assert "gptq4 on mmlu: 4 items came out otherwise" in text
    assert "| i3 | B (1) | D (0) | worse | &lt;b&gt;\\|which \\[one\\](x)? |" in text
    assert "<b>" not in text


def evidence(outcomes):
    return {"rule": {}, **outcomes}
