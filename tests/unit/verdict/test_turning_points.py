"""Single places on which a verdict, an interval or an early stop turns; each was found by a change that no test saw."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import fft, stats

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY, KLD_MEAN, PERPLEXITY, Metric
from quantgate.core.records import Result
from quantgate.verdict import family, guided, intervals, sequential
from quantgate.verdict.evidence import Evidence, conclude, digest_outcomes, evidence_from_json, evidence_to_json
from quantgate.verdict.judge import judge, judge_counted
from quantgate.verdict.paired import compare, relative
from quantgate.verdict.policy import Floor, Margin
from quantgate.verdict.policy_names import is_slip
from quantgate.verdict.power import fewest_items, hidden_alone, items_for_margin
from quantgate.verdict.sequential import SequentialTest
from quantgate.verdict.unseen import stakes, unseen_tail, widened
from quantgate.verdict.visit import Bets, Guide, GuidedTest, curve_of
from quantgate.verdict.wording import Wording
from tests.unit.verdict.samples import outcomes, rule

BYTES = Metric("weight_bytes", False, "mean")


def pair(n=60, worse=6, better=2, group=1):
    before = [1] * (n - better) + [0] * better
    after = [0] * worse + [1] * (n - worse)
    names = [f"g{index // group}" for index in range(n)]
    made = [ItemOutcome(str(index), names[index], float(score)) for index, score in enumerate(before)]
    return made, [replace(each, score=float(score)) for each, score in zip(made, after, strict=True)]


def test_an_absolute_margin_gets_the_interval_of_the_difference():
    before, after = pair()
    asked = rule(0.2, ACCURACY)
    plain = compare(before, after, ACCURACY, asked.confidence)
    found = conclude(Evidence(asked, tuple(before), tuple(after))).comparison
    assert (found.relative, found.ci_low, found.ci_high) == (False, plain.ci_low, plain.ci_high)


def test_evidence_of_before_says_nothing_of_what_came_later():
    before, after = pair()
    whole = Evidence(rule(0.2, ACCURACY), tuple(before), tuple(after))
    content = json.loads(json.dumps(evidence_to_json(whole)))
    for name in ("counted", "reservation", "guide"):
        content.pop(name, None)
    assert evidence_from_json(content) == whole


def test_a_relative_margin_is_one_after_it_was_written_down():
    before, after = pair()
    asked = replace(rule(0.2, ACCURACY), margin=Margin("relative", 0.2))
    whole = Evidence(asked, tuple(before), tuple(after))
    found = conclude(evidence_from_json(json.loads(json.dumps(evidence_to_json(whole))))).comparison
    own = relative(compare(before, after, ACCURACY, asked.confidence), 0.2)
    assert (found.relative, found.ci_low, found.ci_high) == (True, own.ci_low, own.ci_high)


@pytest.mark.parametrize(("metric", "other"), [(ACCURACY, PERPLEXITY), (PERPLEXITY, ACCURACY)])
def test_a_rule_of_another_metric_judges_nothing(metric, other):
    found = compare(outcomes([0.0, 1.0]), outcomes([0.0, 1.0]), metric, 0.95)
    with pytest.raises(ValueError, match="does not fit"):
        judge(found, rule(0.1, other))


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [(2.0, 2.0, "pass"), (2.0, 2.19, "pass"), (2.0, 2.21, "regressed"), (0.0, 1.0, "invalid"), (1.0, -1.0, "invalid"),
     (math.nan, 1.0, "invalid"), (1.0, math.inf, "invalid")],
)  # fmt: skip
def test_what_is_counted_is_judged_by_its_number(before, after, verdict):
    plain = compare(outcomes([1.0, 1.0]), outcomes([1.0, 1.0]), BYTES, 0.95)
    found = replace(plain, reference=before, value=after, delta=after - before)
    asked = replace(rule(0.1, BYTES), margin=Margin("relative", 0.1))
    told = judge_counted(found, asked)
    assert told.verdict == verdict
    assert verdict == "invalid" or f"({100 * after / 2 - 100:+.1f}%; allowed: 10% more)" in told.reason


@pytest.mark.parametrize("reference", [0.375, 0.5, 0.625])
@pytest.mark.parametrize("higher", [True, False])
def test_a_reference_beats_chance_on_its_better_side_alone(higher, reference):
    metric = Metric("score", higher, "mean")
    same = outcomes([reference - 0.125, reference + 0.125] * 20)
    asked = rule(0.0625, metric, floor=Floor(0.5))
    found = judge(compare(same, same, metric, 0.95), asked)
    hopeless = reference <= 0.5 if higher else reference >= 0.5
    assert ("the reference itself is at chance" in found.reason) is hopeless
    assert (found.verdict == "invalid") is hopeless


def test_no_items_are_no_items():
    found = compare([], [], ACCURACY, 0.95)
    assert (found.n_items, found.undefined) == (0, "there are no items")


def test_what_regressed_without_a_p_value_stays_red_in_a_family():
    result = Result("t", "knowledge", "", "m", "acc", True, 9, 0.9, 0.5, -0.4, math.nan, math.nan, 0.95, 0.02,
                    "regressed", "")  # fmt: skip
    assert family._p_regressed(result) == pytest.approx(0.025)
    assert family._p_regressed(replace(result, verdict="inconclusive")) == 1.0
    assert family._p_regressed(replace(result, companions={"p_regressed": 0.004})) == 0.004


# --- intervals ------------------------------------------------------------------------------------------------------


def test_the_spread_of_a_running_text_is_read_from_its_lowest_cosine_frequencies():
    """Against scipy's orthonormal cosine transform."""
    series = np.cumsum(np.random.default_rng(3).normal(size=50)) * 0.1
    waves = fft.dct(series, norm="ortho")
    count = round(0.4 * 50 ** (2 / 3))
    assert count == 5
    assert intervals.serial_spread(series).se ** 2 == pytest.approx(np.mean(waves[1 : count + 1] ** 2) / 50)


