"""Scores of free answers stay within what their definitions allow, whatever a model says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantgate.scoring.requests import GenerateResponse
from quantgate.tasks.base import Item
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
