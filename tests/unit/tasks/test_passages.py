"""DROP and SQuAD 2: literal prompts, and scores by their authors' rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantgate.core.errors import DataError
from quantgate.core.requests import GenerateResponse
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.items import with_shots
from quantgate.tasks.passages import PASSAGES, drop_golds, drop_score, drop_words
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.table import TASKS

DROP = {"passage": "Ann scored 3 goals. Bob scored 5.", "question": "Who scored more?", "answers": ["Bob", "Bob Lee"]}
SQUAD = {
    "title": "Tea",
    "context": "Tea is a leaf.",
    "question": "What is tea?",
    "answers": {"text": ["a leaf", "leaf", "a leaf"], "answer_start": [7, 9, 7]},
}
NONE = {**SQUAD, "question": "What is coffee?", "answers": {"text": [], "answer_start": []}}
ROWS = {"drop": DROP, "squad2": SQUAD}


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 4096, "tiny")


@pytest.fixture
def ask(tmp_path, write_jsonl, prompts):
    def asked(name, *rows, shots=0):
        place = PASSAGES[name.removesuffix("_f1")]
        write_jsonl(tmp_path, place.dataset, place.config, place.split, rows)
        return with_shots(TASKS[name], shots).items(DirectorySource(tmp_path), Selection(), prompts)

    return asked


def scored(name, item, said, finish="stop"):
    return TASKS[name].score(item, [GenerateResponse(said, 3, finish)])


@pytest.mark.parametrize(
    ("name", "prompt", "stops", "golds"),
    [
        ("drop", "Ann scored 3 goals. Bob scored 5. Who scored more?", (".",), ["Bob", "Bob Lee"]),
        (
            "squad2",
            "Title: Tea\n\nBackground: Tea is a leaf.\n\nQuestion: What is tea?\n\nAnswer:",
            ("\n",),
            ["a leaf", "leaf"],
        ),
    ],
)
def test_they_are_asked_literally(name, prompt, stops, golds, ask, prompts):
    [item] = ask(name, ROWS[name])
    [request] = TASKS[name].requests(item, prompts)
    assert (prompts.decode(request.prompt), request.stop) == (prompt, stops)
    assert TASKS[name].requests(item, prompts) == TASKS[f"{name}_f1"].requests(item, prompts)
    assert TASKS[name].golds(item) == golds


def test_rows_of_one_passage_are_one_cluster(ask):
    other = {**SQUAD, "context": "Milk is white."}
    items = ask("squad2", SQUAD, NONE, other)
    assert [item.group for item in items] == [SQUAD["context"], SQUAD["context"], "Milk is white."]


def test_examples_come_from_train_with_their_first_answer(ask, prompts, tmp_path, write_jsonl):
    write_jsonl(tmp_path, "rajpurkar/squad_v2", "squad_v2", "train", [SQUAD, NONE])
    [item] = ask("squad2", {**SQUAD, "question": "Is it?"}, shots=2)
    [request] = TASKS["squad2"].requests(item, prompts)
    text = prompts.decode(request.prompt)
    assert text.count("Answer: a leaf\n\nTitle") == text.count("Answer: unanswerable\n\nTitle") == 1


@pytest.mark.parametrize(
    ("said", "exact", "f1"),
    [
        ("Bob", 1.0, 1.0),
        ("the BOB!", 1.0, 1.0),
        ("Bob Lee", 1.0, 1.0),
        ("Bob scored more", 0.0, 0.5),
        ("Ann", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_the_best_accepted_answer_counts_in_drop(said, exact, f1, ask):
    [item] = ask("drop", DROP)
    assert scored("drop", item, said).score == exact
    outcome = scored("drop_f1", item, said, "length")
    assert outcome.score == f1
    assert outcome.companions == {"exact": exact, "capped": 1.0}


@pytest.mark.parametrize(
    ("said", "gold", "exact", "f1"),
    [
        ("3.0", ("3",), 1.0, 1.0),
        ("3 yards", ("3",), 0.0, 0.67),
        ("4 yards", ("3 yards",), 0.0, 0.0),  # another number: no word counts
        ("22-yard", ("22 yard",), 1.0, 1.0),
        ("1,000", ("1000",), 1.0, 1.0),
        ("red blue", ("red", "blue"), 0.0, 0.33),  # one span answers one of two
        ("", ("the",), 1.0, 1.0),
        ("12 May", ("12 May 1920",), 0.0, 0.8),
    ],
)
def test_drops_rules_by_hand(said, gold, exact, f1):
    assert drop_score(said, [gold]) == (exact, f1)


@given(st.lists(st.sampled_from(["a", "The", "3", "3.50", "x-y", "J.", "nan", "1e3", "!", "Bob"]), max_size=6))
def test_the_normal_form_is_one(words):
    """What is normal stays so, and what is accepted is an exact answer to itself."""
    text = " ".join(words)
    assert drop_words(drop_words(text)) == drop_words(text)
    assert drop_score(text, [(text,)])[0] == 1.0


ANNOTATED = {
    **{"passage": "p", "question": "q"},
    "answer": {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": ["red", "blue"]},
    "validated_answers": {
        "number": ["7", "", ""],
        "date": [{"day": "", "month": "", "year": ""}] * 2 + [{"day": "2", "month": "May", "year": ""}],
        "spans": [[], ["red", "blue"], []],
    },
}


def test_accepted_answers_of_every_form():
    assert drop_golds(ANNOTATED) == [("red", "blue"), ("7",), ("2 May",)]
    assert drop_golds({"answers": ["7", "7", " "]}) == [("7",)]
    assert drop_golds({"answers_spans": {"spans": ["7", "seven"]}}) == [("7",), ("seven",)]


@pytest.mark.parametrize(
    ("row", "said", "exact", "f1"),
    [
        (SQUAD, "A leaf.", 1.0, 1.0),
        (SQUAD, "green leaf", 0.0, 2 / 3),
        (SQUAD, "unanswerable", 0.0, 0.0),
        (NONE, "unanswerable", 1.0, 1.0),
        (NONE, "", 1.0, 1.0),
        (NONE, "a leaf", 0.0, 0.0),
    ],
)
def test_no_answer_is_an_answer_in_squad2(row, said, exact, f1, ask):
    [item] = ask("squad2", row)
    assert scored("squad2", item, said).score == exact
    assert scored("squad2_f1", item, said).score == pytest.approx(f1)


@pytest.mark.parametrize(
    "broken",
    [
        {"answers": []}, {"answers": [" "]}, {"answers_spans": {}}, {"answer": {}}, {"answers": "83"},
        {"answers": [83]}, {"answers_spans": {"spans": "83"}}, {"answer": {"number": "", "spans": "red"}},
    ],
)  # fmt: skip
def test_a_row_without_an_answer_is_named(broken, ask):
    row = {"passage": "p", "question": "q", **broken}
    with pytest.raises(DataError, match="line 1"):
        ask("drop", row)


def test_letters_of_a_text_are_no_answers_of_squad2(ask):
    with pytest.raises(DataError, match=r"line 1: answers 'a leaf', expected a list of texts"):
        ask("squad2", {**SQUAD, "answers": {"text": "a leaf"}})
