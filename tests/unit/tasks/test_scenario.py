"""The tasks of scenario S1: literal prompts, right answers, groups, and what has no examples to show."""

import math

import pytest

from quantgate.core.errors import DataError
from quantgate.core.requests import GenerateResponse, LikelihoodResponse
from quantgate.studies.table import study_called
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.items import with_shots
from quantgate.tasks.multiple_choice import BENCHMARKS
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.scenario_rows import BLIMP, SCENARIO, wsc273
from quantgate.tasks.short_answers import QUIZZES
from quantgate.tasks.table import GROUPS, TASKS, select_tasks

_PAIR = {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 1}

# per benchmark: a row, what stands before the options (one context, or one each), the options, the right one
CASES = {
    "swag": (
        {"startphrase": "He opens a door. He", "label": 2, **{f"ending{n}": f"does {n}." for n in range(4)}},
        "He opens a door. He",
        ["does 0.", "does 1.", "does 2.", "does 3."],
        2,
    ),
    "sciq": (
        {
            "question": "What is ice?",
            "support": " \n Ice is cold.",
            "correct_answer": "water",
            "distractor1": "sand",
            "distractor2": "glass",
            "distractor3": "sand",
        },
        "Ice is cold.\nQuestion: What is ice?\nAnswer:",
        ["glass", "sand", "sand", "water"],
        3,
    ),
    "mathqa": (
        {"Problem": "two and two ?", "options": "A ) 1,000 , B ) 2 , c ) 3.5 , d ) 4 , e ) none , ", "correct": "d"},
        "Question: two and two ?\nAnswer:",
        ["1,000", "2", "3.5", "4", "none"],
        3,
    ),
    "logiqa": (
        {"context": "All is one.", "question": "So", "options": ["w", "x", "y", "z"], "label": "b "},
        "Passage: All is one.\nQuestion: So\nChoices:\nA. w\nB. x\nC. y\nD. z\nAnswer:",
        ["w", "x", "y", "z"],
        1,
    ),
    "copa": (
        {"premise": "The tap ran. ", "choice1": "The sink filled.", "choice2": "I slept.", "question": "effect"}
        | {"label": 0},
        "The tap ran therefore",
        [" the sink filled.", " i slept."],
        0,
    ),
    "wsc273": (
        {"text": "The cup is not in The box as [MASK]  is big.", "options": ["The cup", "the box"], "label": 0},
        ["The cup is not in The box as the cup", "The cup is not in The box as the box"],
        [" is big.", " is big."],
        0,
    ),
    "pubmedqa": (
        {"question": "Does it?", "context": {"contexts": ["First.", "Second."]}, "final_decision": "maybe"},
        "Abstract: First.\nSecond.\nQuestion: Does it?\nAnswer:",
        ["yes", "no", "maybe"],
        2,
    ),
    "mnli": (
        {"premise": "It rains", "hypothesis": " It is wet ", "label": 0},
        "It rains\nQuestion: It is wet. True, False or Neither?\nAnswer:",
        ["True", "Neither", "False"],
        0,
    ),
    "rte": (_PAIR, "It rains.\nQuestion: It is wet. True or False?\nAnswer:", ["True", "False"], 1),
    "wnli": (_PAIR, "It rains.\nQuestion: It is wet. True or False?\nAnswer:", ["False", "True"], 1),
    "mrpc": (
        _PAIR,
        "Sentence 1: It rains.\nSentence 2: It is wet.\nQuestion: Do both sentences mean the same thing?\nAnswer:",
        ["no", "yes"],
        1,
    ),
    "qnli": (
        {"question": "Who {is} it?", "sentence": "Nobody.", "label": 1},
        "Who {is} it?\nNobody.\nQuestion: Does this response answer the question?\nAnswer:",
        ["yes", "no"],
        1,
    ),
    "qqp": (
        {"question1": "Who?", "question2": "What?", "label": 0},
        "Question 1: Who?\nQuestion 2: What?\nQuestion: Do both questions ask the same thing?\nAnswer:",
        ["no", "yes"],
        0,
    ),
    "sst2": (
        {"sentence": "a fine film .", "label": 1},
        "a fine film .\nQuestion: Is this sentence positive or negative?\nAnswer:",
        ["negative", "positive"],
        1,
    ),
    "blimp": (
        {"sentence_good": "They sing.", "sentence_bad": "They sings.", "UID": "x"},
        "",
        ["They sing.", "They sings."],
        0,
    ),
}

