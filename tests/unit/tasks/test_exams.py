"""MMLU, C-Eval and CMMLU: prompts literal, predictions by likelihood or cascade, few-shot rows from dev only."""

import math

import pytest

from quantgate.core.errors import DataError
from quantgate.core.items import ItemOutcome
from quantgate.core.requests import GenerateResponse, LikelihoodResponse
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.exam_subjects import CEVAL_HARD, CEVAL_NAMES, CMMLU_CHINA, CMMLU_NAMES, MMLU_GROUPS
from quantgate.tasks.items import with_shots
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.table import TASKS

MMLU = TASKS["mmlu"]


def row(number, subject="sea_life", answer=1):
    choices = [f"{letter}{number}" for letter in "wxyz"]
    return {"question": f"Question {number}? ", "subject": subject, "choices": choices, "answer": answer}


def chinese(number, answer="B"):
    return {
        "question": f"第{number}题____。",
        **{letter: f"{letter.lower()}{number}" for letter in "ABCD"},
        "answer": answer,
    }


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


@pytest.fixture
def data(tmp_path, write_jsonl):
    write_jsonl(tmp_path, "cais/mmlu", "sea_life", "test", [row(1), row(2, answer=3)])
    write_jsonl(tmp_path, "cais/mmlu", "sea_life", "dev", [row(index) for index in range(10, 15)])
    write_jsonl(tmp_path, "ceval/ceval-exam", "law", "val", [chinese(1), chinese(2, answer="D")])
    write_jsonl(tmp_path, "ceval/ceval-exam", "law", "dev", [chinese(index) for index in range(10, 15)])
    capital = [{name.capitalize(): value for name, value in chinese(index).items()} for index in (1, 10)]
    write_jsonl(tmp_path, "haonan-li/cmmlu", "arts", "test", capital[:1])
    write_jsonl(tmp_path, "haonan-li/cmmlu", "arts", "dev", capital[1:])
    return DirectorySource(tmp_path)


def answers(*logprobs, n_tokens=1):
    return [LikelihoodResponse(value, n_tokens, False) for value in logprobs]


def test_mmlu_prompt_is_literal(data, prompts):
    item = with_shots(MMLU, 1).items(data, Selection(), prompts)[0]
    requests = MMLU.requests(item, prompts)
    assert prompts.decode(requests[0].context) == (
        "The following are multiple choice questions (with answers) about sea life.\n\n"
        "Question 10?\nA. w10\nB. x10\nC. y10\nD. z10\nAnswer: B\n\n"
        "Question 1?\nA. w1\nB. x1\nC. y1\nD. z1\nAnswer:"
    )
    assert [prompts.decode(request.continuation) for request in requests] == [" A", " B", " C", " D"]


def test_mmlu_cloze_prompt_is_literal(data, prompts):
    task = TASKS["mmlu_cloze"]
    item = with_shots(task, 1).items(data, Selection(), prompts)[0]
    requests = task.requests(item, prompts)
    assert prompts.decode(requests[0].context) == (
        "The following are multiple choice questions (with answers) about sea life.\n\n"
        "Question: Question 10?\nAnswer: x10\n\nQuestion: Question 1?\nAnswer:"
    )
    assert [prompts.decode(request.continuation) for request in requests] == [" w1", " x1", " y1", " z1"]


def test_mmlu_cloze_compares_mean_token_likelihoods(data, prompts):
    task = TASKS["mmlu_cloze"]
    item = with_shots(task, 1).items(data, Selection(), prompts)[0]
    responses = [LikelihoodResponse(total, count, False) for total, count in ((-3, 1), (-8, 4), (-9, 3), (-6, 2))]
    assert task.score(item, responses).score == 1.0


def test_mmlu_shots_come_from_dev_only(data, prompts):
    for item in MMLU.items(data, Selection(), prompts):
        assert [shot["question"] for shot in item.shots] == [f"Question {index}? " for index in range(10, 15)]


