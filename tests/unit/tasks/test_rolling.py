"""Perplexity and KL tasks: segments, tail dropped, values per segment."""

import math

import pytest

from quantgate.errors import DataError
from quantgate.scoring.requests import RollingResponse
from quantgate.tasks.base import Selection
from quantgate.tasks.corpora import CORPORA
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.rolling import RollingTask


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


@pytest.fixture
def data(tmp_path, write_jsonl):
    write_jsonl(tmp_path, "ptb-text-only/ptb_text_only", "penn_treebank", "test", [{"sentence": "x" * 99}] * 11)
    return DirectorySource(tmp_path)


def test_segments_do_not_overlap_and_the_tail_is_dropped(data, prompts):
    task = RollingTask("perplexity_ptb", "ptb", "ppl", length=100)
    items = task.items(data, Selection(), prompts)
    text = CORPORA["ptb"].read(data)
    assert len(text) == 1099
    assert len(items) == 10
    assert "".join(prompts.decode(item.row["tokens"]) for item in items) == text[:1000]


def test_segments_never_exceed_the_context(data, prompts):
    items = RollingTask("perplexity_ptb", "ptb", "ppl", length=2048).items(data, Selection(), prompts)
    assert {len(item.row["tokens"]) for item in items} == {512}


def test_limit_counts_segments(data, prompts):
    task = RollingTask("perplexity_ptb", "ptb", "ppl", length=10)
    assert len(task.items(data, Selection(limit=3), prompts)) == 3
    assert len(task.items(data, Selection(), prompts)) == task.max_segments
    assert len(task.items(data, Selection(limit=50), prompts)) == 50


def test_too_little_text(data, prompts):
    with pytest.raises(DataError, match="corpus 'ptb': 1099 tokens; expected at least 2000"):
        RollingTask("perplexity_ptb", "ptb", "ppl", length=2000).items(data, Selection(), Prompts(None_(), 4096, "t"))


class None_:
    def __call__(self, text, **kwargs):
        return type("Encoded", (), {"input_ids": list(range(len(text)))})()


def test_a_uniform_model_has_the_vocabulary_size_as_perplexity(data, prompts):
    task = RollingTask("perplexity_ptb", "ptb", "ppl", length=100)
    response = RollingResponse(tuple([math.log(320)] * 99))
    outcomes = [task.score(item, [response]) for item in task.items(data, Selection(), prompts)]
    assert task.metric.value([outcome.score for outcome in outcomes]) == pytest.approx(320)


def test_fidelity_numbers(data, prompts):
    task = RollingTask("kld_ptb", "ptb", "kld", length=100)
    item = task.items(data, Selection(), prompts)[0]
    kld = tuple(float(index) for index in range(100))
    outcome = task.score(item, [RollingResponse(tuple([1.0] * 100), kld, tuple([1, 0] * 50))])
    assert outcome.score == pytest.approx(49.5)
    assert outcome.companions["kld_p99"] == 98.0
    assert outcome.companions["same_top_p"] == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite_losses_are_unscored(data, prompts, bad):
    task = RollingTask("perplexity_ptb", "ptb", "ppl", length=100)
    item = task.items(data, Selection(), prompts)[0]
    assert "not finite" in task.score(item, [RollingResponse((1.0, bad))]).unscored


@pytest.mark.parametrize("name", ["prose", "code"])
def test_texts_that_every_cpython_carries(name):
    text = CORPORA[name].read(DirectorySource(None))
    assert len(text) > 300_000
    assert text == CORPORA[name].read(DirectorySource(None))
