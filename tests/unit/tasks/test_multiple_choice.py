"""The zero-shot standards: literal prompts, both metrics by hand, broken rows, and no test row among the examples."""

import math

import pytest

from quantgate.core.errors import DataError
from quantgate.core.progress import Silent
from quantgate.core.requests import GenerateResponse, LikelihoodResponse
from quantgate.engines.torch.engine import TorchEngine
from quantgate.models.loading import load_reference
from quantgate.tasks.base import Selection
from quantgate.tasks.choice_rows import ZERO_SHOT
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.items import with_shots
from quantgate.tasks.multiple_choice import BENCHMARKS, MultipleChoice
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.table import GROUPS, TASKS

# one row of each kind; {m} marks which row a text comes from
ROWS = {
    "hellaswag": {
        "activity_label": "Baking {m}",
        "ctx_a": "A man opens an oven.",
        "ctx_b": "the man",
        "endings": ["sings [laughs] loudly.", "takes out a cake.", "leaves.", "[title] sleeps."],
        "label": "1",
        "source_id": "video{m}",
    },
    "piqa": {"goal": "Cool {m} soup", "sol1": "Wait.", "sol2": "Boil it.", "label": 0},
    "arc_easy": {
        "question": "What is {m} ice?",
        "choices": {"text": ["Steam", "Frozen water", "Sand"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    "boolq": {"question": "is {m} the sea salty", "passage": "The sea {m} holds salt.", "answer": True},
    "winogrande": {
        "sentence": "The cup {m} did not fit the box because the _ was too big.",
        "option1": "cup",
        "option2": "box",
        "answer": "1",
    },
    "openbookqa": {
        "question_stem": "A {m} cat is",
        "choices": {"text": ["a plant", "an animal", "a stone", "a gas"], "label": list("ABCD")},
        "answerKey": "B ",
    },
}
ROWS["arc_challenge"] = ROWS["arc_easy"]


def marked(value, mark):
    if isinstance(value, str):
        return value.replace("{m}", mark)
    if isinstance(value, dict):
        return {key: marked(each, mark) for key, each in value.items()}
    return [marked(each, mark) for each in value] if isinstance(value, list) else value


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


@pytest.fixture
def data(tmp_path, write_jsonl):
    for name, where in ZERO_SHOT.items():
        for split, mark in ((where.split, "TEST"), ("train", "SHOT")):
            rows = [marked(ROWS[name], f"{mark}{number}") for number in range(3)]
            write_jsonl(tmp_path, where.dataset, where.config, split, rows)
    for split, mark in (("test", "TEST"), ("train", "SHOT")):
        rows = [{"text": f"It was {mark}{number} and the sea was\n calm"} for number in range(3)]
        write_jsonl(tmp_path, "EleutherAI/lambada_openai", "default", split, rows)
    return DirectorySource(tmp_path)


def pairs(task, data, prompts, number=0):
    item = task.items(data, Selection(), prompts)[number]
    return [(prompts.decode(each.context), prompts.decode(each.continuation)) for each in task.requests(item, prompts)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "hellaswag",
            [
                ("Baking TEST0: A man opens an oven. The man", " sings loudly."),
                ("Baking TEST0: A man opens an oven. The man", " takes out a cake."),
                ("Baking TEST0: A man opens an oven. The man", " leaves."),
                ("Baking TEST0: A man opens an oven. The man", "  sleeps."),
            ],
        ),
        (
            "piqa",
            [("Question: Cool TEST0 soup\nAnswer:", " Wait."), ("Question: Cool TEST0 soup\nAnswer:", " Boil it.")],
        ),
        (
            "arc_easy",
            [("Question: What is TEST0 ice?\nAnswer:", f" {text}") for text in ("Steam", "Frozen water", "Sand")],
        ),
        (
            "boolq",
            [
                ("The sea TEST0 holds salt.\nQuestion: is TEST0 the sea salty?\nAnswer:", " no"),
                ("The sea TEST0 holds salt.\nQuestion: is TEST0 the sea salty?\nAnswer:", " yes"),
            ],
        ),
        (
            "winogrande",
            [
                ("The cup TEST0 did not fit the box because the cup", " was too big."),
                ("The cup TEST0 did not fit the box because the box", " was too big."),
            ],
        ),
        ("openbookqa", [("A TEST0 cat is", f" {text}") for text in ("a plant", "an animal", "a stone", "a gas")]),
        ("lambada", [("It was TEST0 and the sea was\n", " calm")]),
    ],
)
def test_prompts_are_literal(data, prompts, name, expected):
    assert pairs(TASKS[name], data, prompts) == expected


def test_markup_goes_as_in_lm_eval():
    row = {**ROWS["hellaswag"], "ctx_a": "[header] How to bake [title] Mix.", "ctx_b": "", "activity_label": "Food"}
    question = BENCHMARKS["hellaswag"].read(row)
    # a title becomes a full stop, marks go, and double blanks become single ones from left to right
    assert question.contexts[0] == "Food: How to bake. Mix."


def likelihoods(*values):
    return [LikelihoodResponse(value, 2, False) for value in values]


def test_acc_sums_and_acc_norm_divides_by_characters(data, prompts):
    plain, normed = TASKS["piqa"], TASKS["piqa_norm"]
    item = plain.items(data, Selection(), prompts)[0]
    # "Wait." has 5 characters, "Boil it." 8: -6/5 < -8/8 although -6 > -8
    answers = likelihoods(-6.0, -8.0)
    assert (plain.score(item, answers).score, normed.score(item, answers).score) == (1.0, 0.0)
    assert (plain.metric.name, normed.metric.name) == ("acc", "acc_norm")


def test_variants_ask_the_same(data, prompts):
    for name in ("hellaswag", "piqa", "arc_easy", "arc_challenge", "openbookqa"):
        assert pairs(TASKS[name], data, prompts) == pairs(TASKS[f"{name}_norm"], data, prompts)


def test_right_answers_come_from_the_labels(data, prompts):
    right = {"hellaswag": 1, "piqa": 0, "arc_easy": 1, "arc_challenge": 1, "boolq": 1, "winogrande": 0, "openbookqa": 1}
    for name, index in right.items():
        item = TASKS[name].items(data, Selection(), prompts)[0]
        values = [-5.0] * len(TASKS[name].requests(item, prompts))
        values[index] = -4.0
        outcome = TASKS[name].score(item, likelihoods(*values))
        assert (outcome.score, outcome.answer) == (1.0, str(index)), name


def test_items_of_one_source_are_one_group(tmp_path, write_jsonl, prompts):
    rows = [marked(ROWS["hellaswag"], mark) for mark in ("1", "1", "2")]
    write_jsonl(tmp_path, "Rowan/hellaswag", "default", "validation", rows)
    groups = [item.group for item in TASKS["hellaswag"].items(DirectorySource(tmp_path), Selection(), prompts)]
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.parametrize("name", [*ZERO_SHOT, "lambada"])
def test_examples_come_from_train_and_hold_no_test_row(data, prompts, name):
    task = TASKS[name]
    for number, item in enumerate(with_shots(task, 2).items(data, Selection(), prompts)):
        assert item.shots == with_shots(task, 2).items(data, Selection(), prompts)[0].shots
        for request in task.requests(item, prompts):
            text = prompts.decode(request.context)
            assert ["SHOT0" in text, "SHOT1" in text, "SHOT2" in text] == [True, True, False]
            assert [f"TEST{other}" in text for other in range(3)] == [other == number for other in range(3)]


def test_an_example_shows_its_right_answer(data, prompts):
    item = with_shots(TASKS["winogrande"], 1).items(data, Selection(), prompts)[0]
    context = prompts.decode(TASKS["winogrande"].requests(item, prompts)[1].context)
    assert context.split("\n\n")[0] == "The cup SHOT0 did not fit the box because the cup was too big."


def test_too_few_examples(data, prompts):
    with pytest.raises(DataError, match=r"ybisk/piqa/plain_text/train in .*: 3 rows; expected at least 4 for 4-shot"):
        with_shots(TASKS["piqa"], 4).items(data, Selection(), prompts)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hellaswag", {"label": "4"}, "row 1: 4 options, of which number 4 is right"),
        ("hellaswag", {"label": ""}, "row 1: invalid literal"),
        ("hellaswag", {"endings": "none"}, "line 2: field 'endings' is a str"),
        ("piqa", {"label": -1}, "row 1: 2 options, of which number -1 is right"),
        ("piqa", {"label": "0"}, "line 2: field 'label' is a str; expected a int"),
        ("arc_easy", {"answerKey": "B"}, "row 1: answerKey 'B' with 3 texts and the labels"),
        ("arc_easy", {"choices": {}}, "row 1: answerKey '2' with 0 texts"),
        ("boolq", {"answer": 1}, "line 2: field 'answer' is a int; expected a bool"),
        ("winogrande", {"sentence": "no blank"}, "row 1: answer '1' to a sentence with no blank"),
        ("winogrande", {"answer": ""}, "row 1: answer '' to a sentence with a blank"),
        ("openbookqa", {"answerKey": "E"}, "row 1: answerKey 'E'"),
    ],
)
def test_broken_rows_are_named(tmp_path, write_jsonl, prompts, name, change, message):
    where = BENCHMARKS[name]
    write_jsonl(tmp_path, where.dataset, where.config, where.split, [ROWS[name], {**ROWS[name], **change}])
    with pytest.raises(DataError) as caught:
        TASKS[name].items(DirectorySource(tmp_path), Selection(), prompts)
    assert message in str(caught.value)
    assert where.split in str(caught.value)


