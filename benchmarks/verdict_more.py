"""Further ugly settings: damage that comes in bursts, waves and tails, relative margins, groups, corpora, early stops.

Part of `verdict_calibration.py` (`--only more_means,more_beyond,more_binary,more_groups,more_corpus,more_sequential,
more_limits`).
As in `verdict_ugly`, the true harm lies exactly on the margin, and some runs of every setting go through whole
`compare` + `judge` calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from verdict_ugly import (
    CONFIDENCE,
    LOSS_MARGIN,
    ROUGE,
    Draw,
    Ugly,
    check_whole,
    distance,
    group_verdicts,
    means_verdicts,
    percent,
    rare,
)

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY, KLD_MEAN, PERPLEXITY, Metric
from quantgate.verdict import intervals
from quantgate.verdict.comparators.ratio import ratio_statistic
from quantgate.verdict.exact import Resampling, bootstrap_difference
from quantgate.verdict.intervals import Floats
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from quantgate.verdict.policy import Margin, Rule
from quantgate.verdict.sequential import log_capital, looks
from quantgate.verdict.unseen import unseen_tail

SEGMENT = replace(PERPLEXITY, stake=2.5)  # of 2,048 tokens
SEGMENT_KL = replace(KLD_MEAN, stake=2.5)
SPEED = Metric("decode_speed", True, "mean", stake=0.0)
GOAL = -math.log((1 - CONFIDENCE) / 2)


def centred(sample: Callable[[np.random.Generator, tuple[int, int]], Floats], margin: float, scale: float) -> Draw:
    """Harm of ``margin`` plus deviations of mean 0."""
    return lambda rng, runs, n: (
        3 + 0.4 * rng.normal(size=(runs, n)),
        margin + scale * sample(rng, (runs, n)),
    )


def bursts(share: float, length: int, margin: float) -> Draw:
    """Runs of ``length`` neighbours break together; ``share`` of all segments are in one and carry all harm."""

    def draw(rng, runs, n):
        begins = rng.random((runs, n + length)) < 1 - (1 - share) ** (1 / length)
        broken = np.lib.stride_tricks.sliding_window_view(begins, length, axis=1)[:, :n].any(axis=2)
        return 3 + 0.4 * rng.normal(size=(runs, n)), broken * margin / share + 0.01 * rng.normal(size=(runs, n))

    return draw


def smooth(kernel: Floats, margin: float, deviation: float, skew: float = 0.0) -> Draw:
    """A moving average of white noise along the text; ``skew``: sigma of a lognormal of it instead."""

    def draw(rng, runs, n):
        noise = rng.normal(size=(runs, n + kernel.size - 1))
        x = np.lib.stride_tricks.sliding_window_view(noise, kernel.size, axis=1) @ (kernel / math.sqrt(kernel @ kernel))
        if skew:
            x = (np.exp(skew * x - skew**2 / 2) - 1) / math.sqrt(math.expm1(skew**2))
        return 3 + 0.4 * rng.normal(size=(runs, n)), margin + deviation * x

    return draw


def wave(margin: float, deviation: float) -> Draw:
    """Harm goes up and down along the text, twice over 64 segments, from a random place."""

    def draw(rng, runs, n):
        phase = rng.random((runs, 1)) * 2 * np.pi
        x = math.sqrt(2) * np.sin(2 * np.pi * np.arange(n) / 32 + phase) + 0.5 * rng.normal(size=(runs, n))
        return 3 + 0.4 * rng.normal(size=(runs, n)), margin + deviation * x

    return draw


def pareto(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Mean 0, tail of the power 2.5."""
    return rng.pareto(2.5, size) - 1 / 1.5


def summed(first: Draw, second: Draw) -> Draw:
    """Both harms at once, on the first one's reference."""

    def draw(rng, runs, n):
        before, harm = first(rng, runs, n)
        return before, harm + second(rng, runs, n)[1]

    return draw


