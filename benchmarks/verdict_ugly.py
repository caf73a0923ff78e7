"""Ugly data: how often a subject exactly on its margin passes, and one without harm is called regressed.

Rare and large damage, heavy tails, neighbours that resemble each other, few and unequal groups. The rules are the
library's own (`unseen_tail`, the formulas of `serial_spread` and `group_df`), vectorised over runs; `check_whole` holds
them against whole `compare` + `judge` calls. Part of `verdict_calibration.py` (`--only ugly_means,ugly_groups`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import KLD_MEAN, PERPLEXITY, Metric
from quantgate.verdict import intervals
from quantgate.verdict.intervals import Codes, Floats
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from quantgate.verdict.policy import Margin, Rule
from quantgate.verdict.unseen import unseen_tail

CONFIDENCE = 0.95
ROUGE = Metric("rouge1", True, "mean", best=1.0, worst=0.0)
PLAIN = Metric("x", True, "mean")
LOSS_MARGIN = math.log(1.08)
Draw = Callable[[np.random.Generator, int, int], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Ugly:
    """``draw(rng, runs, n)``: scores of the reference and harm of the subject, [runs, n]; mean harm = ``margin``."""

    name: str
    metric: Metric
    margin: float
    sizes: tuple[int, ...]
    draw: Draw


def rare(share: float, margin: float, usual: float, spread: float, level: float = 3.0) -> Draw:
    """``share`` of the items carry what harm the others (``usual`` each, times a lognormal) do not."""

    def draw(rng, runs, n):
        broken = (margin - usual * (1 - share)) / share
        harm = (
            usual * rng.lognormal(-(spread**2) / 2, spread, (runs, n)) if usual else spread * rng.normal(size=(runs, n))
        )
        return level + 0.4 * rng.normal(size=(runs, n)), np.where(rng.random((runs, n)) < share, broken, harm)

    return draw


def distance(draw: Draw) -> Draw:
    """The same with scores that are distances: 0 for the reference."""

    def zeros(rng, runs, n):
        harm = draw(rng, runs, n)[1]
        return np.zeros_like(harm), harm

    return zeros


def series(rho: float, deviation: float, margin: float) -> Draw:
    """AR(1) along the text."""

    def draw(rng, runs, n):
        x = rng.normal(size=(runs, n))
        for i in range(1, n):
            x[:, i] = rho * x[:, i - 1] + math.sqrt(1 - rho**2) * x[:, i]
        return 3 + 0.4 * rng.normal(size=(runs, n)), margin + deviation * x

    return draw


def documents(length: int, correlation: float, deviation: float, margin: float) -> Draw:
    """Documents of ``length`` segments with a deviation of their own."""

    def draw(rng, runs, n):
        own = np.repeat(rng.normal(size=(runs, -(-n // length))), length, axis=1)[:, :n]
        x = math.sqrt(correlation) * own + math.sqrt(1 - correlation) * rng.normal(size=(runs, n))
        return 3 + 0.4 * rng.normal(size=(runs, n)), margin + deviation * x

    return draw


def scaled(sample: Callable[[np.random.Generator, tuple[int, int]], Floats], margin: float) -> Draw:
    """Harm of the given shape (mean 1) with a mean of ``margin``."""
    return lambda rng, runs, n: (np.zeros((runs, n)), margin * sample(rng, (runs, n)))


def lost(share: float, rouge: float, steps: tuple[float, ...] = (1.0,)) -> Draw:
    """``share`` of the items lose all of a score around ``rouge``, or one of ``steps`` of it."""

    def draw(rng, runs, n):
        before = np.clip(rng.beta(8 * rouge, 8 * (1 - rouge), (runs, n)), 0.02, 1)
        harm = np.where(
            rng.random((runs, n)) < share, before * rng.choice(steps, (runs, n)), 0.004 * rng.normal(size=(runs, n))
        )
        return before, harm

    return draw


def jittered(margin: float, jitter: float) -> Draw:
    def draw(rng, runs, n):
        before = 0.9 + jitter * rng.normal(size=(runs, n))
        return before, jitter / 2 * rng.normal(size=(runs, n)) + (rng.random((runs, n)) < margin / 0.9) * 0.9

    return draw


def mean_settings() -> Iterator[Ugly]:
    """The settings that broke earlier rules, then others in the same spirit."""
    kl, loss = 0.1, LOSS_MARGIN
    yield Ugly("KL, 2% broken", KLD_MEAN, kl, (30, 88, 150, 300, 600), distance(rare(0.02, kl, 0.01, 0.2)))
    yield Ugly("perplexity, 3% carry all", PERPLEXITY, loss, (16, 64, 140, 400), rare(0.03, loss, 0.0, 0.01))
    yield Ugly("ROUGE, 5% empty", ROUGE, 0.05 * 0.3, (30, 64, 200, 500), lost(0.05, 0.3))
    for jitter in (0.0, 1e-11, 1e-3):
        yield Ugly(f"jitter {jitter:g}, rare total loss", PLAIN, 0.03, (64, 150), jittered(0.03, jitter))
    yield Ugly("jitter 0.001, rarer total loss", PLAIN, 0.01, (64, 150, 500), jittered(0.01, 1e-3))
    for sigma in (1.0, 1.5):
        shape = lambda rng, size, s=sigma: rng.lognormal(-(s**2) / 2, s, size)  # noqa: E731
        yield Ugly(f"KL lognormal, sigma {sigma}", KLD_MEAN, kl, (8, 30, 64, 240, 600), scaled(shape, kl))
    yield Ugly("KL gamma, shape 0.5", KLD_MEAN, kl, (8, 64, 600), scaled(lambda rng, s: rng.gamma(0.5, 2.0, s), kl))
    for rho in (0.3, 0.6):
        yield Ugly(f"perplexity, AR(1) {rho}", PERPLEXITY, loss, (16, 64, 500), series(rho, 0.05, loss))
    # others
    yield Ugly("KL, 1% broken", KLD_MEAN, kl, (64, 150, 300, 600), distance(rare(0.01, kl, 0.01, 0.2)))
    yield Ugly("KL, 5% broken", KLD_MEAN, kl, (30, 200, 400), distance(rare(0.05, kl, 0.02, 0.5)))
    yield Ugly("perplexity, 1% carry all", PERPLEXITY, loss, (64, 200, 450), rare(0.01, loss, 0.0, 0.03))
    yield Ugly("perplexity, 10% carry all", PERPLEXITY, loss, (30, 400), rare(0.1, loss, 0.0, 0.01))
    yield Ugly("ROUGE, 2% empty", ROUGE, 0.02 * 0.3, (100, 500, 1500), lost(0.02, 0.3))
    yield Ugly("scores in halves", ROUGE, 0.025 * 0.6, (64, 240, 500), lost(0.0333, 0.6, (0.5, 1.0)))
    yield Ugly("documents of 4, 0.5", PERPLEXITY, loss, (32, 500), documents(4, 0.5, 0.05, loss))
    yield Ugly("documents of 8, 0.3", PERPLEXITY, loss, (64, 500), documents(8, 0.3, 0.05, loss))
    yield Ugly("normal losses, no correlation", PERPLEXITY, loss, (16, 64, 500), series(0.0, 0.05, loss))


def means_verdicts(
    before: Floats, harm: Floats, metric: Metric, margin: float | Floats, codes: Codes | None = None
) -> tuple[Floats, Floats]:
    """(pass, regressed) of every run, [runs]; ``codes``: groups, the same in all runs."""
    runs, n = harm.shape
    centre, variance = harm.mean(axis=1), harm.var(axis=1, ddof=1)
    margin = np.broadcast_to(np.asarray(margin, dtype=np.float64), (runs,))
    effect, df = np.ones(runs), n - 1.0
    if codes is not None and intervals.groups_count(codes):
        spreads = [intervals.spread(each, codes) for each in harm]
        effect, df = np.array([each.design_effect for each in spreads]), spreads[0].df
    elif metric.serial:
        df = float(intervals.serial_spread(harm[0]).df)
        waves = np.cos(np.pi * np.arange(1, int(df) + 1)[:, None] * (np.arange(n) + 0.5) / n) * math.sqrt(2 / n)
        low = np.mean((harm @ waves.T) ** 2, axis=1)
        effect = np.maximum(1.0, low / np.where(variance > 0, variance, 1.0))
    quantile, se = intervals.t_quantile(CONFIDENCE, df), np.sqrt(variance * effect / n)
    arms = np.array([intervals.skewed_arms(harm[i], quantile, n / effect[i]) for i in range(runs)])
    if codes is not None and intervals.groups_count(codes):
        arms = np.maximum(arms, [each.arms(quantile) for each in spreads])
    high = centre + np.maximum(quantile, arms[:, 1]) * se
    low = centre - np.maximum(quantile, arms[:, 0]) * se
    passed, regressed = high <= margin, low > margin
    if codes is None or not intervals.groups_count(codes):
        effect = np.array([intervals.sure_effect(intervals.Spread(1.0, df, float(each), False)) for each in effect])
    if metric.stake is not None:
        worse = np.full(runs, metric.stake)
        better = np.abs(harm).max(axis=1) if metric.stake > 0 else np.zeros(runs)
    else:
        worse = (
            np.full(runs, metric.range)
            if metric.range
            else np.maximum(np.abs(before), np.abs(before - harm)).max(axis=1)
        )
        better = worse
    for i in np.flatnonzero(passed):
        passed[i] = worse[i] <= 0 or float(unseen_tail(harm[i], worse[i], margin[i], effect[i])) <= 1 - CONFIDENCE
    for i in np.flatnonzero(regressed):
        hidden = float(unseen_tail(-harm[i], better[i], -margin[i], effect[i]))
        regressed[i] = better[i] <= 0 or hidden <= 1 - CONFIDENCE
    return passed, regressed


def ugly_means(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """P(pass | harm = margin); P(regressed | harm 0) with the same deviations moved to a mean of 0; agreement."""
    rows: list[list[object]] = []
    for each in mean_settings():
        for n in each.sizes:
            before, harm = each.draw(rng, runs, n)
            by_t = (
                harm.mean(1) + intervals.t_quantile(CONFIDENCE, n - 1) * harm.std(1, ddof=1) / math.sqrt(n)
                <= each.margin
            )
            passed, regressed = means_verdicts(before, harm, each.metric, each.margin)
            agree = check_whole(before[:20], harm[:20], each, passed[:20], regressed[:20])
            rows.append([each.name, n, *map(percent, (by_t, passed)), percent(regressed), agree])
    return rows


def percent(found: Floats) -> str:
    """A share with its Monte Carlo error."""
    p = float(np.mean(found))
    return f"{100 * p:.1f} ± {100 * math.sqrt(p * (1 - p) / found.size):.1f}"


def check_whole(
    before: Floats, harm: Floats, each: Ugly, passed: Floats, regressed: Floats, codes: Codes | None = None,
    share: bool = False,
) -> str:  # fmt: skip
    """How many whole `compare` + `judge` calls give the verdict of the vectorised rule.

    ``share``: the margin is a share of the reference's value.
    """
    agree = 0
    kind = "relative" if each.metric.kind == "exp_mean" or share else "absolute"
    margin = math.expm1(each.margin) if each.metric.kind == "exp_mean" else each.margin
    rule = Rule("t", "m", each.metric, Margin(kind, margin))
    names = [f"{i:05d}" for i in (range(before.shape[1]) if codes is None else codes)]
    for old, lost_, ok, bad in zip(before, harm, passed, regressed, strict=True):
        new = old - lost_ if each.metric.higher_is_better else old + lost_
        sides = [[ItemOutcome(f"{i:05d}", names[i], float(s)) for i, s in enumerate(side)] for side in (old, new)]
        verdict = judge(compare(*sides, each.metric, CONFIDENCE), rule).verdict
        agree += verdict == ("pass" if ok else "regressed" if bad else "inconclusive")
    return f"{agree} of {len(harm)}"


GROUPS = {
    "one group of 150, 75 of 2": [150] + [2] * 75,
    "3 of 60, 60 single items": [60] * 3 + [1] * 60,
    "one of 80, 55 of 4": [80] + [4] * 55,
    "10 of 24": [24] * 10,
    "8 of 11": [11] * 8,
    "7 of 12": [12] * 7,
    "5 of 12": [12] * 5,
    "3 of 12": [12] * 3,
    "25, each 0.8 of the last": [max(1, int(120 * 0.8**i)) for i in range(25)],
}


def ugly_groups(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """0/1 scores in few or unequal groups: pass at the margin, regressed without harm, pass without harm."""
    rows: list[list[object]] = []
    for name, sizes in GROUPS.items():
        for icc in (0.0, 0.1, 0.3):
            for margin in (0.03, 0.12):
                found = [_group_runs(rng, runs, np.array(sizes), 0.15, harm, margin, icc) for harm in (margin, 0.0)]
                at, none = found
                rows.append([name, icc, margin, percent(at[2]), percent(at[0]), percent(none[1]), percent(none[0])])
    return rows


def _group_runs(rng, runs, sizes, discordance, harm, margin, icc):
    shares = ((discordance + harm) / 2, (discordance - harm) / 2)
    rates = []
    for p in shares:
        strength = (1 - icc) / icc if icc else 0
        rates.append(
            rng.beta(p * strength, (1 - p) * strength, (runs, sizes.size)) if icc else np.full((runs, sizes.size), p)
        )
    worse = rng.binomial(sizes, rates[0])
    better = rng.binomial(sizes - worse, np.minimum(rates[1] / np.maximum(1 - rates[0], 1e-9), 1))
    return group_verdicts(worse, better, sizes, margin)


def group_arms(residuals: Floats, sizes: Floats, quantile: float) -> tuple[Floats, Floats]:
    """`Spread.arms` of every run from the groups' sums, [runs, groups]."""
    skewness = intervals.sure_skewness(residuals, sizes.astype(np.float64))
    found = intervals.hall_arms(skewness, quantile, residuals.shape[1])
    return np.maximum(quantile, found[0]), np.maximum(quantile, found[1])


