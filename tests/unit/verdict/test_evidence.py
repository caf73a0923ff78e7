from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from quantgate.core.errors import ProvenanceError
from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY, KLD_MEAN, PERPLEXITY, Metric
from quantgate.tasks.table import TASKS
from quantgate.verdict.companions import compare_companion
from quantgate.verdict.evidence import (
    Evidence,
    conclude,
    digest_outcomes,
    evidence_from_json,
    evidence_to_json,
    rule_from_json,
    rule_to_json,
)
from quantgate.verdict.judge import judge_companions
from quantgate.verdict.policy import Floor, Margin
from quantgate.verdict.sequential import visiting_order
from tests.unit.verdict.samples import outcomes, rule


def case(before, after, margin=0.05, metric=ACCURACY, **more) -> Evidence:
    return Evidence(rule(margin, metric), tuple(outcomes(before)), tuple(outcomes(after)), **more)


def visited(evidence: Evidence, count: int) -> Evidence:
    order = visiting_order(len(evidence.reference), 1)[:count]
    return replace(evidence, subject=tuple(evidence.subject[index] for index in order), sequential=True)


def turned(n: int, worse: int, better: int) -> tuple[list[int], list[int]]:
    """``worse`` and ``better`` answers turn, spread over ``n`` items."""
    before, after = [1] * n, [1] * n
    for index in range(worse + better):
        side = after if index < worse else before
        side[index * (n // (worse + better))] = 0
    return before, after


def test_evidence_survives_being_written_down() -> None:
    full = replace(
        case([1, 0, None], [0.5, None, 1], metric=Metric("rouge1", True, "mean", "points")),
        problems=("foreign",),
        chance=0.25,
        noise=0.1 + 0.2,
        identical_weights=True,
        sequential=True,
    )
    strict = replace(full.rule, floor=Floor(0.1), allow=("regressed",), because="known")
    full = replace(full, rule=replace(strict, companions={"prob_right": Margin("relative", 1 / 3)}))
    assert evidence_from_json(json.loads(json.dumps(evidence_to_json(full)))) == full


def test_any_change_of_an_outcome_changes_the_digest() -> None:
    before = outcomes([1, 0, 0.25])
    changes = (
        {"score": 0.5},
        {"answer": "B"},
        {"companions": {"nll": 1.0}},
        {"score": None, "unscored": "x"},
        {"facts": (1.0,)},
    )
    digests = {digest_outcomes([*before[:2], replace(before[2], **change)]) for change in ({}, *changes)}
    assert len(digests) == 1 + len(changes)
    assert digest_outcomes(before) != digest_outcomes(before[::-1])


def test_a_stopped_case_is_judged_by_its_bets_and_counts_what_it_saved() -> None:
    stopped = visited(case(*turned(2000, 10, 10)), 600)
    found = conclude(stopped)
    assert found.judgement.verdict == "pass"
    assert found.judgement.reason.endswith("stopped after 600 of 2000 items, 1400 saved")
    assert found.judgement.p_pass <= 0.025
    fixed = conclude(replace(stopped, sequential=False, reference=stopped.paired_reference)).comparison
    assert found.comparison.ci_low < fixed.ci_low < fixed.ci_high < found.comparison.ci_high


def test_margin_and_floor_of_a_stopped_case_are_those_of_the_whole_benchmark() -> None:
    before, after = turned(2000, 10, 10)
    relative = replace(case(before, after), rule=rule(0.05, kind="relative"))
    assert conclude(visited(relative, 600)).judgement.margin == pytest.approx(0.05 * np.mean(before))


def test_a_look_at_which_the_reference_has_nothing_right_yet_is_no_crash() -> None:
    """A relative margin is a share of the whole benchmark's value, not of what was seen so far."""
    evidence = replace(case([0] * 50 + [1] * 50, [0] * 100), rule=rule(0.5, kind="relative"), sequential=True)
    found = conclude(replace(evidence, subject=evidence.subject[:8])).judgement
    assert (found.verdict, found.margin) == ("inconclusive", 0.25)
    assert "(allowed: 50%)" in found.reason


def test_a_case_that_went_on_to_the_last_item_gets_the_fixed_verdict() -> None:
    """240 items, eight turned either way, are enough for the interval and too few for a bet."""
    evidence = case(*turned(240, 4, 4))
    fixed, last = conclude(evidence), conclude(visited(evidence, 240))
    assert fixed.judgement.verdict == "pass"
    assert repr(last) == repr(fixed)  # NaN equals itself only as text
    assert conclude(visited(evidence, 230)).judgement.verdict == "inconclusive"


def test_a_subject_that_lacks_items_is_refused_unless_it_was_stopped() -> None:
    evidence = case(*turned(100, 2, 2))
    with pytest.raises(ProvenanceError, match="1 item of the reference is missing"):
        conclude(replace(evidence, subject=evidence.subject[:-1]))


def test_answers_equal_to_the_last_bit_are_the_references() -> None:
    reference = tuple(replace(each, companions={"prob_right": 0.5}) for each in outcomes([1, 0, 1, 1, 0] * 10))
    same = Evidence(rule(0.2), reference, reference)
    assert "all 50 answers equal the reference's to the last bit (prob_right)" in conclude(same).judgement.reason
    moved = (replace(reference[0], companions={"prob_right": math.nextafter(0.5, 1)}), *reference[1:])
    assert conclude(replace(same, subject=moved)).judgement.verdict == "pass"


@pytest.mark.parametrize("metric", [ACCURACY, PERPLEXITY, KLD_MEAN, Metric("rouge1", True, "mean")])
def test_one_item_or_equal_items_never_regress_and_never_crash(metric: Metric) -> None:
    """The smallest and the flattest samples: a verdict with a reason, and a pass only where it can be shown."""
    lost, kept = (0, 1) if metric.higher_is_better else (1, 0)
    for before, after in (([1], [1]), ([kept], [lost]), ([1] * 2, [1] * 2), ([kept] * 2, [lost] * 2), ([0] * 50,) * 2):
        found = conclude(case(before, after, 0.02, metric))
        assert found.judgement.verdict in ("inconclusive", "invalid")
        assert found.judgement.reason


def test_a_missing_companion_is_not_a_pass() -> None:
    strict = replace(rule(0.2), companions={"prob_right": Margin("absolute", 0.5)})
    evidence = Evidence(strict, tuple(outcomes([1] * 40 + [0])), tuple(outcomes([1] * 40 + [0])))
    found = conclude(evidence).judgement
    assert (found.verdict, found.reason[:12]) == ("invalid", "prob_right: ")
    with_numbers = tuple(
        ItemOutcome(o.item_id, o.group, o.score, o.answer, {"prob_right": 0.4 + 0.01 * i})
        for i, o in enumerate(evidence.reference)
    )
    lower = tuple(replace(o, companions={"prob_right": o.companions["prob_right"] - 0.01}) for o in with_numbers)
    judged = conclude(replace(evidence, reference=with_numbers, subject=lower)).judgement
    assert judged.verdict == "pass"


def with_numbers(before, after, name) -> Evidence:
    """The same scores on both sides, and the companion number ``name`` beside them."""
    sides = (
        tuple(
            replace(each, companions={name: value}) for each, value in zip(outcomes([1, 0] * 40), values, strict=True)
        )
        for values in (before, after)
    )
    return Evidence(rule(0.2), *sides)


def test_only_continuous_numbers_prove_that_a_model_is_the_reference() -> None:
    """Constraints met and ROUGE are shares: two models that both meet everything are not one."""
    for name in ("ssr", "csl", "rouge2", "rougeL", "same_top_p"):
        assert conclude(with_numbers([1.0] * 80, [1.0] * 80, name)).judgement.verdict == "pass"
    masses = list(np.linspace(0.1, 0.9, 80))
    same = conclude(with_numbers(masses, masses, "prob_right")).judgement
    assert (same.verdict, "to the last bit (prob_right)" in same.reason) == ("invalid", True)
    moved = conclude(with_numbers(masses, [*masses[:-1], 0.91], "prob_right")).judgement
    assert moved.verdict == "pass"
    # a probability that has reached an end of its range has nowhere to move
    assert conclude(with_numbers([1.0, 0.0] * 40, [1.0, 0.0] * 40, "prob_right")).judgement.verdict == "pass"


def test_a_companion_that_only_the_subject_lacks_counts_at_its_worst() -> None:
    given = with_numbers([0.9] * 80, [0.9 + 0.001 * (n % 3) for n in range(80)], "prob_right")
    asked = replace(given.rule, companions={"prob_right": Margin("absolute", 0.04)}, max_unscored=0.05)
    assert conclude(replace(given, rule=asked)).judgement.verdict == "pass"
    broken = replace(given.subject[1], score=None, unscored="not finite", companions={})
    found = conclude(replace(given, rule=asked, subject=(given.subject[0], broken, *given.subject[2:]))).judgement
    assert (found.verdict, found.reason.startswith("prob_right")) == ("inconclusive", True)


def test_evidence_may_tell_of_more_at_stake_than_the_task_says_and_never_of_less() -> None:
    """Segments of a short context are shorter, so more of one can be lost; less would make a pass easier."""
    known = TASKS["perplexity_wikitext2"].metric
    for told, taken in ((10.0, 10.0), (0.1, 2.5)):
        given = replace(rule(0.08, known, "relative"), task="perplexity_wikitext2", metric=replace(known, stake=told))
        assert rule_from_json(json.loads(json.dumps(rule_to_json(given)))).metric.stake == taken


def test_numbers_per_token_beside_a_text_have_its_stake() -> None:
    losses = [
        replace(o, companions={"nll": o.score or 0.0, "kld_p99": 0.1}) for o in outcomes([3.0, 3.1, 2.9, 3.2] * 9)
    ]
    moved = [replace(o, companions={"nll": n + 0.001 * i, "kld_p99": 0.1 + 0.01 * (i % 3)})
             for i, o in enumerate(losses) for n in [o.companions["nll"]]]  # fmt: skip
    assert compare_companion(losses, moved, "nll", 0.95, 1.25).stake == 1.25
    assert compare_companion(losses, moved, "nll", 0.95).stake == 10.0
    assert compare_companion(losses, moved, "kld_p99", 0.95, 1.25).stake == 10.0  # one block is more than 1% of tokens
    stated = rule(0.1, replace(PERPLEXITY, stake=1.25), companions={"nll": Margin("absolute", 0.1)})
    assert "at up to 1.25 nats" in judge_companions(losses, moved, stated)["nll"].reason