ASKED = {
    "asdiv": (
        {"body": "Two birds sat,", "question": "how many?", "answer": "2 (birds)"},
        "Two birds sat,\nQuestion:how many?\nAnswer:",
        ["2"],
    ),
    "webqs": (
        {"question": "where is it?", "answers": ["New York City", "Maine", "New York"]},
        "Question: where is it?\nAnswer:",
        ["Maine", "New York"],  # who says New York City has said New York
    ),
    "triviaqa": (
        {"question": "Who wrote it", "answer": {"value": "Ann", "aliases": ["Ann Lee", "A. Lee"]}},
        "Question: Who wrote it?\nAnswer:",
        ["Ann Lee", "A. Lee"],
    ),
}


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


@pytest.fixture
def ask(tmp_path, write_jsonl, prompts):
    """The items of a task over rows that the test gives."""

    def items(name, *rows, config="", split="", shots=None):
        where = BENCHMARKS.get(name) or QUIZZES[name]
        write_jsonl(tmp_path, where.dataset, config or where.config, split or where.split, list(rows))
        return with_shots(TASKS[name], shots).items(DirectorySource(tmp_path), Selection(), prompts)

    return items


def likelihoods(*values, greedy=()):
    return [LikelihoodResponse(value, 2, number in greedy) for number, value in enumerate(values)]


@pytest.mark.parametrize("name", CASES)
def test_prompts_and_right_answers(name, ask, prompts):
    row, context, options, right = CASES[name]
    [item] = ask(name, row)
    contexts = context if isinstance(context, list) else [context] * len(options)
    requests = TASKS[name].requests(item, prompts)
    asked = [(prompts.decode(each.context), prompts.decode(each.continuation)) for each in requests]
    pairs = zip(contexts, options, strict=True)
    expected = [(before, f" {option}") for before, option in pairs]
    if context:
        assert asked == expected
    else:  # the token that begins texts stands there alone
        opening = prompts.encoding.opening
        assert [each.context for each in requests] == [opening] * len(options)
        assert len(opening) == 1
        assert [option for _, option in asked] == [option for _, option in expected]
    values = [-5.0] * len(options)
    values[right] = -4.0
    assert TASKS[name].score(item, likelihoods(*values)).score == 1.0
    values[right] = -6.0
    assert TASKS[name].score(item, likelihoods(*values)).score == 0.0


def test_every_row_of_the_scenario_is_tested_here():
    assert CASES.keys() == SCENARIO.keys()
    assert ASKED.keys() == QUIZZES.keys()
    assert {*CASES, *ASKED} <= set(GROUPS["scenario"])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("swag", {"label": 4}, "4 options, of which number 4 is right"),
        ("mathqa", {"options": "a ) 1 , b ) 2"}, "1 options"),
        ("mathqa", {"correct": "f"}, "answer 'f', expected a letter"),
        ("logiqa", {"label": "ab"}, "answer 'ab', expected a letter"),
        ("logiqa", {"options": ["w"]}, "zip"),
        ("copa", {"question": "why"}, "question 'why', expected 'cause' or 'effect'"),
        ("wsc273", {"text": "no pronoun"}, "a text without [MASK]"),
        ("wsc273", {"text": "It ends in [MASK]"}, "before ''"),
        ("wsc273", {"label": 2}, "2 candidates, of which number 2 is right"),
        ("pubmedqa", {"final_decision": "Yes"}, "final_decision 'Yes', expected yes, no, maybe"),
        ("pubmedqa", {"context": {}}, "'contexts'"),
        ("rte", {"label": -1}, "2 options, of which number -1 is right"),
    ],
)
def test_broken_rows_are_named(name, change, message, ask):
    row = CASES[name][0]
    with pytest.raises(DataError) as caught:
        ask(name, row, {**row, **change})
    assert "row 1" in str(caught.value)
    assert message in str(caught.value)


def test_a_pronoun_where_the_hub_says_it_is():
    row = {
        "text": "Ann saw Bea. Her  cat ran.",
        "pronoun": "Her",
        "pronoun_loc": 13,
        "options": ["Ann", "Bea"],
        "label": 1,
    }
    question = wsc273(row)
    assert question.contexts == ("Ann saw Bea. Ann's", "Ann saw Bea. Bea's")
    assert question.options == (" cat ran.", " cat ran.")
    inside = {
        **row,
        "text": "He saw it as the man ran.",
        "pronoun": "the man",
        "pronoun_loc": 13,
        "options": ["The cat", "A dog"],
    }
    assert wsc273(inside).contexts == ("He saw it as the cat", "He saw it as a dog")


def test_paradigms_are_groups_and_those_at_hand_are_read(ask):
    row = CASES["blimp"][0]
    ask("blimp", {**row, "UID": "one"}, config=BLIMP[3])
    items = ask("blimp", {**row, "UID": "two"}, {**row, "UID": "two"}, config=BLIMP[7])
    assert [item.id.split("/")[0] for item in items] == [BLIMP[3], BLIMP[7], BLIMP[7]]
    assert items[0].group != items[1].group == items[2].group


