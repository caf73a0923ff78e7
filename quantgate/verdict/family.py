"""One decision from many cases.

A method may replace the reference when *every* case passes. That needs no correction: a bad method would have to be
lucky in the very case in which it is bad (intersection-union test, Berger 1982). ``regressed`` does: among many cases
one is red by chance, so a regression counts for the decision only if it survives Holm's (1979) correction over all
cases of the run, or Benjamini and Hochberg's (1995), as the policy says. The records of the cases stay as they are.

A decision speaks of what was planned: a method of which only some of the planned cases were judged (``-k``, ``--lf``,
an interrupted run) has not passed, however green they are, and neither has one of which nothing but bytes or speed was
compared. Every pass names what was compared.

Beside it stands the pooled loss: the mean over the cases of loss / margin. 0 is "as good as the reference", 1 is "all
that is allowed". It says more than the single cases where each has too few items.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantgate.verdict.intervals import normal_quantile
from quantgate.verdict.policy import Correction
from quantgate.verdict.records import Result, Verdict

_EFFICIENCY = "efficiency"
_NAMED_TASKS = 4  # of a dimension with more, a sentence gives the number
_NAMES = {"holm": "Holm's", "bh": "Benjamini and Hochberg's", "none": "no"}


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: rejecting those <= α keeps P(any false rejection) <= α under any dependence."""
    order = np.argsort(np.asarray(p, dtype=np.float64), kind="stable")
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the expected share of false rejections <= α for independent cases."""
    order = np.argsort(np.asarray(p, dtype=np.float64), kind="stable")
    adjusted, lowest = [0.0] * len(p), 1.0
    for rank in range(len(p), 0, -1):
        index = order[rank - 1]
        lowest = min(lowest, len(p) / rank * p[index])
        adjusted[index] = lowest
    return adjusted


@dataclass(frozen=True, slots=True)
class Pooled:
    """Mean loss as a share of the margin over several cases, with its interval; NaN when no case can be pooled."""

    share: float
    low: float
    high: float
    n_cases: int


@dataclass(frozen=True, slots=True)
class MethodDecision:
    """What a run says about one method. ``regressed`` holds the tasks whose regression survives the correction;
    ``left_out`` the planned tasks that were not judged.
    """

    method: str
    verdict: Verdict
    sentence: str
    passed: tuple[str, ...]
    regressed: tuple[str, ...]
    undecided: tuple[str, ...]
    invalid: tuple[str, ...]
    pooled: Pooled
    left_out: tuple[str, ...] = ()


def decide(
    results: Sequence[Result], correction: Correction = "holm", planned: Mapping[str, Sequence[str]] | None = None
) -> list[MethodDecision]:
    """One decision per method, in the order in which the methods occur. The correction runs over all ``results``.

    ``planned``: method -> all tasks that it was to be judged on; a method that is not in it was planned as judged.
    """
    confirmed = _confirmed(results, correction)
    methods: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        methods[result.method].append(result)
    for method in planned or {}:
        methods.setdefault(method, [])
    return [
        _decide(method, cases, confirmed, correction, _left_out(cases, (planned or {}).get(method, ())))
        for method, cases in methods.items()
    ]


def _left_out(cases: Sequence[Result], planned: Sequence[str]) -> tuple[str, ...]:
    judged = {case.task for case in cases}
    return tuple(task for task in planned if task not in judged)


def _confirmed(results: Sequence[Result], correction: Correction) -> set[int]:
    """``id`` of the results whose regression survives the correction."""
    tested = [result for result in results if result.verdict != "invalid"]
    p = [_p_regressed(result) for result in tested]
    adjusted = p if correction == "none" else holm(p) if correction == "holm" else benjamini_hochberg(p)
    return {
        id(result)
        for result, value in zip(tested, adjusted, strict=True)
        if result.verdict == "regressed" and value <= (1 - result.confidence) / 2
    }


def _p_regressed(result: Result) -> float:
    """The record's p-value; without one (no interval was made) the verdict says on which side of the level it is."""
    level = (1 - result.confidence) / 2
    found = result.companions.get("p_regressed", math.nan)
    return found if 0 <= found <= 1 else (level if result.verdict == "regressed" else 1.0)


