"""GSM8K: the three extractors on hand-written responses."""

from decimal import Decimal

import pytest

from quantgate.core.errors import DataError
from quantgate.core.items import Item
from quantgate.core.requests import GenerateResponse
from quantgate.tasks.base import Selection, best_constant
from quantgate.tasks.data import BUNDLED_DATA, DirectorySource
from quantgate.tasks.gsm8k import Gsm8k, any_number, first_occurrence, gold_number, last_number, numbers
from quantgate.tasks.items import with_shots
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.table import TASKS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("no digits", []),
        ("18", ["18"]),
        ("$18.00.", ["18.00"]),
        ("1,234 and 1,234,567.5", ["1234", "1234567.5"]),
        ("-5 degrees", ["-5"]),
        ("7-5=2", ["7", "5", "2"]),
        ("x-3", ["3"]),
        ("3.", ["3"]),
        ("1,23", ["1", "23"]),
        ("50%", ["50"]),
        ("version 1.2.3", ["1.2", "3"]),
        (".5 and -.25 of $.75", ["0.5", "-0.25", "0.75"]),
        ("It is it.5 of them...6", ["5", "6"]),
        ("\uff11\uff18", ["18"]),
    ],
)
def test_numbers(text, expected):
    assert [str(number) for number in numbers(text)][: len(expected)] == expected
    assert len(numbers(text)) >= len(expected)


@pytest.mark.parametrize(
    ("response", "gold", "last", "any_", "first"),
    [
        ("The answer is 18.", "18", True, True, True),
        ("18 eggs minus 4 is 14", "18", False, True, True),
        ("She makes $18.00 a day", "18", True, True, True),
        ("It is 118, no, 18", "18", True, True, False),
        ("She needs 1,234 coins", "1234", True, True, False),
        ("nothing", "18", False, False, False),
        ("18 apples cost 36 dollars", "36", True, True, True),
        ("minus -5", "-5", True, True, True),
        ("The total is 180", "18", False, False, False),
        ("x18y then 18", "18", True, True, False),
        ("", "0", False, False, False),
        ("She has £18 left", "18", True, True, False),  # a pound sign is no edge, a dollar sign is
        ("She has **18** left", "18", True, True, True),
        ("“18”", "18", True, True, True),
        ("_18_", "18", True, True, True),
        ("20-18=2", "18", False, False, True),  # the paper's regular expression reads -18
        ("20 - 18 = 2", "18", False, True, True),
        ("about .5 of it", "0.5", True, True, False),
        ("about .5 of it", "5", False, False, True),  # its first 5 stands between a sign and a blank
        ("\uff11\uff18", "18", True, False, False),  # full-width: a number, but none of the paper's
        ("1\uff18", "18", True, True, False),  # unless its first digit is not
        ("it is x-18", "18", True, False, True),  # the last number is right, the paper reads -18
        ("5-18", "18", True, False, True),
        ("so 18.", "18.0", True, True, False),
        ("+7 and 007", "7", True, True, True),
        ("1,2345", "1234", False, False, False),
        ("1,234,56", "1234", False, True, False),
        ("1,234,567.25", "1234567.25", True, True, False),
    ],
)
def test_extractors(response, gold, last, any_, first):
    assert last_number(response, gold)[1] is last
    assert any_number(response, gold)[1] is any_
    assert first_occurrence(response, gold)[1] is first


def test_gold_number():
    assert gold_number("2+2=<<2+2=4>>4\n#### 1,004") == "1004"
    assert Decimal(gold_number("#### -3.5")) == Decimal("-3.5")
    with pytest.raises(ValueError, match="no number behind ####"):
        gold_number("4")


