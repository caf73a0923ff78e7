"""Correlations: published cells replayed, intervals against simulation, and what has no correlation."""

import math

import numpy as np
import pytest
from scipy import stats

from quantgate.studies.proxy import correlate, proxies
from tests.unit.studies.paper_a import (
    CORPORA,
    MEANS,
    PERPLEXITY,
    PUBLISHED_PAIRS,
    PUBLISHED_R,
    SCORES,
    result,
)

NAMES = [f"{method}-w{bits} of {size}" for size, bits, method in CORPORA]


@pytest.mark.parametrize("task", PUBLISHED_R)
def test_replay_of_the_published_correlations(task):
    found = correlate(PERPLEXITY, SCORES[task], "pearson")
    assert found.n == 12
    assert found.value == pytest.approx(PUBLISHED_R[task], abs=0.02)
    assert found.low < PUBLISHED_R[task] < found.high
    assert math.copysign(1, correlate(PERPLEXITY, SCORES[task], "spearman").value) == math.copysign(1, found.value)


@pytest.mark.parametrize("pair", PUBLISHED_PAIRS)
def test_replay_of_the_published_correlations_whose_cells_are_printed_as_means_of_two(pair):
    """The correlation with a mean of two is stronger than the mean of both, weighted by their spreads."""
    found = correlate(PERPLEXITY, MEANS[pair], "pearson").value
    weakest, strongest = max(PUBLISHED_PAIRS[pair]), min(PUBLISHED_PAIRS[pair])
    assert strongest - 0.06 < found < weakest - 0.02
    both = np.array(PUBLISHED_PAIRS[pair])
    assert found < both.mean() + 0.02


def test_eighteen_correlations_were_published_and_their_mean_strength():
    every = [*PUBLISHED_R.values(), *(r for pair in PUBLISHED_PAIRS.values() for r in pair)]
    assert len(every) == 18
    assert sum(map(abs, every)) / 18 == pytest.approx(0.7895, abs=5e-5)


def papers_run(form="", further=()):
    """The twelve rows as results of a run, the reference and 8 and 2 bits beside them."""
    results = []
    for at, (name, cells) in enumerate(zip(NAMES, CORPORA.values(), strict=True)):
        for corpus, value in zip(("wikitext2", "c4", "ptb"), cells, strict=True):
            results.append(result(name, f"perplexity_{corpus}{form}", value, "ppl", reference=5.0))
        results += [result(name, task, SCORES[task][at], reference=99.0) for task in SCORES]
    for name in further:
        results += [result(name, f"perplexity_{corpus}{form}", 9e4, "ppl") for corpus in ("wikitext2", "c4", "ptb")]
        results += [result(name, task, 50.0) for task in SCORES]
    return results


def bits_of(names):
    return {name: int(name.partition("-w")[2][0]) for name in names}


@pytest.mark.parametrize("form", ["", "_raw"])
def test_a_run_takes_the_papers_rows_by_default_and_gets_its_correlations(form):
    others = ("gptq-w8 of 7B", "gptq-w2 of 7B")
    found = proxies(papers_run(form, others), bits_of([*NAMES, *others]))
    assert {each.scope for each in found} == {
        "as in paper A: subjects of 3 and 4 bits, mean perplexity of three corpora"
    }
    assert {each.proxy for each in found} == {f"mean of wikitext2{form}, ptb{form}, c4{form}"}
    assert {each.task: each.pearson.n for each in found} == dict.fromkeys(SCORES, 12)
    for each in found:
        assert each.pearson.value == pytest.approx(PUBLISHED_R[each.task], abs=0.02)


def test_a_run_without_the_papers_rows_says_so():
    few = proxies([each for each in papers_run() if not each.task.endswith("c4")], bits_of(NAMES))
    assert few[0].scope == "not paper A's rows: each text by itself, because not all of wikitext2, ptb, c4 were read"
    assert {each.proxy for each in few} == {"perplexity_wikitext2", "perplexity_ptb"}
    assert few[0].pearson.n == 12
    unknown = proxies(papers_run())
    assert unknown[0].scope == "not paper A's rows: all subjects, of any bits, because only 0 have 3 or 4"
    assert unknown[0].pearson.n == 13  # the reference is a subject too
    assert unknown[0].as_record()["scope"] == unknown[0].scope


def test_pearson_by_its_formula_and_scipys_interval():
    x, y = np.array([1.0, 2, 4, 7, 8]), np.array([2.0, 1, 5, 6, 9])
    found = correlate(x, y, "pearson", 0.9)
    a, b = x - x.mean(), y - y.mean()
    assert found.value == pytest.approx((a @ b) / math.sqrt((a @ a) * (b @ b)))
    interval = stats.pearsonr(x, y).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_spearman_sees_order_only_and_its_interval_covers():
    assert correlate([1, 2, 3, 4, 5], [1, 8, 27, 64, 1000], "spearman").value == pytest.approx(1)
    draw, hits, true = np.random.default_rng(1), 0, 6 / math.pi * math.asin(0.6 / 2)
    for _ in range(300):
        x = draw.normal(size=30)
        found = correlate(x, 0.6 * x + 0.8 * draw.normal(size=30), "spearman")
        hits += found.low <= true <= found.high
    assert 0.91 <= hits / 300 <= 0.98
    half = 1.959964 * math.sqrt((1 + found.value**2 / 2) / 27)  # Bonett and Wright (2000)
    assert found.high == pytest.approx(math.tanh(math.atanh(found.value) + half))


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ([1, 2, 3], [1, 2, 3], "3 subjects"),
        ([1, 2, 3, math.nan], [1, 2, 3, 4], "3 subjects"),
        ([1, 2, 3, 4], [5, 5, 5, 5], "never varies"),
        ([1, 2, 3, 4, math.inf], [5, 5, 5, 5, 1], "never varies"),
    ],
)
def test_undefined_is_said_and_is_no_number(x, y, why):
    found = correlate(x, y, "pearson")
    assert math.isnan(found.value)
    assert why in found.undefined


def test_perfect_correlation_has_no_width():
    found = correlate([1, 2, 3, 4], [-2, -4, -6, -8], "pearson")
    assert (found.value, found.low, found.high) == pytest.approx((-1, -1, -1))


def test_a_run_gives_every_proxy_with_every_benchmark_over_shared_subjects():
    methods = {"a": (11.0, 0.5), "b": (12.0, 0.4), "c": (15.0, 0.3), "d": (30.0, 0.1)}
    results = []
    for name, (ppl, score) in methods.items():
        results.append(result(name, "perplexity_prose", ppl, "ppl", reference=10.0))
        results.append(result(name, "kld_prose", ppl / 10, "kld_mean", reference=0.0))
        results.append(result(name, "mmlu", score, reference=0.6))
    results.append(result("a", "rare", 1.0))
    found = {(each.proxy, each.task): each for each in proxies(results)}
    assert set(found) == {(p, t) for p in ("perplexity_prose", "kld_prose") for t in ("mmlu", "rare")}
    both = found["perplexity_prose", "mmlu"]
    assert both.pearson.n == 5  # four methods and the reference
    assert both.pearson.value == pytest.approx(np.corrcoef([10, 11, 12, 15, 30], [0.6, 0.5, 0.4, 0.3, 0.1])[0, 1])
    assert both.spearman.value == pytest.approx(-1)
    assert found["kld_prose", "rare"].pearson.undefined
