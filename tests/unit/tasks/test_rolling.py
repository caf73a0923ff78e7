"""Perplexity and KL tasks: segments, tail dropped, values per segment."""

import math

import numpy as np
import pytest
import torch

from quantgate.core.errors import DataError
from quantgate.core.items import Item
from quantgate.core.progress import Silent
from quantgate.core.requests import RollingResponse
from quantgate.engines.torch.engine import TorchEngine
from quantgate.tasks.base import Selection
from quantgate.tasks.corpora import CORPORA
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.rolling import RollingTask
from quantgate.tasks.table import TASKS
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from tests.conftest import make_model_dir, make_tokenizer
from tests.unit.engines.tiny import collect
from tests.unit.verdict.samples import outcomes, rule


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


def test_a_run_that_reads_part_of_the_corpus_says_so(data, prompts):
    task = RollingTask("perplexity_ptb", "ptb", "ppl", length=10)
    assert "segments of 10 tokens (first 16 without --limit)" in task.protocol
    items = task.items(data, Selection(), prompts)
    assert task.as_asked(items, prompts).startswith("the first 16 of 109 segments of 10 tokens")
    assert task.as_asked(items[:4], prompts).startswith("the first 4 of 109 segments")
    whole = RollingTask("perplexity_ptb_raw", "ptb", "ppl", length=10, max_segments=None, raw=True)
    items = whole.items(data, Selection(), prompts)
    assert len(items) == 109
    assert "segments of 10 tokens (all)" in whole.protocol
    assert whole.as_asked(items, prompts) == "all 109 segments of 10 tokens, as the text was encoded"


def plain(prompts, text):
    return list(prompts.plain(text))


@pytest.mark.parametrize("measure", ["ppl", "kld"])
def test_each_segment_starts_with_the_token_that_the_tokenizer_puts_first(data, measure):
    prompts = Prompts(make_tokenizer("<|im_start|>"), 512, "tiny")
    (first,) = prompts.first
    task = RollingTask("x_ptb", "ptb", measure, length=100)
    items = task.items(data, Selection(), prompts)
    assert [len(item.row["tokens"]) for item in items] == [100] * 11  # 1,099 characters, 99 in each
    assert {item.row["tokens"][0] for item in items} == {first}
    text = [token for item in items for token in item.row["tokens"][1:]]
    assert text == plain(prompts, CORPORA["ptb"].read(data))[: 11 * 99]
    assert task.as_asked(items, prompts).endswith("each behind '<|im_start|>'")


def test_the_raw_form_is_the_text_encoded_once(data):
    prompts = Prompts(make_tokenizer("<|im_start|>"), 512, "tiny")
    task = RollingTask("x_ptb", "ptb", "ppl", length=100, raw=True)
    items = task.items(data, Selection(), prompts)
    text = [token for item in items for token in item.row["tokens"]]
    assert text == [*prompts.first, *plain(prompts, CORPORA["ptb"].read(data))][:1100]


def test_a_tokenizer_that_adds_nothing_keeps_plain_segments(data, prompts):
    usual, raw = (RollingTask("x_ptb", "ptb", "ppl", length=100, raw=raw) for raw in (False, True))
    assert prompts.first == ()
    cuts = [[item.row["tokens"] for item in task.items(data, Selection(), prompts)] for task in (usual, raw)]
    assert cuts[0] == cuts[1]
    assert usual.as_asked(usual.items(data, Selection(), prompts), prompts).endswith("no token put before them")


def test_of_several_first_tokens_none_is_scored(data, prompts):
    item = Item("ptb/0", "ptb/0", {"tokens": [1, 2, 3, 4, 5], "first": 2, "of": 1})
    response = RollingResponse((9.0, 1.0, 2.0, 3.0), (9.0, 1.0, 2.0, 3.0), (0, 1, 1, 1))
    outcome = RollingTask("x_ptb", "ptb", "ppl").score(item, [response])
    assert outcome.score == 2.0
    assert (outcome.companions["kld_mean"], outcome.companions["same_top_p"]) == (2.0, 1.0)


def test_losses_and_their_number_equal_a_plain_loop_on_a_model_with_a_first_token(data, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_model_dir(tmp_path / "model", layers=1, first="<|im_start|>")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    task = RollingTask("perplexity_ptb", "ptb", "ppl", length=100)
    prompts = Prompts(tokenizer, 512, "tiny")
    items = task.items(data, Selection(), prompts)
    requests = [request for item in items for request in task.requests(item, prompts)]
    responses = collect(TorchEngine(model, tokenizer, progress=Silent()), requests)[0]

    ids = tokenizer(CORPORA["ptb"].read(data), add_special_tokens=False).input_ids
    losses = []
    for start in range(0, len(ids) - 98, 99):
        tokens = torch.tensor([[tokenizer.convert_tokens_to_ids("<|im_start|>"), *ids[start : start + 99]]])
        with torch.no_grad():
            losses.append(float(model(input_ids=tokens, labels=tokens).loss))
    assert [len(response.nll) for response in responses] == [99] * len(losses)
    scores = [task.score(item, [response]).score for item, response in zip(items, responses, strict=True)]
    assert scores == pytest.approx(losses, abs=1e-4)


def test_behind_an_empty_context_stands_the_first_token():
    prompts = Prompts(make_tokenizer("<|im_start|>"), 512, "tiny")
    request = prompts.pair("", "ab")
    assert (request.context, request.continuation) == (prompts.first, prompts.plain("ab"))


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


def test_a_segment_has_one_block_of_guessing_at_stake():
    """10 nats on 512 tokens are 2.5 nats in a mean of 2,048, and 10 in a mean of 512 or fewer."""
    assert [RollingTask("p", "ptb", "ppl", length=n).metric.stake for n in (2048, 1024, 512, 64)] == [2.5, 5, 10, 10]
    assert RollingTask("k", "ptb", "kld").metric.stake == 2.5
    assert RollingTask("p", "ptb", "ppl").metric_in(1024).stake == 5  # a context of 1,024 makes segments of 1,024


def test_the_whole_of_wikitext_passes_an_8_bit_model_and_16_segments_do_not():
    """140 segments, losses of 0.01 nats a token (1% of perplexity), 0.02 of noise a segment; the shipped margin: 8%."""
    rng = np.random.default_rng(5)
    metric = TASKS["perplexity_wikitext2_raw"].metric
    found = {16: [], 140: []}
    for n, verdicts in found.items():
        for _ in range(40):
            base = 3 + 0.3 * rng.normal(size=n)
            compared = compare(outcomes(base), outcomes(base + 0.01 + 0.02 * rng.normal(size=n)), metric, 0.95)
            verdicts.append(judge(compared, rule(0.08, metric, "relative")).verdict)
    assert set(found[16]) == {"inconclusive"}
    assert found[140].count("pass") >= 38
