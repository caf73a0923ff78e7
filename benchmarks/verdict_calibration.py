"""How often are the verdicts wrong? Simulation with known truth; prints the tables of docs/verdicts.md.

    python benchmarks/verdict_calibration.py [--runs 4000] [--only fixed,sequential,...]

Truth: the subject's accuracy differs from the reference's by 0, -margin or -2 margins, and a given share of the items
turns one way or the other. The decision rules are the library's own (`tango_interval`, `spread`, `SequentialTest`,
`log_capital`); only the loops over runs are vectorised. `--only check` runs whole `compare` + `judge` calls on the same
draws and demands the same verdicts. Fixed seeds; about six minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import verdict_more
import verdict_ugly

from quantgate.core.items import ItemOutcome
from quantgate.core.metrics import ACCURACY
from quantgate.verdict import intervals
from quantgate.verdict.intervals import Floats
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from quantgate.verdict.policy import Margin, Rule
from quantgate.verdict.power import items_for_margin
from quantgate.verdict.sequential import SequentialTest, log_capital, looks

CONFIDENCE = 0.95
QUANTILE = intervals.normal_quantile(CONFIDENCE)
GOAL = -np.log((1 - CONFIDENCE) / 2)
SIZES = (50, 200, 1000, 14042)
DISCORDANCES = (0.02, 0.08, 0.20)
BASE_ACCURACY = 0.75
LIMIT = 0.05


def settings() -> Iterator[tuple[int, float, float, float]]:
    """n, discordance, margin, true difference. A difference needs at least as many discordant items."""
    for n in SIZES:
        for discordance in DISCORDANCES:
            margin = min(0.02, discordance / 2)
            for factor in (0, -1, -2):
                yield n, discordance, margin, factor * margin


def shares(discordance: float, difference: float) -> tuple[float, float]:
    """P(right->wrong), P(wrong->right)."""
    return (discordance - difference) / 2, (discordance + difference) / 2


def fixed_verdicts(
    worse: Floats, better: Floats, n: Floats, quantile: Floats | float, margin: float
) -> tuple[float, float]:
    """Shares of pass and regressed, by the score interval; each distinct count is worked out once."""
    rows, back = np.unique(
        np.column_stack(np.broadcast_arrays(worse, better, n, quantile)), axis=0, return_inverse=True
    )
    low, high = intervals.tango_interval(*rows.T)
    passed, regressed = (-low <= margin)[back.ravel()], (-high > margin)[back.ravel()]
    return float(passed.mean()), float(regressed.mean())


def fixed(rng: np.random.Generator, runs: int) -> list[list[object]]:
    rows: list[list[object]] = []
    for n, discordance, margin, difference in settings():
        p_worse, p_better = shares(discordance, difference)
        counts = rng.multinomial(n, [p_worse, max(p_better, 0), 1 - p_worse - max(p_better, 0)], size=runs)
        passed, regressed = fixed_verdicts(counts[:, 0], counts[:, 1], np.full(runs, n), QUANTILE, margin)
        rows.append(
            [
                n,
                discordance,
                margin,
                difference,
                passed,
                regressed,
                *verdict_errors(difference, margin, passed, regressed),
            ]
        )
    return rows


def missing(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """A subject on the margin, one point of whose loss are answers that only it could not give."""
    n, margin, silent = 2000, 0.025, 0.01
    rows: list[list[object]] = []
    for discordance in (0.04, 0.08, 0.20):
        p_worse, p_better = shares(discordance, -margin)
        chances = [silent, p_worse - silent, p_better, 1 - p_worse - p_better]
        lost, worse, better, _ = rng.multinomial(n, chances, size=runs).T
        left_out, _ = fixed_verdicts(worse, better, n - lost, QUANTILE, margin)
        counted, _ = fixed_verdicts(worse + lost, better, np.full(runs, n), QUANTILE, margin)
        rows.append([n, discordance, margin, silent, left_out, counted])
    return rows


def verdict_errors(difference: float, margin: float, passed: float, regressed: float) -> tuple[str]:
    """Marks a row in which a wrong verdict came out more often than 5% (plus two standard errors of 4000 runs)."""
    wrong = passed if difference <= -margin else regressed
    return ("" if wrong <= LIMIT else "TOO OFTEN",)


def clustered(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """Groups differ: each group's loss rate is drawn around the truth, so that items of a group resemble each other.

    ``icc`` is the intraclass correlation of the discordance indicators (beta-distributed rates per group).
    """
    rows: list[list[object]] = []
    for n, n_groups in ((200, 10), (200, 40), (1000, 10), (1000, 50), (14042, 57)):
        for discordance in DISCORDANCES:
            for icc in (0.0, 0.02, 0.10):
                margin = min(0.02, discordance / 2)
                for difference in (0.0, -margin):
                    naive, robust = _clustered_runs(rng, runs, n, n_groups, discordance, margin, difference, icc)
                    rows.append(
                        [
                            n,
                            n_groups,
                            discordance,
                            icc,
                            difference,
                            *naive,
                            *robust,
                            *verdict_errors(difference, margin, *robust),
                        ]
                    )
    return rows


def _clustered_runs(rng, runs, n, n_groups, discordance, margin, difference, icc):
    sizes = group_sizes(n, n_groups)
    worse, better = group_counts(rng, runs, sizes, shares(discordance, difference), icc)
    effects, df, residuals = _design_effects(worse, better, sizes)
    totals = worse.sum(axis=1), better.sum(axis=1)
    naive = fixed_verdicts(*totals, np.full(runs, n), QUANTILE, margin)
    quantile = intervals.t_quantile(CONFIDENCE, df)
    arms = verdict_ugly.group_arms(residuals, sizes, quantile)
    robust = [fixed_verdicts(totals[0] / effects, totals[1] / effects, n / effects, arm, margin) for arm in arms]
    return naive, (robust[0][0], robust[1][1])


def group_sizes(n: int, n_groups: int) -> Floats:
    """Unequal group sizes as in MMLU: the largest is several times the smallest."""
    weights = np.linspace(0.4, 1.6, n_groups)
    sizes = np.floor(weights / weights.sum() * n)
    sizes[-1] += n - sizes.sum()
    return sizes.astype(int)


def group_counts(rng, runs, sizes, probabilities, icc):
    """Discordant counts per run and group with the given overall probabilities."""
    p_worse, p_better = (max(p, 0.0) for p in probabilities)
    shape = (runs, sizes.size)
    rates = []
    for p in (p_worse, p_better):
        if icc > 0 and p > 0:
            strength = (1 - icc) / icc
            rates.append(rng.beta(p * strength, (1 - p) * strength, size=shape))
        else:
            rates.append(np.full(shape, p))
    worse = rng.binomial(sizes, rates[0])
    better = rng.binomial(sizes - worse, np.minimum(rates[1] / np.maximum(1 - rates[0], 1e-9), 1))
    return worse.astype(float), better.astype(float)


def _design_effects(worse: Floats, better: Floats, sizes: Floats) -> tuple[Floats, float, Floats]:
    """`intervals.spread` for many runs at once, from the group sums of differences in -1, 0, 1."""
    n, sums = sizes.sum(), better - worse
    mean = sums.sum(axis=1) / n
    squares = (better + worse).sum(axis=1)
    independent = (squares - n * mean**2) / (n - 1) / n
    residuals = sums - sizes * mean[:, None]
    robust = (residuals**2 / (1 - sizes / n)).sum(axis=1) / n**2
    with np.errstate(invalid="ignore", divide="ignore"):
        effects = np.where(independent > 0, np.maximum(robust / independent, 1), 1)
    effects = intervals.cautious_effect(effects, squares, (sizes**2).sum() / n)
    return effects, intervals.group_df(sizes.astype(float)), residuals


def sequential(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """The betting test, then the fixed verdict where it did not stop before the last item."""
    rows: list[list[object]] = []
    for n, discordance, margin, difference in settings():
        passed, regressed, used = sequential_runs(rng, runs, n, discordance, margin, difference)
        rows.append(
            [
                n,
                discordance,
                margin,
                difference,
                passed,
                regressed,
                float(np.median(used) / n),
                float(np.mean(used) / n),
                *verdict_errors(difference, margin, passed, regressed),
            ]
        )
    return rows


def sequential_runs(rng, runs, n, discordance, margin, difference):
    p_worse, p_better = (max(p, 0) for p in shares(discordance, difference))
    verdict, used = np.zeros(runs, dtype=int), np.full(runs, n)
    counts, seen = np.zeros((runs, 3)), 0
    for at in looks(n):
        counts += rng.multinomial(at - seen, [p_worse, 1 - p_worse - p_better, p_better], size=runs)
        seen = at
        open_ = np.flatnonzero(verdict == 0)
        for code, sign in ((1, 1.0), (2, -1.0)):
            reached = log_capital(np.array([1.0, 0.0, -1.0]), counts[open_], margin, sign) >= GOAL
            verdict[open_[reached]], used[open_[reached]] = code, at
            open_ = open_[~reached]
    left = verdict == 0
    low, high = intervals.tango_interval(counts[left, 0], counts[left, 2], n, QUANTILE)
    verdict[left] = np.where(-low <= margin, 1, np.where(-high > margin, 2, 0))
    return float((verdict == 1).mean()), float((verdict == 2).mean()), used


def finite(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """`population="benchmark"`: a benchmark whose own difference is exactly the truth, visited in random order."""
    rows: list[list[object]] = []
    for n, discordance, factor in ((200, 0.08, 0), (200, 0.08, -1), (1000, 0.08, 0), (1000, 0.08, -1), (1000, 0.2, -1)):
        margin = 0.02
        counts = np.round(np.array(shares(discordance, factor * margin)) * n).astype(int)
        population = np.concatenate([-np.ones(counts[0]), np.ones(counts[1]), np.zeros(n - counts.sum())])
        truth = float(population.mean())
        tests = {name: SequentialTest(margin, CONFIDENCE, n, population=name) for name in ("beyond", "benchmark")}
        for name, test in tests.items():
            found = [_visit(test, rng.permutation(population)) for _ in range(runs)]
            passed, regressed = (float(np.mean([v == w for v, _ in found])) for w in ("pass", "regressed"))
            used = [k for _, k in found]
            rows.append(
                [
                    name,
                    n,
                    discordance,
                    truth,
                    passed,
                    regressed,
                    float(np.median(used) / n),
                    *verdict_errors(truth, margin, passed, regressed),
                ]
            )
    return rows


def _visit(test: SequentialTest, differences: Floats) -> tuple[str, int]:
    for at in looks(differences.size - 1, growth=1.15):
        verdict = test.look(differences[:at])
        if verdict != "inconclusive":
            return verdict, at
    return "inconclusive", differences.size


def sequential_clustered(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """Clustered items in random order; at the end the cluster-robust fixed verdict."""
    rows: list[list[object]] = []
    for n, n_groups, discordance, icc in (
        (1000, 50, 0.08, 0.0),
        (1000, 50, 0.08, 0.1),
        (14042, 57, 0.08, 0.02),
        (14042, 57, 0.08, 0.1),
    ):
        for difference in (0.0, -0.02):
            found = [_clustered_visit(rng, n, n_groups, discordance, difference, icc) for _ in range(runs)]
            passed, regressed = (float(np.mean([v == w for v, _ in found])) for w in ("pass", "regressed"))
            rows.append(
                [
                    n,
                    n_groups,
                    discordance,
                    icc,
                    difference,
                    passed,
                    regressed,
                    float(np.median([k for _, k in found]) / n),
                    *verdict_errors(difference, 0.02, passed, regressed),
                ]
            )
    return rows


def _clustered_visit(rng, n, n_groups, discordance, difference, icc):
    sizes = group_sizes(n, n_groups)
    worse, better = group_counts(rng, 1, sizes, shares(discordance, difference), icc)
    codes = np.repeat(np.arange(n_groups), sizes)
    within = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    w, b = np.repeat(worse[0], sizes), np.repeat(better[0], sizes)
    differences = np.where(within < w, -1.0, np.where(within < w + b, 1.0, 0.0))
    order = rng.permutation(n)
    differences, codes = differences[order], codes[order]
    test, values = SequentialTest(0.02, CONFIDENCE, n), np.array([1.0, 0.0, -1.0])
    at_looks = np.array(list(looks(n - 1)))
    counts = np.column_stack([np.cumsum(-differences == value)[at_looks - 1] for value in values]).astype(float)
    # The library's look is only asked where a bet has won; elsewhere it says "inconclusive".
    won = np.maximum(*(log_capital(values, counts, test.margin, sign) for sign in (1.0, -1.0))) >= GOAL
    for at in at_looks[won]:
        verdict = test.look(differences[:at], codes[:at])
        if verdict != "inconclusive":
            return verdict, int(at)
    found = intervals.binary_spread(differences, codes)
    low, high = intervals.binary_interval(differences, found, intervals.t_quantile(CONFIDENCE, found.df))
    return ("pass" if -low <= 0.02 else "regressed" if -high > 0.02 else "inconclusive"), n


def means(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """Real scores: loss differences (normal) and KL divergences per segment (skewed), true harm = margin."""
    draws: dict[str, Callable[[int], Floats]] = {
        "normal (loss differences)": lambda n: rng.normal(0.0, 1.0, n),
        "gamma, shape 4": lambda n: rng.gamma(4.0, 0.5, n) - 2.0,
        "lognormal, sigma 0.5": lambda n: rng.lognormal(0.0, 0.5, n) - np.exp(0.125),
        "lognormal, sigma 1": lambda n: rng.lognormal(0.0, 1.0, n) - np.exp(0.5),
    }
    rows: list[list[object]] = []
    for name, draw in draws.items():
        for n in (8, 16, 64, 256):
            plain, found = np.zeros((runs, 2)), np.zeros((runs, 2))
            quantile = intervals.t_quantile(CONFIDENCE, n - 1)
            for run in range(runs):
                harm = draw(n)
                spread = intervals.spread(harm, np.arange(n))
                # The interval of harm - margin: the subject passes when it lies below 0.
                found[run] = intervals.mean_interval(harm, spread, quantile)
                plain[run] = harm.mean() + np.array([-1, 1]) * quantile * spread.se
            shares_ = [float((bounds[:, 1] < 0).mean()) for bounds in (plain, found)]
            regressed = float((found[:, 0] > 0).mean())
            rows.append([name, n, *shares_, regressed, *verdict_errors(-1, 1, shares_[1], regressed)])
    return rows


def power(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """P(pass) without any loss and P(pass) at a true loss, against today's gates on the same draws (margin 0.02)."""
    margin, rows = 0.02, []
    for n, discordance in ((1000, 0.08), (1319, 0.08), (4000, 0.08), (14042, 0.08)):
        for difference in (0.0, -0.01, -0.02, -0.03, -0.05):
            p_worse, p_better = shares(discordance, difference)
            counts = rng.multinomial(n, [p_worse, p_better, 1 - p_worse - p_better], size=runs).astype(float)
            ours = fixed_verdicts(counts[:, 0], counts[:, 1], np.full(runs, n), QUANTILE, margin)
            delta = (counts[:, 1] - counts[:, 0]) / n
            reference = rng.binomial(n, BASE_ACCURACY, size=runs) / n
            subject = np.clip(reference + delta, 0, 1)
            error = np.sqrt((reference * (1 - reference) + subject * (1 - subject)) / n)
            unpaired = (
                float((delta - QUANTILE * error >= -margin).mean()),
                float((delta + QUANTILE * error < -margin).mean()),
            )
            recovery = float((np.round(subject / reference, 2) >= 0.95).mean())
            vllm = float((delta >= -0.08).mean())
            rows.append([n, difference, *ours, *unpaired, recovery, vllm])
    return rows