def _decide(
    method: str, cases: Sequence[Result], confirmed: set[int], correction: Correction, left_out: tuple[str, ...]
) -> MethodDecision:
    passed = tuple(case.task for case in cases if case.verdict == "pass")
    invalid = tuple(case.task for case in cases if case.verdict == "invalid")
    regressed = tuple(case.task for case in cases if id(case) in confirmed)
    undecided = tuple(case.task for case in cases if case.task not in (*passed, *invalid, *regressed))
    verdict: Verdict = "pass" if passed and not left_out and not _only_efficiency(cases) else "inconclusive"
    for name, tasks in (("inconclusive", undecided), ("regressed", regressed), ("invalid", invalid)):
        if tasks:
            verdict = name  # type: ignore[assignment]  # the three literals above
    sentence = {
        "pass": f"{method} may replace the reference: it passes {_all(cases)} ({compared(cases)})",
        "regressed": f"{method} must not replace the reference: {_some(regressed, cases)} regressed"
        f" ({_NAMES[correction]} correction)",
        "inconclusive": f"{method} is not decided: "
        + (f"{_some(undecided, cases)} undecided" if undecided else _why_open(cases, left_out)),
        "invalid": f"nothing can be said about {method}: {_some(invalid, cases)} invalid",
    }[verdict]
    if left_out and (undecided or verdict != "inconclusive"):
        sentence += f"; {_unjudged(cases, left_out)}"
    pooled = pool(cases)
    sentence += _pooled_words(pooled)
    return MethodDecision(method, verdict, sentence, passed, regressed, undecided, invalid, pooled, left_out)


def _only_efficiency(cases: Sequence[Result]) -> bool:
    """Whether no answer was compared: a smaller or faster model may still be a broken one."""
    return all(case.dimension == _EFFICIENCY for case in cases)


def _why_open(cases: Sequence[Result], left_out: Sequence[str]) -> str:
    """Why a method without a case that speaks against it has not passed."""
    judged = f"it passes the {len(cases)} judged ({compared(cases)})" if cases else ""
    if left_out:
        return "; ".join(filter(None, (judged, _unjudged(cases, left_out))))
    return f"{judged}, but nothing else was compared: no answer of the two models"


def _unjudged(cases: Sequence[Result], left_out: Sequence[str]) -> str:
    """How much of the plan was left out, for any reason: selection, an interruption, a lost worker."""
    return f"{_counted(left_out)} of {len(cases) + len(left_out)} planned cases were not judged"


def _counted(tasks: Sequence[str]) -> str:
    named = ", ".join(tasks[: 2 * _NAMED_TASKS]) + (", ..." if len(tasks) > 2 * _NAMED_TASKS else "")
    return f"{len(tasks)} ({named})"


def compared(cases: Sequence[Result]) -> str:
    """The dimensions of ``cases`` with their tasks; of a dimension with many tasks their number."""
    dimensions: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        dimensions[case.dimension].append(case.task)
    return "; ".join(
        f"{dimension}: {', '.join(tasks) if len(tasks) <= _NAMED_TASKS else f'{len(tasks)} tasks'}"
        for dimension, tasks in sorted(dimensions.items())
    )


def _all(cases: Sequence[Result]) -> str:
    return "its one case" if len(cases) == 1 else f"all {len(cases)} cases"


def _some(tasks: Sequence[str], cases: Sequence[Result]) -> str:
    return f"{len(tasks)} of {len(cases)} cases ({', '.join(tasks)})"


def _pooled_words(pooled: Pooled) -> str:
    if math.isnan(pooled.share):
        return ""
    return f"; over its cases it uses {100 * pooled.share:.0f}% of what is allowed (at most {100 * pooled.high:.0f}%)"


def pool(cases: Iterable[Result]) -> Pooled:
    """Pooled loss of the cases that were compared and have a margin above 0; efficiency is no quality to weigh it with.

    Cases on the same items (``data_digest``) move together, so their errors are added; the others' are independent
    given the models, so their squares are.
    """
    shares: list[float] = []
    errors: dict[str, float] = defaultdict(float)
    quantiles: list[float] = []
    for case in cases:
        if case.verdict == "invalid" or case.dimension == "efficiency":
            continue
        if not (case.margin > 0 and math.isfinite(case.ci_high - case.ci_low)):
            continue
        quantile = normal_quantile(case.confidence)
        harm = -case.delta if case.higher_is_better else case.delta
        shares.append(harm / case.margin)
        # The wider arm, because the interval of a perplexity or of few flips is not symmetric.
        arm = max(case.ci_high - case.delta, case.delta - case.ci_low)
        errors[case.data_digest or f"case {len(shares)}"] += arm / quantile / case.margin
        quantiles.append(quantile)
    if not shares:
        return Pooled(math.nan, math.nan, math.nan, 0)
    share = math.fsum(shares) / len(shares)
    half = max(quantiles) * math.sqrt(math.fsum(error**2 for error in errors.values())) / len(shares)
    return Pooled(share, share - half, share + half, len(shares))