def test_what_was_not_seen_widens_both_ends_alike():
    harm = np.random.default_rng(0).gamma(0.5, 0.1, size=80) - 0.02
    mean = float(harm.mean())
    low, high = widened(harm, (mean, mean), (0.4, 0.7), 0.025)
    assert low < mean < high
    assert widened(-harm, (-mean, -mean), (0.7, 0.4), 0.025) == pytest.approx((-high, -low))


def test_what_can_only_rise_leaves_the_lower_end():
    harm = np.random.default_rng(0).gamma(0.5, 0.1, size=80) - 0.02
    mean = float(harm.mean())
    assert widened(harm, (mean, mean), (0.0, 0.7), 0.025)[0] == mean
    assert widened(harm, (mean, mean), (0.4, 0.0), 0.025)[1] == mean


@pytest.mark.parametrize("seen", [[0.0, 0.05, 0.1, 0.2, 0.3], [0.1, 0.15, 0.4], [0.0, 0.01, 0.02, 0.03, 0.5]])
@pytest.mark.parametrize("off", [0.8, 1.0, 1.2])
def test_the_tail_of_a_weighted_mean_is_that_of_exponential_weights(seen, off):
    """Against partial fractions, at the mean itself too, where the formula has to be taken to its limit."""
    at = off * np.mean([*seen, 1.0])
    left = np.array([*seen, 1.0]) - at
    exact = sum(np.prod([one / (one - other) for other in left if other != one]) for one in left if one > 0)
    assert float(unseen_tail(np.array(seen), 1.0, at)) == pytest.approx(exact, abs=0.006)


def test_groups_without_items_are_no_groups():
    """A part of the items may hold none of a group; the numbers of the others do not matter."""
    rng = np.random.default_rng(4)
    codes = np.repeat(np.arange(15), 6)
    values = rng.normal(0, 0.1, codes.size) - 2.0 * (codes == 3)
    found = intervals.spread(values, 3 * codes + 2)
    sums = np.bincount(codes, weights=values - values.mean())
    assert (found.clustered, found.groups) == (True, 15)
    assert found.skewness == pytest.approx(stats.skew(sums))


def test_no_stake_is_none_either_way():
    before, after = np.array([1.0, 2.0]), np.array([1.5, 1.0])
    assert stakes(replace(KLD_MEAN, stake=0.0), before, after) == (0.0, 0.0)
    assert stakes(replace(KLD_MEAN, stake=3.0), before, after) == (1.0, 3.0)


