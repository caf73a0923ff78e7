"""Corpus metrics: the value comes from summed facts, the interval from a paired bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY, Metric
from quantgate.verdict.corpus import corpus_interval
from quantgate.verdict.exact import Resampling, bootstrap_difference
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from quantgate.verdict.power import p_values
from tests.unit.verdict.samples import rule


def ratio(facts: np.ndarray) -> float:
    return float(facts[0] / facts[1])


RATIO = Metric("ratio", True, "corpus", aggregate=ratio)


def with_facts(rows, groups=None):
    """An outcome per row (hits, tries); its score is its own ratio."""
    return [
        ItemOutcome(f"item/{n}", groups[n] if groups else f"item/{n}", hits / tries, facts=(float(hits), float(tries)))
        for n, (hits, tries) in enumerate(rows)
    ]


def drawn(seed, n, share=0.6, loss=0.0):
    """Reference and subject hits out of 5 to 14 tries an item; the subject answers most of it the same way."""
    rng = np.random.default_rng(seed)
    tries = rng.integers(5, 15, n)
    before = rng.binomial(tries, share)
    after = before - rng.binomial(before, loss)
    return np.stack([before, tries], axis=1), np.stack([after, tries], axis=1)


def test_a_metric_has_an_aggregate_exactly_when_it_is_of_the_corpus_kind() -> None:
    with pytest.raises(ValueError, match="aggregate"):
        Metric("bleu", True, "corpus")
    with pytest.raises(ValueError, match="aggregate"):
        Metric("acc", True, "mean", aggregate=lambda facts: 0.0)


def test_value_is_the_aggregate_of_the_sums_and_not_a_mean_of_scores() -> None:
    before, after = with_facts([(1, 2), (9, 10), (0, 8)]), with_facts([(1, 2), (8, 10), (0, 8)])
    found = compare(before, after, RATIO, 0.95)
    assert (found.reference, found.value) == (10 / 20, 9 / 20)
    assert (found.items_worse, found.items_better) == (1, 0)
    assert RATIO.of([]) is math.nan or math.isnan(RATIO.of([]))
    assert ACCURACY.of(before) == pytest.approx((0.5 + 0.9) / 3)


def test_order_does_not_matter_and_the_seed_is_fixed() -> None:
    rows, worse = drawn(1, 40, loss=0.1)
    one = compare(with_facts(rows), with_facts(worse), RATIO, 0.95)
    assert one == compare(with_facts(rows)[::-1], with_facts(worse), RATIO, 0.95)


@pytest.mark.parametrize("n", [12, 60])
def test_a_mean_as_a_corpus_metric_gets_nearly_the_t_interval(n: int) -> None:
    """With 12 items the bootstrap's own interval would have three quarters of its width."""
    scores = np.random.default_rng(4).normal(0.5, 0.1, (2, n))
    mean = Metric("mean", True, "corpus", aggregate=lambda facts: float(facts[0] / facts[1]))
    plain = Metric("mean", True, "mean")
    sides = [
        [ItemOutcome(f"{n:02d}", f"{n:02d}", s, facts=(s, 1.0)) for n, s in enumerate(each.tolist())] for each in scores
    ]
    resampled, by_t = (compare(*sides, metric, 0.95) for metric in (mean, plain))
    assert resampled.delta == pytest.approx(by_t.delta)
    width, width_by_t = resampled.ci_high - resampled.ci_low, by_t.ci_high - by_t.ci_low
    assert 0.85 * width_by_t < width < 1.12 * width_by_t


def test_both_arms_are_as_long_as_the_longer_one() -> None:
    hits = np.zeros((200, 2))
    hits[:, 1] = 1
    worse = hits.copy()
    worse[:2, 0] = (30, 20)  # two items carry all of the difference
    difference, low, high = bootstrap_difference(
        hits, worse, ratio, np.arange(200), Resampling(np.random.default_rng(0))
    )
    found = corpus_interval(hits, worse, ratio, np.arange(200), 0.95)
    longer, shorter = sorted((high - difference, difference - low), reverse=True)
    assert longer > 1.5 * shorter
    assert min(found.high - difference, difference - found.low) > 0.9 * longer


def test_equal_answers_do_not_give_an_interval_of_width_zero() -> None:
    rows, _ = drawn(2, 30)
    found = compare(with_facts(rows), with_facts(rows), RATIO, 0.95)
    assert found.delta == 0
    assert found.ci_low < -0.02
    assert found.ci_low == pytest.approx(-found.ci_high)


