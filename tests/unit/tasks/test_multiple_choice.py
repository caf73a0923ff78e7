"""MMLU and TruthfulQA: prompts literal, predictions by likelihood, few-shot rows from dev only."""

import math

import pytest

from quantgate.errors import DataError
from quantgate.scoring.requests import LikelihoodResponse
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.mmlu import Mmlu
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.truthfulqa import TruthfulQa


def row(number, subject="sea_life", answer=1):
    choices = [f"{letter}{number}" for letter in "wxyz"]
    return {"question": f"Question {number}? ", "subject": subject, "choices": choices, "answer": answer}


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


@pytest.fixture
def data(tmp_path, write_jsonl):
    write_jsonl(tmp_path, "cais/mmlu", "sea_life", "test", [row(1), row(2, answer=3)])
    write_jsonl(tmp_path, "cais/mmlu", "sea_life", "dev", [row(index) for index in range(10, 15)])
    targets = {"choices": ["True.", "False."], "labels": [1, 0]}
    questions = [{"question": "Is it?", "mc1_targets": targets, "mc2_targets": targets}]
    write_jsonl(tmp_path, "truthfulqa/truthful_qa", "multiple_choice", "validation", questions)
    return DirectorySource(tmp_path)


def answers(*logprobs, n_tokens=1):
    return [LikelihoodResponse(value, n_tokens, False) for value in logprobs]


def test_mmlu_prompt_is_literal(data, prompts):
    item = Mmlu().items(data, Selection(num_fewshot=1), prompts)[0]
    requests = Mmlu().requests(item, prompts)
    assert prompts.decode(requests[0].context) == (
        "The following are multiple choice questions (with answers) about sea life.\n\n"
        "Question 10?\nA. w10\nB. x10\nC. y10\nD. z10\nAnswer: B\n\n"
        "Question 1?\nA. w1\nB. x1\nC. y1\nD. z1\nAnswer:"
    )
    assert [prompts.decode(request.continuation) for request in requests] == [" A", " B", " C", " D"]


def test_mmlu_cloze_prompt_is_literal(data, prompts):
    task = Mmlu("mmlu_cloze", "text")
    item = task.items(data, Selection(num_fewshot=1), prompts)[0]
    requests = task.requests(item, prompts)
    assert prompts.decode(requests[0].context) == (
        "The following are multiple choice questions (with answers) about sea life.\n\n"
        "Question: Question 10?\nAnswer: x10\n\nQuestion: Question 1?\nAnswer:"
    )
    assert [prompts.decode(request.continuation) for request in requests] == [" w1", " x1", " y1", " z1"]


def test_mmlu_cloze_compares_mean_token_likelihoods(data, prompts):
    task = Mmlu("mmlu_cloze", "text")
    item = task.items(data, Selection(num_fewshot=1), prompts)[0]
    responses = [LikelihoodResponse(total, count, False) for total, count in ((-3, 1), (-8, 4), (-9, 3), (-6, 2))]
    assert task.score(item, responses).score == 1.0


def test_mmlu_shots_come_from_dev_only(data, prompts):
    for item in Mmlu().items(data, Selection(), prompts):
        assert [shot["question"] for shot in item.shots] == [f"Question {index}? " for index in range(10, 15)]


def test_mmlu_without_enough_dev_rows(data, prompts):
    with pytest.raises(DataError, match=r"5 rows; expected at least 6 for 6-shot prompts; lower --num-fewshot"):
        Mmlu().items(data, Selection(num_fewshot=6), prompts)


def test_mmlu_score(data, prompts):
    item = Mmlu().items(data, Selection(), prompts)[0]
    outcome = Mmlu().score(item, answers(-2.0, -1.0, -3.0, -4.0))
    assert (outcome.score, outcome.answer, outcome.group) == (1.0, "B", "sea_life")
    weights = [math.exp(-value) for value in (2, 1, 3, 4)]
    assert outcome.companions["prob_right"] == pytest.approx(weights[1] / sum(weights))
    assert Mmlu().score(item, answers(-1.0, -2.0, -3.0, -4.0)).score == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_likelihoods_are_unscored(data, prompts, bad):
    item = Mmlu().items(data, Selection(), prompts)[0]
    outcome = Mmlu().score(item, answers(-2.0, bad, -3.0, -4.0))
    assert outcome.score is None
    assert "not finite" in outcome.unscored


def test_mmlu_refuses_an_answer_outside_the_options(data, tmp_path, write_jsonl, prompts):
    write_jsonl(tmp_path, "cais/mmlu", "sea_life", "test", [row(1), row(2, answer=4)])
    with pytest.raises(DataError, match="row 1: 4 choices, answer 4; expected 4 choices, answer 0-3"):
        Mmlu().items(data, Selection(), prompts)


def test_truthfulqa_scores_the_answer_text_only(data, prompts):
    item = TruthfulQa().items(data, Selection(), prompts)[0]
    request = TruthfulQa().requests(item, prompts)[0]
    assert prompts.decode(request.context) == "<|im_start|>user\nIs it?<|im_end|>\n<|im_start|>assistant\n"
    assert prompts.decode(request.continuation) == "True."


def test_truthfulqa_uses_the_mean_loss(data, prompts):
    item = TruthfulQa().items(data, Selection(), prompts)[0]
    long_but_likely = LikelihoodResponse(-10.0, 20, False)
    short_but_unlikely = LikelihoodResponse(-4.0, 2, False)
    assert TruthfulQa().score(item, [long_but_likely, short_but_unlikely]).score == 1.0


def test_limit_spreads_over_groups(tmp_path, write_jsonl, prompts):
    for subject in ("a", "b", "c"):
        write_jsonl(tmp_path, "cais/mmlu", subject, "test", [row(index, subject) for index in range(20)])
    items = Mmlu().items(DirectorySource(tmp_path), Selection(limit=7, num_fewshot=0), prompts)
    groups = [item.group for item in items]
    assert len(items) == 7
    assert {group: groups.count(group) >= 2 for group in "abc"} == {"a": True, "b": True, "c": True}
    assert items == Mmlu().items(DirectorySource(tmp_path), Selection(limit=7, num_fewshot=0), prompts)
