"""Reference-guided sampling: the draw, the estimate, the boundaries, and a case judged from its evidence."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats

from quantgate.core.errors import ProvenanceError
from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY
from quantgate.verdict import guided
from quantgate.verdict.evidence import Evidence, conclude, evidence_from_json, evidence_to_json
from quantgate.verdict.policy import Margin, Rule
from quantgate.verdict.visit import Guide, curve_of, visit

CURVE = guided.default_curve()


def pair(size=3000, loss=0.0, seed=1):
    """Reference and subject of a benchmark: answers turn near the boundary, and ``loss`` of all are lost besides."""
    generator = np.random.default_rng(seed)
    odds = np.where(generator.random(size) < 0.6, generator.normal(1.8, 1.6, size), generator.normal(-1.8, 1.2, size))
    right = odds > -0.5
    after = odds + generator.normal(0, 0.3, size) > -0.5
    after[generator.choice(np.flatnonzero(right), round(loss * size), replace=False)] = False
    mass = special.expit(odds)
    reference = [
        ItemOutcome(f"{i:05d}", "", float(right[i]), str(right[i]), {"prob_right": float(mass[i])}) for i in range(size)
    ]
    subject = [
        replace(old, score=float(new), answer=str(new), companions={"prob_right": old.companions["prob_right"] * 0.99})
        for old, new in zip(reference, after, strict=True)
    ]
    return reference, subject


def case(reference, subject, margin=0.02, **more):
    rule = Rule("t", "m", ACCURACY, Margin("absolute", margin), 0.95, 30, 0.01)
    return Evidence(rule, tuple(reference), tuple(subject), sequential=True, guide=Guide(1234, CURVE), **more)


def run(reference, subject, margin=0.02):
    """The evidence at the look that decided."""
    evidence = case(reference, (), margin)
    tour = visit(reference, evidence.guide, 0, evidence.rule.min_items)
    for count in tour.looks:
        evidence = replace(evidence, subject=tuple(subject[place] for place in tour.order[:count]))
        if conclude(evidence).judgement.verdict != "inconclusive":
            break
    return evidence


def test_the_estimate_is_unbiased_and_its_variance_is_right() -> None:
    reference, subject = pair(loss=0.03)
    harm = np.array([old.score - new.score for old, new in zip(reference, subject, strict=True)])
    found = []
    for seed in range(200):
        draw = guided.Draw.of(guided.cells(reference), CURVE, seed)
        found.append(draw.estimate(harm, draw.threshold(600))[:2])
    values, variances = np.array(found).T
    assert values.mean() == pytest.approx(harm.mean(), abs=4 * values.std() / math.sqrt(200))
    assert variances.mean() == pytest.approx(values.var(), rel=0.35)


def test_the_estimate_of_everything_is_the_mean_itself() -> None:
    reference, subject = pair(500, loss=0.05)
    harm = np.array([old.score - new.score for old, new in zip(reference, subject, strict=True)])
    value, variance, unseen = guided.Draw.of(guided.cells(reference), CURVE, 1).estimate(harm, math.inf)
    assert value == pytest.approx(harm.mean())
    assert variance == unseen == 0


def test_a_look_adds_items_and_takes_none_back_and_none_is_hardly_ever_drawn() -> None:
    reference, _ = pair()
    draw = guided.Draw.of(guided.cells(reference), CURVE, 7)
    thresholds = draw.thresholds(30)
    drawn = [draw.enters <= each for each in thresholds]
    assert all((later | earlier == later).all() for earlier, later in itertools.pairwise(drawn))
    assert drawn[-1].all()
    assert draw.weight.min() >= guided.FLOOR / len(reference)


def test_the_boundaries_spend_the_error_that_they_are_given() -> None:
    # an independent oracle: simulated Brownian motion at the looks' information
    information = np.array([1e3, 1.5e3, 4e3, 9e3, 2e4])
    margin, alpha = 0.02, 0.025
    limits = guided.boundaries(information, margin, alpha)
    generator = np.random.default_rng(0)
    steps = generator.normal(size=(400_000, 5)) * np.sqrt(np.diff(information, prepend=0))
    scores = steps.cumsum(axis=1) / np.sqrt(information)
    crossed = (scores >= limits).any(axis=1).mean()
    wanted = guided.spent(information, margin, alpha)[-1]
    assert crossed == pytest.approx(wanted, abs=4 * math.sqrt(wanted / 400_000))
    assert guided.boundaries(information[:1], margin, alpha)[0] == pytest.approx(
        stats.norm.isf(guided.spent(information[:1], margin, alpha)[0]), abs=1e-6
    )


def test_no_harm_in_few_items_is_no_proof() -> None:
    reference, _ = pair(1500)
    same = [replace(each, companions={"prob_right": 0.5}) for each in reference]
    evidence = run(reference, same, margin=0.01)
    assert conclude(evidence).judgement.verdict == "pass"
    assert len(evidence.subject) > 150  # a margin of a point needs about 1.96² · 0.01 / 0.01² items that show nothing


@pytest.mark.parametrize(("loss", "verdict"), [(0.0, "pass"), (0.2, "regressed")])
def test_a_case_is_judged_by_few_items_as_by_all(loss, verdict) -> None:
    reference, subject = pair(loss=loss)
    evidence = run(reference, subject, margin=0.03)
    found = conclude(evidence)
    assert found.judgement.verdict == verdict
    assert found.comparison.n_items < 1000
    level = 0.025
    assert (found.judgement.p_pass <= level) == (verdict == "pass")
    assert (found.judgement.p_regressed <= level) == (verdict == "regressed")
    assert "so this speaks of these benchmark items alone" in found.judgement.reason
    assert "speaks of no items beyond it" in found.comparison.statement
    truth = sum(new.score - old.score for old, new in zip(reference, subject, strict=True)) / len(reference)
    assert found.comparison.ci_low <= truth <= found.comparison.ci_high
    assert found.comparison.reference == pytest.approx(ACCURACY.of(reference))


def test_the_evidence_alone_gives_the_verdict_again() -> None:
    reference, subject = pair(loss=0.2)
    evidence = run(reference, subject, margin=0.03)
    again = evidence_from_json(json.loads(json.dumps(evidence_to_json(evidence))))
    assert again == evidence
    assert repr(conclude(again).judgement) == repr(conclude(evidence).judgement)  # NaN equals itself only as text


def test_other_items_than_the_draw_gives_are_refused() -> None:
    reference, subject = pair(loss=0.2)
    evidence = run(reference, subject, margin=0.03)
    asked = {outcome.item_id for outcome in evidence.subject}
    other = next(outcome for outcome in subject if outcome.item_id not in asked)
    with pytest.raises(ProvenanceError, match="guided draw"):
        conclude(replace(evidence, subject=(*evidence.subject[1:], other)))
    with pytest.raises(ProvenanceError, match="guided draw"):
        conclude(replace(evidence, subject=evidence.subject[:-1]))


def test_items_without_a_score_of_the_reference_come_last() -> None:
    reference, _ = pair(400)
    reference[3] = ItemOutcome("00003", "", None, unscored="too long")
    tour = visit(reference, Guide(1, CURVE), 0, 30)
    assert sorted(tour.order) == list(range(400))
    assert tour.order[-1] == 3
    assert tour.looks[-1] == 400


def test_earlier_methods_teach_where_answers_turn() -> None:
    reference, subject = pair()
    curve = curve_of(reference, [subject])
    assert curve_of(reference, []) == pytest.approx(CURVE)
    near, far = guided.cells([replace(reference[0], score=1.0, companions={"prob_right": p}) for p in (0.4, 0.99)])
    assert curve[near] > 5 * curve[far]


def test_on_the_margin_few_pass() -> None:
    reference, subject = pair(2000)
    harm = np.array([old.score - new.score for old, new in zip(reference, subject, strict=True)])
    kept = np.flatnonzero((harm == 0) & np.array([each.score == 1 for each in reference]))
    harm[np.random.default_rng(5).choice(kept, round(0.025 * 2000 - harm.sum()), replace=False)] = 1
    wrong = 0
    for seed in range(60):
        draw = guided.Draw.of(guided.cells(reference), CURVE, seed)
        limits = guided.Boundaries()
        for threshold in draw.thresholds(30)[:-1]:
            seen = guided.look(draw, harm, threshold, 0.025)
            limit = limits.next(seen.information, guided.spent([seen.information], 0.025, 0.025)[0])
            if (0.025 - seen.value) / seen.se_pass >= limit:
                wrong += 1
                break
    assert wrong <= 60 * 0.025 + 3 * math.sqrt(60 * 0.025)


def test_cells_go_by_rank_so_that_sharp_and_flat_probabilities_are_alike() -> None:
    """Of right answers the least sure turns first, of wrong ones that whose right option is likeliest."""
    mass = np.linspace(0.3, 0.9, 11)

    def of(shares: np.ndarray, score: float) -> list[int]:
        given = [replace(pair(1)[0][0], score=score, companions={"prob_right": float(p)}) for p in shares]
        return guided.cells(given).tolist()

    assert of(mass, 1.0) == list(range(11, 22))
    assert of(mass, 0.0) == list(range(10, -1, -1))
    assert of(mass**4, 1.0) == of(mass, 1.0)
    assert len(set(of(np.full(40, 0.5), 1.0))) == 1  # nothing is known: all are alike
    assert guided.cells([]).size == 0
