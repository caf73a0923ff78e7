"""Scores of free answers stay within what their definitions allow, whatever a model says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantgate.core.items import Item
from quantgate.core.requests import GenerateResponse
from quantgate.tasks.bbq import bias_score
from quantgate.tasks.flores import corpus_bleu, sentence_facts
from quantgate.tasks.followbench import FollowBench
from quantgate.tasks.gsm8k import any_number, first_occurrence, last_number
from quantgate.tasks.snli import WORDS, one_label
from quantgate.tasks.snli import first_occurrence as snli_paper
from quantgate.tasks.summaries import rouge

words = st.sampled_from(
    ["yes", "no", "maybe", "not", "We", "activations", "transformer", "12", "-3.5", ".", "!", ",", "\n", "水"]
)
answers = st.lists(words, max_size=25).map(" ".join) | st.text(max_size=60)


def group(category: str, source: str) -> Item:
    levels = [{"level": n, "instruction": f"Do {n}.", "target": f"['{n}']"} for n in range(1, 6)]
    row = {"category": category, "source": source, "example_id": 30, "levels": levels}
    return Item("x/train/30", category, row)


@given(st.lists(answers, min_size=5, max_size=5), st.sampled_from(["arxiv", "gigaword", "xsum", "samsum"]))
@settings(max_examples=60, deadline=None)
def test_followbench_measures(texts: list[str], source: str) -> None:
    for category in ("mixed", "format", "example"):
        said = [GenerateResponse(text, 1, "eos") for text in texts]
        found = FollowBench().score(group(category, source), said).companions
        assert 0 <= found["hsr"] <= found["ssr"] <= 1
        assert found["csl"] in range(6)
        assert found["csl"] / 5 <= found["hsr"]
        assert found["hsr"] == pytest.approx(sum(found[f"hsr_{n}"] for n in range(1, 6)) / 5)


@given(answers)
@settings(deadline=None)
def test_snli_rules(text: str) -> None:
    assert set(snli_paper(text)) <= {word for word in WORDS if word in text.lower()}
    assert len(one_label(text)) <= 1
    assert all(word in text.lower() for word in one_label(text))


@given(answers, st.integers(-50, 5000))
@settings(deadline=None)
def test_a_number_that_stands_apart_is_found(text: str, gold: int) -> None:
    assert any_number(f"{text} {gold} {text}", str(gold))[1]
    assert last_number(f"{text} {gold} .", str(gold))[1]
    assert first_occurrence(f"It is {gold} .", str(gold))[1]


def papers_numbers(text: str) -> list[float]:
    """Paper A's ``get_acc_new`` read as a rule, by hand: every number that starts where the last one ended or later.

    A number is an optional sign; a whole part (one to three digits, the first not 0, and groups of a comma and three
    digits, as many as can be; or any run of digits, also none); a fraction (a point and any run of digits, also none);
    and no digit behind it. Its first digit is an ASCII one. Longer readings come first.
    """
    found, at = [], 0
    while at < len(text):
        start = at + (text[at] in "+-")
        end = number_end(text, start) if starts_a_number(text, start) else 0
        if end:
            found.append(float(text[at:end].replace(",", "")))
        at = end or at + 1
    return found


def starts_a_number(text: str, at: int) -> bool:
    digits = "0123456789"
    return text[at : at + 1] != "" and (
        text[at] in digits or (text[at] == "." and text[at + 1 : at + 2] != "" and text[at + 1] in digits)
    )


def is_digits(text: str, at: int, count: int) -> bool:
    piece = text[at : at + count]
    return len(piece) == count and all(char.isdecimal() for char in piece)


def run_of_digits(text: str, at: int) -> int:
    count = 0
    while is_digits(text, at + count, 1):
        count += 1
    return count


def number_end(text: str, at: int) -> int:
    wholes = []
    if text[at] in "123456789":
        for more in (2, 1, 0):
            if is_digits(text, at + 1, more):
                ends = [at + 1 + more]
                while text[ends[-1] : ends[-1] + 1] == "," and is_digits(text, ends[-1] + 1, 3):
                    ends.append(ends[-1] + 4)
                wholes += ends[::-1]
    wholes += [at + count for count in range(run_of_digits(text, at), -1, -1)]
    for whole in wholes:
        fractions = []
        if text[whole : whole + 1] == ".":
            fractions = [whole + 1 + count for count in range(run_of_digits(text, whole + 1), -1, -1)]
        for end in (*fractions, whole):
            if end > at and not is_digits(text, end, 1):
                return end
    return 0


numerals = st.text("0123456789.,+-$ x\uff15\uff10\u0663", max_size=14)


@given(
    numerals, st.sampled_from(["0", "5", "50", "0.5", "-5", "1234", "12.5", "123"]) | st.integers(-99, 9999).map(str)
)
@settings(max_examples=400, deadline=None)
def test_any_number_is_the_papers_rule_and_nothing_else(text: str, gold: str) -> None:
    for said in (text, f"{text}{gold}", f"{gold}{text}", f"{text} {gold}.{text}"):
        numbers = papers_numbers(said)
        assert any_number(said, gold)[1] is any(abs(number - float(gold)) <= 1e-4 for number in numbers)


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 3), min_size=11, max_size=11))
@settings(deadline=None)
def test_bias_scores(cells: list[tuple[int, int, int]]) -> None:
    """Any counts with biased <= answered and right + answered-wrongly <= items."""
    rows = [(right + answered + biased, right, answered + biased, biased) for right, answered, biased in cells]
    facts = np.array(rows, dtype=np.float64).ravel()
    ambiguous, disambiguated = bias_score("ambiguous", facts), bias_score("disambiguated", facts)
    assert -100 <= disambiguated <= 100
    assert -100 <= ambiguous <= 100
    flipped = np.array(
        [(n, right, answered, answered - biased) for n, right, answered, biased in rows], dtype=np.float64
    )
    assert bias_score("disambiguated", flipped.ravel()) == pytest.approx(-disambiguated)


@given(answers, answers)
@settings(max_examples=60, deadline=None)
def test_rouge_and_bleu(one: str, other: str) -> None:
    assert all(0 <= value <= 1 for value in rouge(one, other).values())
    score, facts = sentence_facts(one, other, "13a")
    assert 0 <= score <= 100 + 1e-9
    assert len(facts) == 10
    assert 0 <= corpus_bleu(np.array(facts)) <= 100 + 1e-9