def test_the_fewest_items_are_those_with_which_an_unchanged_model_passes():
    asked = rule(0.1, ACCURACY)
    fewest = int(fewest_items(asked))
    verdicts = {}
    for n in (fewest - 1, fewest):
        same = outcomes([1.0, 0.0] * (n // 2) + [1.0] * (n % 2))
        verdicts[n] = judge(compare(same, same, ACCURACY, asked.confidence), asked).verdict
    assert list(verdicts.values()) == ["inconclusive", "pass"]


def test_all_items_may_turn():
    assert items_for_margin(0.5, 1.0) > items_for_margin(0.5, 0.5)


def test_only_what_was_not_seen_is_called_hidden():
    mild = compare(outcomes([2.0, 2.1] * 20), outcomes([2.0, 2.11] * 20), PERPLEXITY, 0.95)
    grave = compare(outcomes([2.0, 2.1] * 20), outcomes([2.4, 2.6] * 20), PERPLEXITY, 0.95)
    assert [hidden_alone(each, 0.5) for each in (mild, grave)] == [True, False]


# --- early stops ----------------------------------------------------------------------------------------------------


def test_a_case_without_a_loss_is_as_sure_as_its_bets():
    """Each loss-free item turns a capital of 1 into 1 + stake · margin; p is 1 / capital, an end is where it is 40."""

    def capital(margin):
        stakes = 0.98 * 2.0 ** (-np.arange(14) / 2) / (1 - margin)
        return np.mean((1 + stakes * margin) ** 300)

    same = outcomes([1.0] * 1000)
    found = conclude(Evidence(rule(0.05, ACCURACY), tuple(same), tuple(same[:300]), sequential=True))
    assert found.judgement.p_pass == pytest.approx(1 / capital(0.05), rel=1e-9, abs=0)
    assert capital(-found.comparison.ci_low) == pytest.approx(40)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_bets_without_replacement_are_fair_over_all_orders(sign):
    """Of values whose mean is the margin; each bet is won or lost, none stands still."""
    values = (1.0, 1.0, -1.0, 0.0, 0.0, 0.5)
    test = SequentialTest(0.25, 0.95, 6, higher_is_better=False, population="benchmark")
    logs = [test._capital(np.array(order[:3]), 0.25, sign) for order in itertools.permutations(values)]
    assert np.mean(np.exp(logs)) == pytest.approx(1)
    assert min(np.abs(logs)) > 1e-3


def test_groups_widen_what_the_bets_say():
    """To the cluster-robust interval at the stricter level, where that is the wider one."""
    before, after = pair(200, 12, 0, group=10)
    found = compare(before, after, ACCURACY, 0.95)
    assert found.spread.clustered
    differences = np.array([new.score - old.score for old, new in zip(before, after, strict=True)])
    test = SequentialTest(0.3, 0.95, 5000)
    low, high = test.interval(differences)
    longer = stats.t.ppf(0.995, found.spread.df) / stats.t.ppf(0.975, found.spread.df)
    for widest in (test.applied(found, differences), Bets(test, differences).applied(found)):
        assert widest.ci_low == pytest.approx(min(low, found.delta - longer * (found.delta - found.ci_low)))
        assert widest.ci_high == pytest.approx(max(high, found.delta + longer * (found.ci_high - found.delta)))
        assert widest.ci_low <= low
        assert widest.ci_high >= high


def test_bets_on_a_share_speak_of_the_difference():
    """Subject - r · reference lies in the bets' interval, so subject - reference does, moved by (r - 1) · reference."""
    before, after = pair(200, 12, 4)
    found = compare(before, after, ACCURACY, 0.95)
    ratio, whole = 0.9, 0.97
    differences = np.array([new.score - ratio * old.score for old, new in zip(before, after, strict=True)])
    test = SequentialTest(0.0, 0.95, 5000)
    bets = Bets(test, differences, ratio, whole).applied(found)
    low, high = test.interval(differences)
    assert (bets.ci_low, bets.ci_high) == pytest.approx((low + (ratio - 1) * whole, high + (ratio - 1) * whole))
    assert (bets.delta, bets.relative) == (found.delta, False)
    assert not relative(found, 0.1).undefined


def test_groups_widen_what_is_bet_on_a_share_too():
    """By the interval of the ratio, as shares of the reference's value on the whole benchmark."""
    before, after = pair(200, 40, 0, group=50)
    found = compare(before, after, ACCURACY, 0.95)
    own, ratio, whole = relative(found, 0.1), 0.9, 0.97
    assert own.spread.clustered
    differences = np.array([new.score - ratio * old.score for old, new in zip(before, after, strict=True)])
    test = SequentialTest(0.0, 0.95, 5000)
    widest = Bets(test, differences, ratio, whole).applied(found)
    longer = stats.t.ppf(0.995, own.spread.df) / stats.t.ppf(0.975, own.spread.df)
    ends = [
        whole / found.reference * (own.delta + longer * (end - own.delta)) for end in (own.ci_low, own.ci_high)
    ]  # ratio - 1 of the whole benchmark's value
    low, high = (bound + (ratio - 1) * whole for bound in test.interval(differences))
    assert ends[1] > high
    assert (widest.ci_low, widest.ci_high) == pytest.approx((min(low, ends[0]), max(high, ends[1])))


def test_two_looks_with_little_information_spend_what_they_are_given():
    """Against the bivariate normal distribution: the score at two looks, correlated by their information."""
    first, second, spent = 0.3, 0.5, (0.01, 0.025)
    bounds = guided.Boundaries()
    one, two = bounds.next(first, spent[0]), bounds.next(second, spent[1])
    assert one == pytest.approx(stats.norm.isf(spent[0]), abs=0.01)
    together = stats.multivariate_normal([0, 0], [[1, math.sqrt(first / second)], [math.sqrt(first / second), 1]])
    late = stats.norm.cdf(one) - together.cdf([one, two])
    assert late == pytest.approx(spent[1] - spent[0], rel=0.05)


def test_a_guided_interval_takes_the_limit_of_its_last_look():
    """Against the bivariate normal distribution, and the p-value turns where the interval does."""
    seen = tuple(guided.Look(0.01, se, se, 1 / se**2) for se in (0.05, 0.03))
    test = GuidedTest(seen, 0.05, 0.025, True, 300, 1000, 0.8)
    found = test.applied(compare(*pair(), ACCURACY, 0.95))
    limit = (found.delta - found.ci_low) / 0.03
    assert found.ci_high - found.delta == pytest.approx(limit * 0.03)
    first, both = guided.spent([each.information for each in seen], 0.05, 0.025)
    one = stats.norm.isf(first)
    together = stats.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]])
    assert stats.norm.cdf(one) - together.cdf([one, limit]) == pytest.approx(both - first, rel=0.05)
    assert abs(one - limit) > 0.05
    for nearer, stops in ((1 + 1e-9, True), (1 - 1e-3, False)):
        last = replace(seen[1], value=0.05 - nearer * limit * 0.03)
        p_pass, _ = replace(test, seen=(replace(seen[0], value=0.05), last)).p_values()
        assert (p_pass <= 0.025) is stops