def test_score_keeps_the_answer_and_whether_it_was_cut():
    item = Item("test/0", "test/0", {"question": "?", "answer": "#### 4"})
    outcome = Gsm8k().score(item, [GenerateResponse("2+2=4", 5, "length")])
    assert (outcome.score, outcome.answer) == (1.0, "4")
    assert outcome.companions == {"capped": 1.0, "tokens": 5.0, "not_final": 0.0}
    changed = Gsm8k().score(item, [GenerateResponse("It is 4. Wait, it is 5", 9, "stop")])
    assert (changed.score, changed.companions) == (0.0, {"capped": 0.0, "tokens": 9.0, "not_final": 1.0})
    assert Gsm8k().score(item, [GenerateResponse("It is 6", 4, "stop")]).companions["not_final"] == 0.0


@pytest.fixture
def data(tmp_path, write_jsonl):
    rows = {
        "train": [{"question": f"Train {n}?", "answer": f"It is <<{n}={n}>>{n}.\n#### {n}"} for n in range(10)],
        "test": [{"question": f"Test {n}?", "answer": f"It is {n}.\n#### {n}"} for n in range(3)],
    }
    for split, each in rows.items():
        write_jsonl(tmp_path, "openai/gsm8k", "main", split, each)
    return DirectorySource(tmp_path)


def test_chat_asks_the_bare_question(data, tokenizer):
    prompts = Prompts(tokenizer, 512, "tiny")
    item = with_shots(Gsm8k(), 2).items(data, Selection(), prompts)[1]
    [request] = Gsm8k().requests(item, prompts)
    assert prompts.decode(request.prompt) == "<|im_start|>user\nTest 1?<|im_end|>\n<|im_start|>assistant\n"
    assert (item.shots, request.stop) == ((), ())


def test_chain_of_thought_shows_train_problems_only_and_stops_at_the_next_question(data, tokenizer):
    prompts, task = Prompts(tokenizer, 512, "tiny"), Gsm8k("gsm8k_cot", shots=8)
    item = with_shots(task, 2).items(data, Selection(), prompts)[1]
    [request] = task.requests(item, prompts)
    assert prompts.decode(request.prompt) == (
        "Question: Train 0?\nAnswer: It is <<0=0>>0.\n#### 0\n\n"
        "Question: Train 1?\nAnswer: It is <<1=1>>1.\n#### 1\n\nQuestion: Test 1?\nAnswer:"
    )
    assert request.stop == ("Question:",)
    items = task.items(data, Selection(), prompts)
    assert [len(each.shots) for each in items] == [8, 8, 8]
    assert all(shot["question"].startswith("Train") for each in items for shot in each.shots)
    assert "8-shot chain of thought" in task.protocol


def test_answers_alone_are_shown_to_ask_without_a_chain_of_thought(data, tokenizer):
    prompts, task = Prompts(tokenizer, 512, "tiny"), Gsm8k("gsm8k_direct", shots=8, worked=False)
    item = with_shots(task, 2).items(data, Selection(), prompts)[1]
    [request] = task.requests(item, prompts)
    assert prompts.decode(request.prompt) == (
        "Question: Train 0?\nAnswer: 0\n\nQuestion: Train 1?\nAnswer: 1\n\nQuestion: Test 1?\nAnswer:"
    )
    assert "8-shot answers alone" in task.protocol


def test_a_broken_answer_is_refused_by_line_and_field(data, tmp_path, write_jsonl, tokenizer):
    write_jsonl(tmp_path, "openai/gsm8k", "main", "test", [{"question": "?", "answer": "4"}])
    with pytest.raises(DataError, match=r"openai/gsm8k/main/test in .*, line 1: field 'answer' has no number behind"):
        Gsm8k().items(data, Selection(), Prompts(tokenizer, 512, "tiny"))


def test_no_answer_is_right_for_many_of_the_bundled_problems(tokenizer):
    """Always saying it would be so good that no margin could lie between it and a small model."""
    task, prompts = TASKS["gsm8k"], Prompts(tokenizer, 4096, "tiny")
    level = best_constant(task, task.items(DirectorySource(BUNDLED_DATA), Selection(), prompts))
    assert level is not None
    assert level < 0.08
