"""SNLI: the paper's first-occurrence rule and the strict one on hand-written answers; prompts; labels."""

import math

import pytest

from quantgate.core.errors import DataError
from quantgate.core.requests import GenerateResponse, LikelihoodResponse
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.snli import Snli, SnliLikelihood, first_occurrence, one_label


@pytest.mark.parametrize(
    ("answer", "paper", "strict"),
    [
        ("Yes", "yes", "yes"),
        ("yes.", "yes", "yes"),
        ("No, it does not.", "no", "no"),
        ("Maybe", "maybe", "maybe"),
        ("MAYBE!", "maybe", "maybe"),
        ("  \n No", "no", "no"),
        ("(no)", "no", "no"),
        ('"Yes"', "yes", "yes"),
        ("**Maybe**", "maybe", "maybe"),
        ("Yes, yes, yes", "yes", "yes"),
        ("The answer is: no", "no", "no"),
        ("The answer is no-one's business", "no", "no"),
        ("It does not, so no", "", "no"),  # "no" first occurs inside "not"
        ("Nobody is there. No.", "", "no"),  # and inside "nobody"
        ("I know: no", "", "no"),  # and inside "know"
        ("Another way to say it: no", "", "no"),
        ("yesterday he said yes", "", "yes"),
        ("eyes open, yes", "", "yes"),
        ("Yes, no, or maybe?", "yes+maybe+no", ""),
        ("Yes or no", "yes+no", ""),
        ("Maybe. Then again, no.", "maybe+no", ""),
        ("No... maybe", "maybe+no", ""),
        ("No. It cannot be known.", "no", "no"),
        ("It cannot be known. No.", "", "no"),
        ("maybe2", "", ""),
        ("no_", "no", ""),  # an underscore is punctuation to the paper, a letter of the word to the strict rule
        ("“No”", "no", "no"),  # curly quotation marks and dashes are punctuation
        ("Yes—it does", "yes", "yes"),
        ("yes。", "yes", "yes"),
        ("\u00a0maybe\u3000", "maybe", "maybe"),
        ("≈no", "", "no"),  # a mathematical sign is none
        ("Nein", "", ""),
        ("Probably", "", ""),
        ("是", "", ""),
        ("yes是", "", ""),
        ("", "", ""),
        ("Y e s", "", ""),
        ("It is possible, but not stated.", "", ""),
        ("The premise implies it; therefore yes", "yes", "yes"),
    ],
)
def test_rules(answer, paper, strict):
    assert "+".join(first_occurrence(answer)) == paper
    assert "+".join(one_label(answer)) == strict


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


def source(tmp_path, write_jsonl, *rows):
    named = [dict(zip(("premise", "hypothesis", "label"), row, strict=True)) for row in rows]
    write_jsonl(tmp_path, "stanfordnlp/snli", "plain_text", "test", named)
    return DirectorySource(tmp_path)


def said(text):
    return [GenerateResponse(text, 3, "eos")]


def test_prompt_is_literal_and_both_rules_ask_the_same(tmp_path, write_jsonl, prompts):
    data = source(tmp_path, write_jsonl, ("A dog runs.", "An animal moves.", 0))
    [item] = Snli().items(data, Selection(), prompts)
    [request] = Snli().requests(item, prompts)
    assert prompts.decode(request.prompt) == (
        "<|im_start|>user\nA dog runs.\n\n"
        'Question: Does this imply that "An animal moves."? Yes, no, or maybe?<|im_end|>\n<|im_start|>assistant\n'
    )
    assert Snli("snli_strict", "one_label").requests(item, prompts) == [request]


def test_labels_are_yes_maybe_no_and_rows_without_gold_are_left_out(tmp_path, write_jsonl, prompts):
    data = source(tmp_path, write_jsonl, ("a", "x", 2), ("a", "y", -1), ("b", "z", 0), ("a", "w", 1))
    items = Snli().items(data, Selection(), prompts)
    assert [(item.id, item.group) for item in items] == [
        ("test/0", "premise/0"), ("test/2", "premise/1"), ("test/3", "premise/0"),
    ]  # fmt: skip
    words = ["no", "yes", "maybe"]
    assert [Snli().score(item, said(word)).score for item, word in zip(items, words, strict=True)] == [1.0, 1.0, 1.0]
    assert Snli().score(items[0], said("yes")).score == 0.0
    assert Snli().score(items[0], said("yes, no")).answer == "yes+no"
    assert Snli().score(items[0], said("yes, no")).score == 1.0  # the paper's rule, on purpose
    assert Snli("snli_strict", "one_label").score(items[0], said("yes, no")).score == 0.0


@pytest.mark.parametrize("label", [3, -2])
def test_an_unknown_label_is_refused_with_its_line(tmp_path, write_jsonl, prompts, label):
    data = source(tmp_path, write_jsonl, ("a", "x", 0), ("a", "y", label))
    with pytest.raises(DataError, match=rf"stanfordnlp/snli/plain_text/test in .*, line 2: field 'label' is {label}"):
        Snli().items(data, Selection(), prompts)


def test_likelihood_variant(tmp_path, write_jsonl, prompts):
    data = source(tmp_path, write_jsonl, ("a", "x", 1))
    task = SnliLikelihood()
    [item] = task.items(data, Selection(), prompts)
    assert [prompts.decode(each.continuation) for each in task.requests(item, prompts)] == ["Yes", "Maybe", "No"]
    answers = [LikelihoodResponse(total, count, False) for total, count in ((-2.0, 1), (-5.0, 5), (-3.0, 2))]
    outcome = task.score(item, answers)
    assert (outcome.score, outcome.answer) == (1.0, "maybe")
    assert outcome.companions["prob_right"] == pytest.approx(
        math.exp(-1) / (math.exp(-1) + math.exp(-2) + math.exp(-1.5))
    )