@pytest.mark.parametrize("name", ["blimp", "wsc273"])
def test_what_is_tested_as_a_whole_has_no_examples_to_show(name, ask, tmp_path):
    with pytest.raises(DataError, match=r"2 examples are asked for, and all rows of .* are tested"):
        ask(name, CASES[name][0], shots=2)
    assert "which is what is tested" in TASKS[name].lessons.lacking(DirectorySource(tmp_path)) or name == "wsc273"
    assert TASKS[name].lessons.splits == ()


@pytest.mark.parametrize("name", ASKED)
def test_short_answers_are_asked_literally(name, ask, prompts):
    row, context, answers = ASKED[name]
    [item] = ask(name, row)
    requests = TASKS[name].requests(item, prompts)
    if name == "triviaqa":
        assert [prompts.decode(each.prompt) for each in requests] == [context]
    else:
        asked = [(prompts.decode(each.context), prompts.decode(each.continuation)) for each in requests]
        joint = QUIZZES[name].joint
        assert asked == [(context, joint + answer) for answer in answers]
        assert (joint == "") == (name == "asdiv")  # as in lm-eval's definition
    assert TASKS[name].golds(item) == answers


def test_any_accepted_answer_counts_when_it_is_greedy(ask):
    [item] = ask("webqs", ASKED["webqs"][0])
    task = TASKS["webqs"]
    outcome = task.score(item, likelihoods(-4.0, -1.0, greedy=(1,)))
    assert (outcome.score, outcome.answer, outcome.companions) == (1.0, "1", {"nll": 0.5})
    assert task.score(item, likelihoods(-4.0, -1.0)).score == 0.0
    assert task.score(item, likelihoods(math.nan, -1.0, greedy=(1,))).unscored


@pytest.mark.parametrize(
    ("said", "score"), [(" ann lee", 1.0), ("A Lee", 1.0), ("ANN LEE!", 1.0), ("Ann", 0.0), ("Ann Lee wrote it", 0.0)]
)
def test_an_alias_counts_without_case_and_punctuation(said, score, ask):
    [item] = ask("triviaqa", ASKED["triviaqa"][0])
    outcome = TASKS["triviaqa"].score(item, [GenerateResponse(said, 3, "stop")])
    assert (outcome.score, outcome.companions) == (score, {"capped": 0.0})
    assert TASKS["triviaqa"].score(item, [GenerateResponse(said, 64, "length")]).companions == {"capped": 1.0}


@pytest.mark.parametrize("answers", [[], [" "], ["x", ""]])
def test_a_question_without_an_answer_is_no_question(answers, ask):
    with pytest.raises(DataError, match="line 1: the answers"):
        ask("webqs", {"question": "who?", "answers": answers})


@pytest.mark.parametrize("aliases", ["Ann", [1], None])
def test_letters_of_a_text_are_no_aliases(aliases, ask):
    with pytest.raises(DataError, match=r"line 1: answers .*, expected a list of texts"):
        ask("triviaqa", {"question": "who", "answer": {"aliases": aliases}})


@pytest.mark.parametrize("name", ["swag", "mathqa", "webqs", "triviaqa"])
def test_examples_come_from_train(name, ask, prompts, tmp_path, write_jsonl):
    row, where = (CASES.get(name) or ASKED[name])[0], BENCHMARKS.get(name) or QUIZZES[name]
    shown = [{**row, next(iter(row)): f"SHOT{number}"} for number in range(3)]
    write_jsonl(tmp_path, where.dataset, where.config, "train", shown)
    [item] = ask(name, row, shots=2)
    request = TASKS[name].requests(item, prompts)[0]
    text = prompts.decode(getattr(request, "context", None) or request.prompt)
    assert ["SHOT0" in text, "SHOT1" in text, "SHOT2" in text] == [True, True, False]
    assert text.count("\n\n") == 2


def test_a_set_of_which_the_data_has_another_configuration_is_not_asked(tmp_path, write_jsonl):
    """GLUE without QQP is no reason to ask QQP, nor its probability mass, nor to leave a hole in a study."""
    row = CASES["rte"][0]
    write_jsonl(tmp_path, "nyu-mll/glue", "rte", "validation", [row])
    write_jsonl(tmp_path, "nyu-mll/blimp", BLIMP[5], "train", [CASES["blimp"][0]])
    write_jsonl(tmp_path, "mandarjoshi/trivia_qa", "rc", "validation", [ASKED["triviaqa"][0]])
    data = DirectorySource(tmp_path)
    assert [task.id for task in select_tasks(["scenario"], data)] == ["rte", "blimp"]
    assert [task.id for task in select_tasks(["mass"], data)] == ["mass_rte", "mass_blimp"]
    [part] = study_called("s1").parts(data)
    assert part.tests == ("rte", "blimp")
    assert {"qqp", "sst2", "triviaqa", "hellaswag"} <= set(part.missing)
