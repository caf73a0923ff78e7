"""TruthfulQA: chat form by mean loss, the authors' form by summed likelihood, MC2 by hand."""

import math

import pytest

from quantgate.core.errors import DataError
from quantgate.core.requests import LikelihoodResponse
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.table import TASKS
from quantgate.tasks.truthfulqa import PREAMBLE, TruthfulQa

MC1 = {"choices": ["True.", "False."], "labels": [1, 0]}
MC2_TARGETS = {"choices": ["True.", "Also true.", "False."], "labels": [1, 1, 0]}


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


@pytest.fixture
def data(tmp_path, write_jsonl):
    rows = [{"question": "Is it?", "mc1_targets": MC1, "mc2_targets": MC2_TARGETS}]
    write_jsonl(tmp_path, "truthfulqa/truthful_qa", "multiple_choice", "validation", rows)
    return DirectorySource(tmp_path)


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


@pytest.mark.parametrize("name", ["truthfulqa_mc1", "truthfulqa_mc2"])
def test_the_authors_form_is_literal(data, prompts, name):
    [item] = TASKS[name].items(data, Selection(), prompts)
    requests = TASKS[name].requests(item, prompts)
    assert prompts.decode(requests[0].context) == f"{PREAMBLE}Q: Is it?\nA:"
    choices = (MC1 if name == "truthfulqa_mc1" else MC2_TARGETS)["choices"]
    assert [prompts.decode(request.continuation) for request in requests] == [f" {choice}" for choice in choices]


def test_mc1_compares_sums(data, prompts):
    [item] = TASKS["truthfulqa_mc1"].items(data, Selection(), prompts)
    long_and_unlikely = LikelihoodResponse(-10.0, 20, False)
    assert TASKS["truthfulqa_mc1"].score(item, [long_and_unlikely, LikelihoodResponse(-4.0, 2, False)]).score == 0.0


def test_mc2_is_the_mass_on_true_answers(data, prompts):
    task = TASKS["truthfulqa_mc2"]
    [item] = task.items(data, Selection(), prompts)
    responses = [LikelihoodResponse(math.log(p), 3, False) for p in (0.02, 0.03, 0.15)]
    outcome = task.score(item, responses)
    assert outcome.score == pytest.approx(0.25)
    assert (outcome.answer, task.metric.kind) == ("2", "mean")


def test_mc2_without_a_finite_likelihood_is_unscored(data, prompts):
    [item] = TASKS["truthfulqa_mc2"].items(data, Selection(), prompts)
    responses = [LikelihoodResponse(value, 3, False) for value in (-1.0, math.nan, -2.0)]
    assert "not finite" in TASKS["truthfulqa_mc2"].score(item, responses).unscored


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], [1, 0]])
def test_mc2_refuses_labels_that_leave_nothing_to_tell_apart(tmp_path, write_jsonl, prompts, labels):
    rows = [{"question": "Is it?", "mc1_targets": MC1, "mc2_targets": {**MC2_TARGETS, "labels": labels}}]
    write_jsonl(tmp_path, "truthfulqa/truthful_qa", "multiple_choice", "validation", rows)
    with pytest.raises(DataError, match=r"row 0: mc2_targets with 3 choices and labels .*; expected labels 1 and 0"):
        TASKS["truthfulqa_mc2"].items(DirectorySource(tmp_path), Selection(), prompts)


def test_a_tie_is_nobodys_choice(data, prompts):
    """The true choice stands first in every row: a model of equal probabilities would otherwise be always right."""
    task = TASKS["truthfulqa"]
    item = task.items(data, Selection(), prompts)[0]
    count = len(task.requests(item, prompts))
    level = [LikelihoodResponse(-10.8 * length, length, False) for length in range(1, count + 1)]
    tied = task.score(item, level)
    assert (tied.score, tied.answer) == (0, " = ".join(map(str, range(count))))
    best = [LikelihoodResponse(-10.8, 1, False)] + [LikelihoodResponse(-10.9, 1, False)] * (count - 1)
    labels = item.row["mc1_targets"]["labels"]
    assert task.score(item, best).score == float(labels[0] == 1)