@pytest.mark.parametrize(("name", "subject"), [("ceval", "law"), ("cmmlu", "arts")])
def test_no_test_row_is_among_the_examples(tmp_path, write_jsonl, prompts, name, subject):
    exam = TASKS[name].exam
    spelt = (lambda row: row) if name == "ceval" else (lambda row: {key.capitalize(): row[key] for key in row})
    write_jsonl(tmp_path, exam.dataset, subject, exam.split, [spelt(chinese(number)) for number in (1, 2, 3)])
    write_jsonl(tmp_path, exam.dataset, subject, "dev", [spelt(chinese(number)) for number in range(10, 15)])
    for number, item in enumerate(with_shots(TASKS[name], 2).items(DirectorySource(tmp_path), Selection(), prompts), 1):
        for request in TASKS[name].requests(item, prompts):
            text = prompts.decode(request.context)
            assert [f"第{shot}题" in text for shot in range(10, 15)] == [True, True, False, False, False]
            assert [f"第{other}题" in text for other in (1, 2, 3)] == [other == number for other in (1, 2, 3)]


def test_mmlu_without_enough_dev_rows(data, prompts):
    with pytest.raises(DataError, match=r"5 rows; expected at least 6 for 6-shot prompts; lower --num-fewshot"):
        with_shots(MMLU, 6).items(data, Selection(), prompts)


def test_mmlu_score(data, prompts):
    item = MMLU.items(data, Selection(), prompts)[0]
    outcome = MMLU.score(item, answers(-2.0, -1.0, -3.0, -4.0))
    assert (outcome.score, outcome.answer, outcome.group) == (1.0, "B", "sea_life")
    weights = [math.exp(-value) for value in (2, 1, 3, 4)]
    assert outcome.companions["prob_right"] == pytest.approx(weights[1] / sum(weights))
    assert MMLU.score(item, answers(-1.0, -2.0, -3.0, -4.0)).score == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_likelihoods_are_unscored(data, prompts, bad):
    item = MMLU.items(data, Selection(), prompts)[0]
    outcome = MMLU.score(item, answers(-2.0, bad, -3.0, -4.0))
    assert outcome.score is None
    assert "not finite" in outcome.unscored


def test_mmlu_refuses_an_answer_outside_the_options(data, tmp_path, write_jsonl, prompts):
    write_jsonl(tmp_path, "cais/mmlu", "sea_life", "test", [row(1), row(2, answer=4)])
    with pytest.raises(DataError, match="row 1: 4 choices, answer 4; expected 4 choices, answer 0-3"):
        MMLU.items(data, Selection(), prompts)


def test_limit_spreads_over_groups(tmp_path, write_jsonl, prompts):
    for subject in ("a", "b", "c"):
        write_jsonl(tmp_path, "cais/mmlu", subject, "test", [row(index, subject) for index in range(20)])
    items = with_shots(MMLU, 0).items(DirectorySource(tmp_path), Selection(limit=7), prompts)
    groups = [item.group for item in items]
    assert len(items) == 7
    assert {group: groups.count(group) >= 2 for group in "abc"} == {"a": True, "b": True, "c": True}
    assert items == with_shots(MMLU, 0).items(DirectorySource(tmp_path), Selection(limit=7), prompts)


def test_ceval_prompt_is_literal(data, prompts):
    item = with_shots(TASKS["ceval"], 1).items(data, Selection(), prompts)[0]
    requests = TASKS["ceval"].requests(item, prompts)
    assert prompts.decode(requests[2].context) == (
        "以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n"
        "第10题____。\nA. a10\nB. b10\nC. c10\nD. d10\n答案： B\n\n"
        "第1题____。\nA. a1\nB. b1\nC. c1\nD. d1\n答案："
    )
    assert prompts.decode(requests[2].continuation) == " C"


def test_cmmlu_prompt_is_literal(data, prompts):
    item = with_shots(TASKS["cmmlu"], 1).items(data, Selection(), prompts)[0]
    assert prompts.decode(TASKS["cmmlu"].requests(item, prompts)[0].context) == (
        "以下是关于艺术学的单项选择题，请直接给出正确答案的选项。\n\n"
        "第10题____。\nA. a10\nB. b10\nC. c10\nD. d10\n答案： B\n\n"
        "第1题____。\nA. a1\nB. b1\nC. c1\nD. d1\n答案："
    )