def test_groups_are_resampled_whole_and_widen_the_interval() -> None:
    rows, worse = drawn(3, 20, loss=0.2)
    rows, worse = np.repeat(rows, 6, axis=0), np.repeat(worse, 6, axis=0)
    groups = [f"group/{n // 6}" for n in range(len(rows))]
    alone = compare(with_facts(rows), with_facts(worse), RATIO, 0.95)
    grouped = compare(with_facts(rows, groups), with_facts(worse, groups), RATIO, 0.95)
    assert grouped.ci_high - grouped.ci_low > 1.8 * (alone.ci_high - alone.ci_low)
    assert "resamples of 20 groups" in grouped.statement
    assert "resamples of 120 items" in alone.statement
    few = [f"group/{n % 3}" for n in range(len(rows))]
    few_groups = compare(with_facts(rows, few), with_facts(worse, few), RATIO, 0.95)
    assert few_groups.statement.endswith("resamples of 3 groups, about groups like these")
    assert few_groups.spread.df == pytest.approx(2)


@pytest.mark.parametrize(
    ("loss", "verdict"), [(0.0, "pass"), (0.02, "pass"), (0.1, "inconclusive"), (0.5, "regressed")]
)
def test_verdicts_and_p_values_agree(loss: float, verdict: str) -> None:
    rows, worse = drawn(5, 60, loss=loss)
    found = compare(with_facts(rows), with_facts(worse), RATIO, 0.95)
    judgement = judge(found, rule(0.07, RATIO))
    assert judgement.verdict == verdict, judgement.reason
    p_pass, p_regressed = p_values(found, 0.07)
    assert (p_pass <= 0.025) == (verdict == "pass")
    assert (p_regressed <= 0.025) == (verdict == "regressed")
    assert judgement.detectable > 0


def test_undefined_is_said_and_not_0() -> None:
    same = with_facts([(1, 2)] * 5)
    assert "same facts" in compare(same, same, RATIO, 0.95).undefined
    assert "at least two" in compare(same[:1], same[:1], RATIO, 0.95).undefined
    rare = Metric("rare", True, "corpus", aggregate=lambda facts: math.nan if facts[0] == 0 else 1.0)
    rows = with_facts([(0, 2)] * 4 + [(1, 2)])
    assert "no finite value on some resamples" in compare(rows, rows, rare, 0.95).undefined
    fixed = Metric("fixed", True, "corpus", aggregate=lambda facts: 100.0 if facts[0] else 0.0)
    sure = with_facts([(1, 2), (2, 2), (3, 4)])
    assert "never varies" in compare(sure, sure, fixed, 0.95).undefined
    never = Metric("never", True, "corpus", aggregate=lambda facts: math.nan)
    found = compare(rows, rows, never, 0.95)
    assert "no finite number" in found.undefined
    assert judge(found, rule(0.1, never)).verdict == "invalid"


def test_facts_of_unequal_number_are_refused() -> None:
    broken = [*with_facts([(1, 2), (2, 3)]), ItemOutcome("item/2", "item/2", 1.0, facts=(1.0,))]
    with pytest.raises(ValueError, match="inhomogeneous"):
        compare(broken, broken, RATIO, 0.95)


def test_the_interval_covers_the_truth_of_few_items() -> None:
    """30 items, true loss 10%: 95% intervals miss in about 5% of runs; the bootstrap's own bounds in about 9%."""
    truth, missed, missed_plain = -0.1 * 0.6, 0, 0
    for seed in range(300):
        rows, worse = (each.astype(np.float64) for each in drawn(seed, 30, loss=0.1))
        found = corpus_interval(rows, worse, ratio, np.arange(30), 0.95, rounds=300)
        missed += not found.low <= truth <= found.high
        rng = np.random.default_rng(seed)
        _, low, high = bootstrap_difference(rows, worse, ratio, np.arange(30), Resampling(rng, 300))
        missed_plain += not low <= truth <= high
    assert missed <= 21 < missed_plain


def test_a_share_of_the_reference_is_compared_resample_by_resample() -> None:
    """Half of every match is lost: subject - 1/2 · reference is 0 in each resample, and only the room for rare damage
    is left: stake · (1 - 0.05^(1/40)).
    """
    rng = np.random.default_rng(2)
    before = np.column_stack([rng.integers(2, 9, 40) * 2.0, np.full(40, 20.0)])
    after = before * [0.5, 1.0]
    found = corpus_interval(before, after, lambda sums: float(sums[0] / sums[1]), np.arange(40), 0.95, ratio=0.5)
    assert found.half == pytest.approx(0.0, abs=1e-12)
    assert found.low == pytest.approx(-found.stake * (1 - 0.05 ** (1 / 40)), rel=0.01)
    known = corpus_interval(before, after, lambda sums: float(sums[0] / sums[1]), np.arange(40), 0.95)
    assert known.half > 0.01
