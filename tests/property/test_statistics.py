"""What must hold for all samples: pairing, direction, monotony (agreement with scipy: ``test_oracles``)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quantgate.core.metrics import ACCURACY, PERPLEXITY, Metric
from quantgate.verdict import intervals
from quantgate.verdict.family import benjamini_hochberg, holm
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from quantgate.verdict.policy import Floor
from quantgate.verdict.power import items_to_decide, p_values
from quantgate.verdict.sequential import SequentialTest
from tests.unit.verdict.samples import outcomes, rule, zeros_and_ones

SCORE, LOSS = Metric("score", True, "mean", stake=0.0), Metric("loss", False, "mean", stake=0.0)
counts = st.integers(0, 60)
margins = st.floats(0, 0.9)
reals = st.floats(-5, 5).map(lambda x: round(x, 6))
pairs = st.lists(st.tuples(reals, reals), min_size=2, max_size=30)
answers = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)
RANK = {"pass": 0, "inconclusive": 1, "regressed": 2}

usual = settings(deadline=None, max_examples=40)


@usual
@given(counts, counts, counts)
def test_score_interval_holds_the_estimate_and_mirrors(worse: int, better: int, rest: int) -> None:
    n = worse + better + rest
    assume(n > 0)
    low, high = (float(x) for x in intervals.tango_interval(worse, better, n, 1.96))
    assert -1 <= low <= (better - worse) / n <= high <= 1
    assert low < high
    mirrored = intervals.tango_interval(better, worse, n, 1.96)
    assert (float(mirrored[0]), float(mirrored[1])) == pytest.approx((-high, -low), abs=1e-12)


@usual
@given(counts, counts, counts, st.integers(2, 50))
def test_more_items_of_the_same_kind_narrow_the_interval(worse: int, better: int, rest: int, times: int) -> None:
    n = worse + better + rest
    assume(n > 0 and abs(worse - better) < n)
    small = intervals.tango_interval(worse, better, n, 1.96)
    large = intervals.tango_interval(worse * times, better * times, n * times, 1.96)
    assert float(large[1] - large[0]) < float(small[1] - small[0])


@usual
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_never_smaller_than_hochberg(p: list[float]) -> None:
    assert all(
        strict >= mild >= raw - 1e-15 for strict, mild, raw in zip(holm(p), benjamini_hochberg(p), p, strict=True)
    )


@usual
@given(pairs, st.randoms())
def test_order_of_outcomes_changes_nothing(scores: list[tuple[float, float]], random) -> None:
    before, after = (outcomes([pair[side] for pair in scores]) for side in (0, 1))
    first = compare(before, after, SCORE, 0.95)
    random.shuffle(before)
    random.shuffle(after)
    assert repr(compare(before, after, SCORE, 0.95)) == repr(first)  # repr: NaN does not equal itself


@usual
@given(pairs)
def test_swapping_the_sides_turns_the_sign(scores: list[tuple[float, float]]) -> None:
    before, after = (outcomes([pair[side] for pair in scores]) for side in (0, 1))
    there, back = compare(before, after, SCORE, 0.95), compare(after, before, SCORE, 0.95)
    assert there.undefined == back.undefined
    assert there.items_worse == back.items_better
    if not there.undefined:
        assert (there.delta, there.ci_low, there.ci_high) == pytest.approx((-back.delta, -back.ci_high, -back.ci_low))


@usual
@given(pairs, margins)
def test_direction_is_only_a_sign(scores: list[tuple[float, float]], margin: float) -> None:
    high = compare(outcomes([a for a, _ in scores]), outcomes([b for _, b in scores]), SCORE, 0.95)
    low = compare(outcomes([-a for a, _ in scores]), outcomes([-b for _, b in scores]), LOSS, 0.95)
    assert judge(high, rule(margin, SCORE)).verdict == judge(low, rule(margin, LOSS)).verdict


@usual
@given(answers, margins, margins)
def test_a_wider_margin_never_makes_it_worse(pairs_: list[tuple[int, int]], one: float, other: float) -> None:
    found = compare(outcomes([a for a, _ in pairs_]), outcomes([b for _, b in pairs_]), ACCURACY, 0.95)
    small, large = sorted((one, other))
    assert RANK[judge(found, rule(large)).verdict] <= RANK[judge(found, rule(small)).verdict]


@usual
@given(answers, margins)
def test_one_more_lost_answer_never_helps(pairs_: list[tuple[int, int]], margin: float) -> None:
    before, after = [a for a, _ in pairs_], [b for _, b in pairs_]
    assume(1 in after)
    worse = list(after)
    worse[after.index(1)] = 0
    verdicts = [
        judge(compare(outcomes(before), outcomes(x), ACCURACY, 0.95), rule(margin)).verdict for x in (after, worse)
    ]
    assert RANK[verdicts[0]] <= RANK[verdicts[1]]


@usual
@given(answers, margins, st.sampled_from(["pass", "regressed"]))
def test_verdict_and_p_value_say_the_same(pairs_: list[tuple[int, int]], margin: float, claim: str) -> None:
    found = compare(outcomes([a for a, _ in pairs_]), outcomes([b for _, b in pairs_]), ACCURACY, 0.95)
    p = dict(zip(("pass", "regressed"), p_values(found, margin), strict=True))[claim]
    assume(abs(p - 0.025) > 1e-9)
    assert (judge(found, rule(margin)).verdict == claim) == (p < 0.025)


@usual
@given(answers, st.integers(0, 59), st.sampled_from([math.nan, math.inf, -math.inf]), st.booleans(), margins)
def test_a_poisoned_score_never_passes(pairs_, where: int, poison: float, in_subject: bool, margin: float) -> None:
    sides = [[float(a) for a, _ in pairs_], [float(b) for _, b in pairs_]]
    sides[in_subject][where % len(pairs_)] = poison
    for metric in (ACCURACY, SCORE, PERPLEXITY):
        found = compare(outcomes(sides[0]), outcomes(sides[1]), metric, 0.95)
        assert judge(found, rule(margin, metric)).verdict == "invalid"


@usual
@given(st.sampled_from(["reference", "value", "delta", "ci_low", "ci_high"]), margins)
def test_a_poisoned_comparison_never_passes(name: str, margin: float) -> None:
    found = replace(zeros_and_ones(1, 1, 50), **{name: math.nan})
    expected = {"delta": {"pass", "inconclusive", "regressed"}}.get(name, {"invalid"})
    assert judge(found, rule(margin)).verdict in expected


@usual
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_only_a_finite_margin_of_at_least_zero_is_judged(margin: float) -> None:
    verdict = judge(zeros_and_ones(1, 1, 500), rule(margin)).verdict
    assert (verdict == "invalid") == (not (math.isfinite(margin) and margin >= 0))


@usual
@given(st.integers(0, 100), st.floats(0.05, 0.6), margins)
def test_a_reference_at_or_below_chance_never_passes(right: int, chance: float, margin: float) -> None:
    assume(right / 100 <= chance)
    found = zeros_and_ones(0, 0, 100, right=right)
    assert judge(found, rule(margin, floor=Floor(chance))).verdict == "invalid"


@usual
@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=40), st.floats(1e-3, 0.5), st.randoms())
def test_sequential_look_does_not_depend_on_the_order(sample: list[float], margin: float, random) -> None:
    test = SequentialTest(margin, 0.95, 100)
    before = test.interval(np.array(sample))
    random.shuffle(sample)
    assert test.interval(np.array(sample)) == pytest.approx(before, abs=1e-9)
    assert before[0] <= np.mean(sample) <= before[1]


@usual
@given(st.integers(0, 6), st.integers(0, 6), st.floats(0.005, 0.2))
def test_the_promised_items_do_decide(worse: int, better: int, margin: float) -> None:
    found = zeros_and_ones(worse, better, 60)
    verdict = judge(found, rule(margin))
    assume(verdict.verdict == "inconclusive" and math.isfinite(verdict.items_needed))
    times = verdict.items_needed / 60
    low, high = intervals.tango_interval(worse * times, better * times, 60 * times, 1.959964)
    assert -float(low) <= margin or -float(high) > margin
    assert items_to_decide(found, margin) == verdict.items_needed > 60