def check(rng: np.random.Generator, runs: int) -> list[list[object]]:
    """Whole compare + judge calls against the vectorised rule."""
    agree = total = 0
    for n, discordance, margin, difference in settings():
        if n > 1000:
            continue
        p_worse, p_better = (max(p, 0) for p in shares(discordance, difference))
        rule = Rule("t", "m", ACCURACY, Margin("absolute", margin), CONFIDENCE)
        for _ in range(max(1, runs // 200)):
            w, b, _rest = rng.multinomial(n, [p_worse, p_better, 1 - p_worse - p_better])
            before = np.concatenate([np.ones(w), np.zeros(b), np.ones(n - w - b)])
            after = np.concatenate([np.zeros(w), np.ones(b), np.ones(n - w - b)])
            pair = [[ItemOutcome(str(i), str(i), float(s)) for i, s in enumerate(side)] for side in (before, after)]
            verdict = judge(compare(pair[0], pair[1], ACCURACY, CONFIDENCE), rule).verdict
            passed, regressed = fixed_verdicts(np.array([w]), np.array([b]), np.array([n]), QUANTILE, margin)
            agree += verdict == ("pass" if passed else "regressed" if regressed else "inconclusive")
            total += 1
    return [["whole compare + judge agree with the table's rule", f"{agree} of {total}"]]


HEADS = {
    "fixed": ["n", "discordance", "margin", "true difference", "pass", "regressed", ""],
    "clustered": [
        "n",
        "groups",
        "discordance",
        "icc",
        "true difference",
        "pass per item",
        "regressed per item",
        "pass",
        "regressed",
        "",
    ],
    "sequential": [
        "n",
        "discordance",
        "margin",
        "true difference",
        "pass",
        "regressed",
        "median items",
        "mean items",
        "",
    ],
    "finite": ["population", "n", "discordance", "true difference", "pass", "regressed", "median items", ""],
    "sequential_clustered": [
        "n",
        "groups",
        "discordance",
        "icc",
        "true difference",
        "pass",
        "regressed",
        "median items",
        "",
    ],
    "means": ["scores", "n", "pass by t alone", "pass", "regressed", ""],
    "power": [
        "n",
        "true difference",
        "pass",
        "regressed",
        "unpaired pass",
        "unpaired regressed",
        "0.95 recovery passes",
        "0.08 tolerance passes",
    ],
    "check": ["what", "result"],
    **verdict_ugly.HEADS,
    **verdict_more.HEADS,
    "missing": ["n", "discordance", "margin", "not given", "left out: pass", "counted as lost: pass"],
    "more_limits": verdict_more.HEAD_OF_LIMITS,  # the last one: seeds go by the place in this table
}
SLOW = {"finite": 4, "sequential_clustered": 2}  # these walk item by item: fewer runs


def show(head: list[str], rows: list[list[object]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in row) + " |")


def _table(name: str) -> Callable[[np.random.Generator, int], list[list[object]]]:
    found: Callable[[np.random.Generator, int], list[list[object]]] = (
        globals().get(name) or getattr(verdict_ugly, name, None) or getattr(verdict_more, name)
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=20240607)
    parser.add_argument("--only", default=",".join(HEADS))
    options = parser.parse_args()
    print(f"{options.runs} runs a setting, seed {options.seed}, confidence {CONFIDENCE} (2.5% a side)")
    print(f"items to pass at margin 0.02, 8% discordance, no loss, power 80%: {items_for_margin(0.02, 0.08)}")
    for name in options.only.split(","):
        started = time.perf_counter()
        rng = np.random.default_rng([options.seed, list(HEADS).index(name)])
        rows = _table(name)(rng, options.runs // SLOW.get(name, 1))
        print(f"\n### {name}\n")
        show(HEADS[name], rows)
        print(f"\n{time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