def test_a_guide_holds_shares():
    assert Guide(1, guided.default_curve())
    for odd in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="shares between 0 and 1"):
            Guide(1, (odd, *guided.default_curve()[1:]))


def test_a_curve_learns_from_what_turned():
    before, after = pair(400, 200, 0)
    usual, found = guided.default_curve(), curve_of(before, [after])
    assert max(np.array(found) - np.array(usual)) > 0.2


# --- words and names ------------------------------------------------------------------------------------------------


def test_a_sentence_says_nothing_of_what_is_not_so():
    before, after = pair()
    assert Wording(compare(before, after, ACCURACY, 0.95)).counted == ""
    blind = replace(ACCURACY, blind="the order of words")
    assert Wording(compare(before, after, blind, 0.95)).counted == "; it does not see the order of words"


@pytest.mark.parametrize(
    ("name", "model", "slip"),
    [
        ("Qwen/Qven-7B", "Qwen/Qwen-7B", True),
        ("Qwen/Llama-7B", "Qwen/Qwen-7B", False),  # another word
        ("Qwen/Qven", "Qwen/Qwen-7B", False),  # fewer words, and no star
        ("Qwen/Qven*", "Qwen/Qwen-7B", True),
        ("Qwen/Qwen*", "Qwen/Qwen-7B", False),
        ("models/refrence", "models/reference", True),
        ("models/model-14b", "models/model-7b", False),  # another size beside it
        ("models/llama", "models/reference", False),
        ("models/refe-rence", "models/reference", True),  # the names of two directories as wholes, not word by word
        ("archive/refrence", "models/reference", False),  # another place
    ],
)
def test_what_counts_as_a_misspelt_model(name, model, slip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if model.startswith("models/"):
        (tmp_path / model).mkdir(parents=True)
    assert is_slip(name, model) is slip


def test_the_digest_of_an_answer_in_any_script_is_that_of_older_reports():
    """It stands in baselines and reports: written otherwise, every Chinese answer would seem changed by hand."""
    made = [ItemOutcome("一", "g", 1.0, "答案：甲")]
    assert digest_outcomes(made) == "b6f43eeb443fa510b41c6a662ca39d9f5743a70f6dc6a70739239646d2b717fc"


def test_groups_are_asked_for_a_fifth_of_the_error_at_each_look():
    assert [sequential._stricter(each) for each in (0.9, 0.95)] == pytest.approx([0.98, 0.99])


@pytest.mark.parametrize(("higher", "ratio"), [(True, 0.95), (False, 1.05)])
def test_a_share_of_a_mean_is_compared_with_what_the_share_leaves(higher, ratio):
    metric = Metric("rouge1", higher, "mean", stake=0.0)
    rng = np.random.default_rng(5)
    before = rng.random(40)
    after = before + rng.normal(0, 0.1, 40)
    found = relative(compare(outcomes(before), outcomes(after), metric, 0.95), 0.05)
    left = compare(outcomes(ratio * before), outcomes(after), metric, 0.95)
    moved = (ratio - 1) * before.mean()
    assert (found.ci_low, found.ci_high) == pytest.approx((left.ci_low + moved, left.ci_high + moved))
    assert found.statement.startswith(f"subject less {ratio} of the reference")