def group_verdicts(worse, better, sizes, margin):
    """(pass, regressed, pass per item) of every run from the answers lost and won by group, [runs, groups]."""
    n = sizes.sum()
    turned, mean = (worse + better).sum(1).astype(float), (better - worse).sum(1) / n
    alone = (turned - n * mean**2) / (n - 1) / n
    residuals = better - worse - sizes * mean[:, None]
    robust = (residuals**2 / (1 - sizes / n)).sum(1) / n**2
    effect = np.where(alone > 0, np.maximum(robust / np.where(alone > 0, alone, 1.0), 1), 1)
    effect = intervals.cautious_effect(effect, turned, float((sizes**2).sum() / n))
    quantile = intervals.t_quantile(CONFIDENCE, intervals.group_df(sizes.astype(float)))
    w, b = worse.sum(1).astype(float), better.sum(1).astype(float)
    below, above = group_arms(residuals, sizes, quantile)
    low = intervals.tango_interval(w / effect, b / effect, n / effect, below)[0]
    high = intervals.tango_interval(w / effect, b / effect, n / effect, above)[1]
    per_item = intervals.tango_interval(w, b, n, intervals.normal_quantile(CONFIDENCE))[0]
    return -low <= margin, -high > margin, -per_item <= margin


HEADS = {
    "ugly_means": ["data", "n", "pass by t alone", "pass", "regressed", "whole calls agree"],
    "ugly_groups": ["groups", "correlation", "margin", "pass per item", "pass", "regressed at 0", "pass at 0"],
}
