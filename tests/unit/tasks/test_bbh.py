import re

import pytest

from quantgate.core.errors import DataError
from quantgate.core.requests import GenerateResponse
from quantgate.tasks.base import Selection
from quantgate.tasks.bbh import PROMPTS, Bbh, answer_of
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.prompts import Prompts

PROMPT = "Count things.\n\nQ: two pens\nA: Let's think step by step.\nOne and one. So the answer is 2."


@pytest.fixture
def data(tmp_path, write_jsonl):
    write_jsonl(tmp_path, "lukaemon/bbh", "counting", "test", [{"input": "three cups", "target": "3"}])
    write_jsonl(tmp_path, "lukaemon/bbh", "letters", "test", [{"input": "sort b a", "target": "a b"}] * 2)
    rows = [{"task": name, "prompt": PROMPT} for name in ("counting", "letters", "unused")]
    write_jsonl(tmp_path, PROMPTS, "default", "train", rows)
    return DirectorySource(tmp_path, "own")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("We count. So the answer is 3.", "3"),
        ("So the answer is (B).", "(B)"),
        ("the answer is a b.\nthe answer is c.", "a b"),
        ("the answer is 3", ""),  # lm-eval takes the last character for a full stop
        ("So the answer is True and more.", "True and more"),
        ("It is three.", ""),
        ("", ""),
    ],
)
def test_the_answer_is_what_lm_eval_takes(text, answer):
    assert answer_of(text) == answer
    found = re.compile("(?<=the answer is )(.*)(?=.)").findall(text)  # its filter: regex, then take_first
    assert (found[0].strip() if found else "") == answer


def test_prompt_scores_and_averages(data, tokenizer):
    task, prompts = Bbh(), Prompts(tokenizer, 8192, "tiny")
    items = task.items(data, Selection(), prompts)
    assert [item.id for item in items] == ["counting/test/0", "letters/test/0", "letters/test/1"]
    [request] = task.requests(items[0], prompts)
    asked = f"{PROMPT}\n\nQ: three cups\nA: Let's think step by step.\n"
    assert prompts.decode(request.prompt).removeprefix("<s>").removeprefix("<bos>").strip() == asked.strip()
    answers = ["the answer is 3.", "the answer is b a.", "So the answer is a b."]
    given = zip(items, answers, strict=True)
    outcomes = [task.score(item, [GenerateResponse(text, 4, "stop")]) for item, text in given]
    assert [outcome.score for outcome in outcomes] == [1, 0, 1]
    assert task.summary(outcomes) == {
        "exact_match_counting": 1.0, "exact_match_letters": 0.5, "exact_match_average": 0.75,
    }  # fmt: skip


def test_a_task_without_a_prompt_is_named(data, tmp_path, tokenizer, write_jsonl):
    write_jsonl(tmp_path, "lukaemon/bbh", "new", "test", [{"input": "x", "target": "y"}])
    with pytest.raises(DataError, match="no prompt for new"):
        Bbh().items(data, Selection(), Prompts(tokenizer, 8192, "tiny"))