def of_reference(share: float, kind: str, level: float = 0.3) -> Draw:
    """Scores around ``level``; the subject keeps 1 - ``share`` of their mean. ``kind``: who loses.

    uniform: all the same; proportional: all a share of their own; weak: more where the score is low; empty: a few all.
    """

    def draw(rng, runs, n):
        before = np.clip(rng.beta(6 * level, 6 * (1 - level), (runs, n)), 0.0, 1.0)
        lost = share * level
        if kind == "uniform":
            return before, lost + 0.02 * rng.normal(size=(runs, n))
        if kind == "proportional":
            return before, share * before + 0.05 * rng.normal(size=(runs, n))
        if kind == "weak":
            return before, lost + 0.3 * (level - before) + 0.03 * rng.normal(size=(runs, n))
        return before, before * (rng.random((runs, n)) < share) + 0.004 * rng.normal(size=(runs, n))

    return draw


@dataclass(frozen=True)
class More:
    """A setting; ``share``: the margin is that share of the reference's value; ``groups``: items of a group."""

    ugly: Ugly
    share: float = 0.0
    groups: int = 1


def grouped(draw: Draw, size: int, deviation: float) -> Draw:
    """Groups of ``size`` with a deviation of their own on top."""

    def with_groups(rng, runs, n):
        before, harm = draw(rng, runs, n)
        return before, harm + deviation * np.repeat(rng.normal(size=(runs, -(-n // size))), size, axis=1)[:, :n]

    return with_groups


def settings() -> Iterator[More]:
    """Means."""
    kl, loss = 0.1, LOSS_MARGIN
    t3 = lambda rng, size: rng.standard_t(3, size)  # noqa: E731
    tail = lambda rng, runs, n: (  # noqa: E731
        np.zeros((runs, n)),
        np.where(
            rng.random((runs, n)) < 0.03, rng.lognormal(-0.5, 1, (runs, n)) * kl / 0.03, 1e-6 * rng.random((runs, n))
        ),
    )
    yield More(Ugly("KL, 3% broken, lognormal sizes", KLD_MEAN, kl, (120, 400), tail))
    yield More(Ugly("segments, 3.2% carry all, one block", SEGMENT, loss, (64, 100, 140), rare(0.032, loss, 0.0, 0.01)))
    yield More(
        Ugly("segments, 3.2%, and waves", SEGMENT, loss, (64, 140), summed(rare(0.032, loss, 0.0, 0.01), wave(0, 0.03)))
    )
    yield More(Ugly("KL, 4.2% broken, one block", SEGMENT_KL, kl, (64, 140), distance(rare(0.042, kl, 0.01, 0.3))))
    yield More(Ugly("segments, moving average of 8", SEGMENT, loss, (64, 140, 500), smooth(np.ones(8), loss, 0.05)))
    fading = 0.9 ** np.arange(60)
    yield More(Ugly("segments, correlation 0.9", SEGMENT, loss, (64, 140, 500), smooth(fading, loss, 0.03)))
    skewed = smooth(0.6 ** np.arange(12), loss, 0.08, skew=1.0)
    yield More(Ugly("segments, correlation 0.6, skewed", SEGMENT, loss, (64, 140, 500), skewed))
    yield More(Ugly("segments, waves of 32", SEGMENT, loss, (64, 140), wave(loss, 0.05)))
    yield More(Ugly("losses, Student t3", SEGMENT, loss, (64, 140), centred(t3, loss, 0.05)))
    yield More(Ugly("losses, Pareto 2.5", SEGMENT, loss, (140, 500), centred(pareto, loss, 0.1)))
    half = lambda rng, size: rng.integers(0, 2, size) * 2.0 - 1  # noqa: E731
    yield More(Ugly("half of them twice the margin", SEGMENT, loss, (64, 140), centred(half, loss, loss)))
    for share, sizes in ((0.05, (400, 1000)), (0.2, (100, 300)), (0.5, (30, 100))):
        for kind in ("uniform", "weak") if share == 0.05 else ("uniform", "proportional", "weak", "empty"):
            name, draw = f"ROUGE, {100 * share:.0f}% of it, {kind}", of_reference(share, kind)
            yield More(Ugly(name, ROUGE, share * 0.3, sizes, draw), share)
    slow = lambda rng, runs, n: (  # noqa: E731
        before := 10 + rng.normal(size=(runs, n)), before - (8 + rng.normal(size=(runs, n)))
    )  # fmt: skip
    yield More(Ugly("speed, 5 or 7 repetitions, 20%", SPEED, 2.0, (5, 7), slow), 0.2)
    in_groups = grouped(of_reference(0.2, "uniform"), 20, 0.03)
    yield More(Ugly("ROUGE, 20% of it, groups of 20", ROUGE, 0.06, (120, 400), in_groups), 0.2, 20)
    rare_groups = grouped(rare(0.05, kl, 0.02, 0.5), 8, 0.05)
    yield More(Ugly("KL, 5% broken, documents of 8", KLD_MEAN, kl, (240, 480), rare_groups), 0.0, 8)


def beyond() -> Iterator[More]:
    """Damage that no sample of this size can exclude, of a kind that the stake does not allow for."""
    loss = LOSS_MARGIN
    yield More(Ugly("segments, 2% in bursts of 4", PERPLEXITY, loss, (140, 500), bursts(0.02, 4, loss)))
    yield More(Ugly("one block, 8% in bursts of 4", SEGMENT, loss, (64, 140), bursts(0.08, 4, loss)))
    yield More(Ugly("one block, 1% lose 7.7 nats", SEGMENT, loss, (64, 140, 450), rare(0.01, loss, 0.0, 0.03)))
    yield More(Ugly("one block, 3% lose 2.6 nats", SEGMENT, loss, (64, 140), rare(0.03, loss, 0.0, 0.01)))


def more_means(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """P(pass | harm = margin), P(regressed | harm = margin), and the same with the reference taken as known."""
    return _means(rng, runs, settings())


def more_beyond(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """The same for damage beyond the stake, which is nobody's to promise."""
    return _means(rng, runs, beyond())


def _means(rng: np.random.Generator, runs: int, these: Iterator[More]) -> list[list[object]]:
    rows: list[list[object]] = []
    for each in these:
        found = each.ugly
        for n in found.sizes:
            before, harm = found.draw(rng, runs, n)
            codes = np.arange(n) // each.groups
            known = each.share * before.mean(axis=1) if each.share else np.full(runs, found.margin)
            as_known = means_verdicts(before, harm, found.metric, known, codes)[0]
            ratio = 1 - each.share
            judged = (ratio * before, harm - each.share * before, found.metric, np.zeros(runs) if each.share else known)
            passed, regressed = means_verdicts(*judged, codes)
            whole = replace(found, margin=each.share) if each.share else found
            agree = check_whole(before[:20], harm[:20], whole, passed[:20], regressed[:20], codes, bool(each.share))
            rows.append([found.name, n, *map(percent, (as_known, passed, regressed)), agree])
    return rows


def more_binary(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """0/1 scores under relative margins, in few items, and where nothing is ever won."""
    rows: list[list[object]] = []
    for n, accuracy, share, won in (
        (88, 0.15, 0.5, 0.02), (88, 0.33, 0.5, 0.02), (240, 0.1, 0.5, 0.05), (1000, 0.3, 0.1, 0.03),
        (40, 0.6, 0.3, 0.0), (150, 0.9, 0.05, 0.01), (400, 0.5, 0.06, 0.0), (1319, 0.05, 0.2, 0.01),
    ):  # fmt: skip
        cells = _cells(accuracy, share, won)
        counts = rng.multinomial(n, cells, size=runs)
        passed = np.zeros(runs, dtype=bool)
        for i, (both, lost, gained, _) in enumerate(counts):
            df = max(1.0, both + lost - 1.0)
            quantile = intervals.t_quantile(CONFIDENCE, df)
            passed[i] = both + lost > 0 and ratio_statistic(both, lost, gained, n, 1 - share) >= quantile
        agree = sum(_whole_binary(counts[i], share) == passed[i] for i in range(20))
        rows.append([n, accuracy, share, won, percent(passed), f"{agree} of 20"])
    return rows


def more_groups(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """0/1 scores where a few groups carry all harm: each is bad with a probability of ``share``; 8% turn besides."""
    rows: list[list[object]] = []
    for groups, size, margin, share in (
        (57, 35, 0.025, 0.2), (57, 246, 0.025, 0.2), (57, 35, 0.025, 0.05), (57, 246, 0.025, 0.05),
        (30, 20, 0.03, 0.2), (30, 20, 0.03, 0.05), (10, 24, 0.12, 0.3), (10, 24, 0.12, 0.15),
    ):  # fmt: skip
        sizes = np.full(groups, size)
        bad = rng.random((runs, groups)) < share
        worse = rng.binomial(sizes, np.where(bad, margin / share, 0.0) + 0.04)
        better = rng.binomial(sizes - worse, 0.04 / (0.96 - margin))
        passed, regressed, per_item = group_verdicts(worse, better, sizes, margin)
        agree = sum(_whole_groups(worse[i], better[i], sizes, margin) == passed[i] for i in range(20))
        shown = [percent(each) for each in (per_item, passed, regressed)]
        rows.append([f"{groups} of {size}", margin, share, *shown, f"{agree} of 20"])
    return rows


def more_limits(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """What no rule can do: samples without a single bad group or burst look like those of an unharmed model.

    So a rule passes harm at least as often as (such samples) x (an unharmed model passes), and one that holds 5% passes
    the unharmed at most in 5% / (such samples) of runs.
    """
    rows: list[list[object]] = []
    for groups, size, margin, share in ((57, 35, 0.025, 0.05), (30, 20, 0.03, 0.05), (10, 24, 0.12, 0.15)):
        sizes = np.full(groups, size)
        worse = rng.binomial(sizes, 0.04, size=(runs, groups))
        passed = group_verdicts(worse, rng.binomial(sizes - worse, 0.04 / 0.96), sizes, margin)[0]
        rows.append(_limit(f"{groups} groups of {size}, {share:.0%} bad", (1 - share) ** groups, passed))
    for name, n, draw, none in (
        ("segments, 2% in bursts of 4", 500, bursts(0.02, 4, 0.0), 0.98 ** (503 / 4)),
        ("one block, 8% in bursts of 4", 140, bursts(0.08, 4, 0.0), 0.92 ** (143 / 4)),
        ("one block, 1% lose 7.7 nats", 140, rare(0.01, 0.0, 0.0, 0.03), 0.99**140),
    ):
        before, harm = draw(rng, runs, n)
        metric = SEGMENT if name.startswith("one block") else PERPLEXITY
        rows.append(_limit(f"{name}, n = {n}", none, means_verdicts(before, harm, metric, LOSS_MARGIN)[0]))
    return rows


def _limit(name: str, none: float, passed: Floats) -> list[object]:
    share = float(passed.mean())
    return [name, f"{100 * none:.1f}", percent(passed), f"{100 * none * share:.1f}", f"{100 * min(1, 0.05 / none):.0f}"]


def _whole_groups(worse: Floats, better: Floats, sizes: Floats, margin: float) -> bool:
    before, after, names = [], [], []
    for group, (lost, won, size) in enumerate(zip(worse, better, sizes, strict=True)):
        before += [1.0] * lost + [0.0] * won + [1.0] * (size - lost - won)
        after += [0.0] * lost + [1.0] * won + [1.0] * (size - lost - won)
        names += [str(group)] * size
    pair = [[ItemOutcome(str(i), names[i], score) for i, score in enumerate(side)] for side in (before, after)]
    rule = Rule("t", "m", ACCURACY, Margin("absolute", margin), CONFIDENCE)
    return judge(compare(pair[0], pair[1], ACCURACY, CONFIDENCE), rule).verdict == "pass"


def _cells(accuracy: float, share: float, won: float) -> list[float]:
    """P(right twice), P(lost), P(won), the rest, when the subject keeps 1 - ``share`` of ``accuracy``."""
    lost = accuracy * share + won
    return [accuracy - lost, lost, won, 1 - accuracy - won]


def _whole_binary(counts: Floats, share: float) -> bool:
    both, lost, won, rest = map(int, counts)
    before = [1] * (both + lost) + [0] * (won + rest)
    after = [1] * both + [0] * lost + [1] * won + [0] * rest
    pair = [[ItemOutcome(str(i), str(i), float(s)) for i, s in enumerate(side)] for side in (before, after)]
    rule = Rule("t", "m", ACCURACY, Margin("relative", share), CONFIDENCE)
    found = compare(pair[0], pair[1], ACCURACY, CONFIDENCE)
    return judge(found, rule).verdict == "pass"


def bleu(sums: Floats) -> Floats:
    """BLEU of facts [..., 4 matches, 4 totals, length, reference's length], 0 where an order has no match."""
    matches, totals, ours, theirs = sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.exp(np.log(matches / totals).mean(axis=-1))
        brevity = np.exp(np.minimum(0.0, 1 - theirs / ours))
    found: Floats = np.where((matches > 0).all(axis=-1), 100 * brevity * mean, 0.0)
    return found


BLEU = Metric("bleu", True, "corpus", aggregate=lambda sums: float(bleu(sums)))


def translations(rng: np.random.Generator, runs: int, n: int, kind: str, keep: float) -> tuple[Floats, Floats]:
    """Facts of the reference and the subject, [runs, n, 10]; the subject keeps about ``keep`` of the matches."""
    length = rng.integers(8, 40, (runs, n))
    quality = rng.beta(4, 4, (runs, n))
    own = quality if kind == "empty" else quality * keep
    sides = []
    for level in (quality, own):
        totals = np.stack([np.maximum(length - order, 1) for order in range(4)], axis=-1)
        matches = rng.binomial(totals, np.clip(level[..., None], 0, 1) ** np.arange(1, 5))
        sides.append(np.concatenate([matches, totals, length[..., None], length[..., None]], axis=-1).astype(float))
    if kind == "empty":
        sides[1][rng.random((runs, n)) < 1 - keep, :4] = 0
    return sides[0], sides[1]


def more_corpus(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """BLEU under a relative margin that the subject, over 400,000 sentences, just exhausts."""
    rows: list[list[object]] = []
    for kind, keep, sizes in (("empty", 0.95, (64, 100, 400)), ("all", 0.99, (100, 400)), ("all", 0.92, (40, 100))):
        large = translations(rng, 1, 400_000, kind, keep)
        share = 1 - float(bleu(large[1][0].sum(axis=0)) / bleu(large[0][0].sum(axis=0)))
        for n in sizes:
            before, after = translations(rng, runs, n, kind, keep)
            passed = [_corpus_passes(before[i], after[i], share) for i in range(runs)]
            agree = sum(_whole_corpus(before[i], after[i], share) == passed[i] for i in range(5))
            rows.append([kind, f"{100 * share:.1f}%", n, percent(np.array(passed)), f"{agree} of 5"])
    return rows


_WEIGHTS: dict[int, Floats] = {}


def _weights(n: int) -> Floats:
    """The resamples of `bootstrap_difference`, which are the same for all samples of ``n`` items."""
    if n not in _WEIGHTS:
        drawn: list[Floats] = []
        rows = np.eye(n)
        bootstrap_difference(rows, rows, lambda sums: float(len(drawn.append(sums) or drawn)), np.arange(n),
                             Resampling(np.random.default_rng(1234)))  # fmt: skip
        _WEIGHTS[n] = np.array(drawn[2::2])
    return _WEIGHTS[n]


def _corpus_passes(before: Floats, after: Floats, share: float) -> bool:
    """`corpus_interval` and the margin, with the resamples in one product."""
    n, ratio = len(before), 1 - share
    value = bleu(after.sum(axis=0)) - ratio * bleu(before.sum(axis=0))
    draws = bleu(_weights(n) @ after) - ratio * bleu(_weights(n) @ before)
    low, high = np.quantile(draws, [0.025, 0.975])
    longer = intervals.t_quantile(CONFIDENCE, n - 1) / intervals.normal_quantile(CONFIDENCE) * math.sqrt(n / (n - 1))
    if value - longer * max(value - low, high - value) < 0:
        return False
    pseudo = [n * bleu(side.sum(axis=0)) - (n - 1) * bleu(side.sum(axis=0) - side) for side in (before, after)]
    moved = pseudo[1] - ratio * pseudo[0]
    harm = -(moved - moved.mean() + value)
    return float(unseen_tail(harm, max(float(np.abs(pseudo).max()), harm.max()), 0.0)) <= 1 - CONFIDENCE


def _whole_corpus(before: Floats, after: Floats, share: float) -> bool:
    pair = [[ItemOutcome(f"{i:05d}", f"{i:05d}", float(i), facts=tuple(row)) for i, row in enumerate(side)]
            for side in (before, after)]  # fmt: skip
    rule = Rule("t", "m", BLEU, Margin("relative", share), CONFIDENCE)
    return judge(compare(pair[0], pair[1], BLEU, CONFIDENCE), rule).verdict == "pass"


def more_sequential(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """Early stops under a relative margin: bets on subject - (1 - share) · reference, or with it as known."""
    rows: list[list[object]] = []
    for n, accuracy, share, won in ((200, 0.15, 0.5, 0.02), (400, 0.3, 0.5, 0.02), (1319, 0.3, 0.5, 0.02),
                                    (1319, 0.5, 0.1, 0.02), (4000, 0.2, 0.3, 0.01)):  # fmt: skip
        cells = _cells(accuracy, share, won)
        passed, known = np.zeros(runs, bool), np.zeros(runs, bool)
        for i in range(runs):
            seen = rng.choice(4, n, p=cells)
            counts = np.cumsum(seen[:, None] == np.arange(4), axis=0)[[at - 1 for at in looks(n, 64, 1.5)]].astype(
                float
            )
            harm = np.array([-share, 1 - share, -1.0, 0.0])  # (1 - share) · reference - subject: both, lost, won, none
            by_item = log_capital(harm, counts[:-1], 0.0, 1.0) >= GOAL
            margin = share * float(np.mean(seen < 2))
            of_known = log_capital(np.array([0.0, 1, -1, 0]), counts[:-1], margin, 1.0) >= GOAL
            both, lost, gained, _ = counts[-1]
            quantile = intervals.t_quantile(CONFIDENCE, max(1.0, both + lost - 1))
            at_end = ratio_statistic(both, lost, gained, n, 1 - share) >= quantile
            passed[i], known[i] = by_item.any() or at_end, of_known.any() or at_end
        rows.append([n, accuracy, share, percent(known), percent(passed)])
    return rows


HEAD_OF_LIMITS = ["damage", "samples without any", "pass unharmed", "so passes at least", "power that 5% would leave"]
HEADS = {
    "more_means": ["data", "n", "reference known: pass", "pass", "regressed", "whole calls agree"],
    "more_beyond": ["data", "n", "reference known: pass", "pass", "regressed", "whole calls agree"],
    "more_binary": ["n", "accuracy", "share", "P(won)", "pass", "whole calls agree"],
    "more_groups": [
        "groups",
        "margin",
        "share of bad groups",
        "per item: pass",
        "pass",
        "regressed",
        "whole calls agree",
    ],
    "more_corpus": ["damage", "share", "n", "pass", "whole calls agree"],
    "more_sequential": ["n", "accuracy", "share", "reference known: pass", "pass"],
}