def test_lambada_measures(data, prompts):
    item = TASKS["lambada"].items(data, Selection(), prompts)[0]
    answer = [LikelihoodResponse(-1.5, 3, True)]
    assert TASKS["lambada"].score(item, answer).score == 1.0
    outcome = TASKS["lambada_perplexity"].score(item, answer)
    assert (outcome.score, outcome.companions) == (1.5, {"nll": 0.5})
    assert TASKS["lambada_perplexity"].metric.value([1.0, 2.0]) == pytest.approx(math.exp(1.5))
    assert TASKS["lambada"].score(item, [LikelihoodResponse(math.nan, 3, False)]).unscored


@pytest.mark.parametrize("text", ["word", "ends with a blank ", " word", ""])
def test_lambada_refuses_texts_without_a_last_word(tmp_path, write_jsonl, prompts, text):
    write_jsonl(tmp_path, "EleutherAI/lambada_openai", "default", "test", [{"text": "a b"}, {"text": text}])
    with pytest.raises(DataError, match="row 1: text without a last word"):
        TASKS["lambada"].items(DirectorySource(tmp_path), Selection(), prompts)


def test_a_model_answers_every_item(data, prompts, tiny_model, tokenizer):
    engine = TorchEngine(load_reference(tiny_model, "tiny", "float32", "cpu"), tokenizer, progress=Silent())
    for name in GROUPS["zero_shot"]:
        task = TASKS[name]
        items = task.items(data, Selection(), prompts)
        asked = [task.requests(item, prompts) for item in items]
        answers = {}
        engine.run([request for each in asked for request in each], answers.__setitem__)
        numbers = iter(range(len(answers)))
        outcomes = [
            task.score(item, [answers[next(numbers)] for _ in each]) for item, each in zip(items, asked, strict=True)
        ]
        assert [outcome.item_id for outcome in outcomes] == [item.id for item in items]
        assert all(outcome.score is not None and math.isfinite(outcome.score) for outcome in outcomes), name


def test_other_answers_than_likelihoods_are_refused(data, prompts):
    item = TASKS["piqa"].items(data, Selection(), prompts)[0]
    with pytest.raises(TypeError, match="got a GenerateResponse"):
        TASKS["piqa"].score(item, [GenerateResponse("", 0, "eos")] * 2)


def test_every_row_of_the_table_is_a_task():
    assert {task.benchmark for task in TASKS.values() if isinstance(task, MultipleChoice)} == BENCHMARKS.keys()
