"""The account of a run: green only when every selected case was judged and allowed."""

import pytest

from quantgate.core.cases import CaseKey
from quantgate.reports.accounting import Account

PLAN = [(CaseKey(method, task), "knowledge") for method in ("gptq4", "awq4") for task in ("mmlu", "gsm8k")]


@pytest.fixture
def account():
    found = Account()
    found.plan(PLAN)
    return found


def ids(*cases):
    return [f"evals/test_knowledge.py::test_within_tolerance[{case}]" for case in cases]


def test_green_needs_every_selected_case(account):
    account.select(ids("gptq4-mmlu", "gptq4-gsm8k"))
    assert account.exit_code(0) == 1
    account.record(CaseKey("gptq4", "mmlu"), allowed=True)
    assert account.exit_code(0) == 1
    assert account.unjudged == [CaseKey("gptq4", "gsm8k")]
    account.record(CaseKey("gptq4", "gsm8k"), allowed=True)
    assert account.exit_code(0) == 0
    account.record(CaseKey("gptq4", "mmlu"), allowed=False)  # the last attempt counts
    assert account.exit_code(0) == 1


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_what_is_red_already_stays_so(account, code):
    assert account.exit_code(code) == code


def test_nothing_selected_is_not_green(account):
    assert account.exit_code(0) == 5
    account.select(["tests/test_own.py::test_it"])
    assert account.exit_code(0) == 5  # somebody's own tests ran, and judged nothing of the plan


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("gptq4-mmlu", CaseKey("gptq4", "mmlu")),
        ("gptq4-mmlu]@gptq4", CaseKey("gptq4", "mmlu")),  # as xdist writes its groups
        ("0-gptq4-mmlu-x", CaseKey("gptq4", "mmlu")),  # a further parameter of a test of one's own
        ("gptq4-mmlux", None),
        ("", None),
    ],
)
def test_a_node_id_names_its_case(account, name, key):
    nodeid = f"evals/test_knowledge.py::test_within_tolerance[{name}" + ("" if "]" in name else "]")
    assert account.case_of(nodeid) == key


def test_a_case_whose_name_ends_in_another_is_taken_for_itself(account):
    account.plan([(CaseKey("old-gptq4", "mmlu"), "knowledge")])
    [nodeid] = ids("0-old-gptq4-mmlu-x")
    assert account.case_of(nodeid) == CaseKey("old-gptq4", "mmlu")


def test_an_excuse_is_no_verdict(account):
    account.select(ids("gptq4-mmlu", "gptq4-gsm8k"))
    account.record(CaseKey("gptq4", "mmlu"), allowed=True)
    account.excuses[CaseKey("gptq4", "gsm8k")] = "skipped: known to fail"
    assert account.unjudged == [CaseKey("gptq4", "gsm8k")]
    assert account.exit_code(0) == 1
    account.record(CaseKey("gptq4", "gsm8k"), allowed=True)
    assert account.exit_code(0) == 0


def test_the_words_say_what_was_left_out(account):
    account.select(ids("gptq4-mmlu"))
    account.stopped = "stopping after 1 failures"
    assert account.lines() == [
        "judged 0 of 1 selected cases, 0 allowed; 4 were planned, not selected: 1 method (awq4) and "
        "1 case of the selected methods",
        "not judged: gptq4 on mmlu (stopping after 1 failures)",
    ]
    assert account.expected() == {"gptq4": ["mmlu", "gsm8k"]}


def test_a_list_that_was_asked_for_is_green_only_while_nothing_is_judged():
    account = Account(listing=True)
    account.plan([(CaseKey("gptq4", "mmlu"), "knowledge")])
    account.select(ids("gptq4-mmlu"))
    assert account.exit_code(0) == 0
    assert account.lines() == ["listed 1 of 1 planned cases; nothing was judged"]
    account.record(CaseKey("gptq4", "mmlu"), allowed=False)
    assert account.exit_code(0) == 1
    assert account.lines() == ["judged 1 of 1 selected cases, 0 allowed; 1 was planned"]


def test_it_survives_the_report(account):
    account.select(ids("gptq4-mmlu", "gptq4-gsm8k"))
    account.record(CaseKey("gptq4", "mmlu"), allowed=True)
    again = Account.from_json(account.as_json(), account.judged)
    assert again.lines() == account.lines()
    assert again.expected() == account.expected()
    assert again.as_json() == account.as_json()


def test_a_test_beside_the_plan_does_not_make_it_green():
    account = Account(planned={("rtn8", "mmlu"): "knowledge"}, others=1)
    assert account.exit_code(0) != 0
    assert Account(others=1).exit_code(0) == 0  # somebody's own tests, and no plan