def test_free_answer_prompts_are_literal_and_show_no_examples(data, prompts):
    def asked(name):
        item = with_shots(TASKS[name], 5).items(data, Selection(), prompts)[0]
        [request] = TASKS[name].requests(item, prompts)
        return prompts.decode(request.prompt).removeprefix("<|im_start|>user\n")

    end = "<|im_end|>\n<|im_start|>assistant\n"
    assert asked("mmlu_generate") == (
        "The following is a multiple-choice question. Please choose the most suitable one among A, B, C and D as the "
        f"answer to this question.\n\nQuestion 1? \nA. w1\nB. x1\nC. y1\nD. z1\n{end}"
    )
    assert asked("ceval_generate") == f"第1题____。\n\nA. a1\nB. b1\nC. c1\nD. d1\n{end}"


def test_free_answers_are_scored_by_the_cascade(data, prompts):
    item = TASKS["mmlu_generate"].items(data, Selection(), prompts)[0]
    right = TASKS["mmlu_generate"].score(item, [GenerateResponse("The answer is B.", 5, "eos")])
    assert (right.score, right.answer, right.companions) == (1.0, "B", {"capped": 0.0, "guessed": 0.0})
    babble = TASKS["mmlu_generate"].score(item, [GenerateResponse("la la la", 256, "length")])
    assert babble.companions == {"capped": 1.0, "guessed": 1.0}
    item = TASKS["ceval_generate"].items(data, Selection(), prompts)[1]
    assert TASKS["ceval_generate"].score(item, [GenerateResponse("答案是D。", 5, "eos")]).score == 1.0


@pytest.mark.parametrize("answer", ["", "E", "AB", "b"])
def test_ceval_refuses_an_answer_that_is_no_letter(data, tmp_path, write_jsonl, prompts, answer):
    write_jsonl(tmp_path, "ceval/ceval-exam", "law", "val", [chinese(1), chinese(2, answer=answer)])
    with pytest.raises(DataError, match=f"law/val in .*, row 1: 4 choices, answer '{answer}'; expected .* answer A-D"):
        TASKS["ceval"].items(data, Selection(), prompts)


def outcomes(**scores):
    return [
        ItemOutcome(f"{subject}/{number}", subject, score, unscored="" if score is not None else "no answer")
        for subject, row in scores.items()
        for number, score in enumerate(row)
    ]


def test_ceval_averages_are_means_of_subjects():
    found = TASKS["ceval"].summary(
        outcomes(law=[1.0, 1.0, 0.0, 0.0], logic=[1.0], college_physics=[0.0, None], physician=[1.0])
    )
    assert found == pytest.approx(
        {"acc_average": 2.5 / 4, "acc_humanities": 0.75, "acc_stem": 0.0, "acc_hard": 0.0, "acc_other": 1.0}
    )


def test_mmlu_averages_are_means_of_questions():
    found = TASKS["mmlu"].summary(outcomes(anatomy=[1.0, 0.0, 0.0], astronomy=[1.0], philosophy=[0.0], own=[1.0]))
    assert found == pytest.approx({"acc_average": 0.5, "acc_stem": 0.5, "acc_humanities": 0.0})


def test_averages_of_nothing_scored_are_left_out():
    assert TASKS["cmmlu"].summary(outcomes(arts=[None])) == {}


def test_subjects_are_counted_as_in_the_papers():
    assert [sum(map(len, names.values())) for names in (MMLU_GROUPS, CEVAL_NAMES, CMMLU_NAMES)] == [57, 52, 67]
    assert {group: len(names) for group, names in CEVAL_NAMES.items()} == {
        "stem": 20, "social_science": 10, "humanities": 11, "other": 11,
    }  # fmt: skip
    assert set(CEVAL_HARD) <= CEVAL_NAMES["stem"].keys()
    assert len(CEVAL_HARD) == 8
    assert set(CMMLU_CHINA) <= {name for names in CMMLU_NAMES.values() for name in names}
