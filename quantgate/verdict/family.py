"""One decision from many cases, and what many cases together say about one red one.

A method may replace the reference when *every* case passes. That needs no correction: a bad method would have to be
lucky in the very case in which it is bad (intersection-union test, Berger 1982). ``regressed`` does: among many cases
one is red by chance, so a regression is *confirmed* only if it survives Holm's (1979) correction over all cases of the
run, or Benjamini and Hochberg's (1995), as the policy says. One that does not is "regressed alone": open for the
decision, and for the exit code what the policy's ``family.exit`` says. The records of the cases stay as they are.

A decision speaks of what was planned: a method of which only some of the planned cases were judged (``-k``, ``--lf``,
an interrupted run) has not passed, however green they are, and neither has one of which nothing but bytes or speed was
compared. Every pass names what was compared.

Beside it stands the pooled loss: the mean over the cases of loss / margin. 0 is "as good as the reference", 1 is "all
that is allowed". It says more than the single cases where each has too few items.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from quantgate.core.metrics import PROB_RIGHT
from quantgate.core.records import Result, Verdict, leaves_green
from quantgate.verdict.intervals import normal_quantile
from quantgate.verdict.policy import Correction, FamilyExit

_EFFICIENCY: Final = "efficiency"
_BLIND: Final = {PROB_RIGHT.name: PROB_RIGHT.blind}  # metrics that see a part of what answers show, and what they miss
_NAMED_TASKS: Final = 4  # of a dimension with more, a sentence gives the number
_NAMES: Final = {"holm": "Holm's", "bh": "Benjamini and Hochberg's", "none": "no"}


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


# --- red cases among many -------------------------------------------------------------------------------------------


def confirmed(results: Sequence[Result], correction: Correction) -> list[bool]:
    """Of each result, whether it is a regression that survives the correction over all of them."""
    tested = [index for index, result in enumerate(results) if result.verdict != "invalid"]
    p = [_p_regressed(results[index]) for index in tested]
    adjusted = p if correction == "none" else holm(p) if correction == "holm" else benjamini_hochberg(p)
    found = [False] * len(results)
    for index, value in zip(tested, adjusted, strict=True):
        result = results[index]
        found[index] = result.verdict == "regressed" and value <= (1 - result.confidence) / 2
    return found


def alone(results: Sequence[Result], correction: Correction) -> list[bool]:
    """Of each result, whether it is a regression that does not survive the correction."""
    return [
        result.verdict == "regressed" and not sure
        for result, sure in zip(results, confirmed(results, correction), strict=True)
    ]


def confirmed_whatever_comes(p: float, confidence: float, cases: int, correction: Correction) -> bool:
    """Whether a regression with this p-value is confirmed among ``cases``, whatever the others show.

    Bonferroni's bound: what it rejects, Holm's and Benjamini and Hochberg's corrections reject too.
    """
    among = 1 if correction == "none" else max(1, cases)
    return among * p <= (1 - confidence) / 2


def confirmed_at_once(result: Result, cases: int, correction: Correction) -> bool:
    """Whether ``result`` is a regression that is confirmed among ``cases`` although the others are not judged yet."""
    p = _p_regressed(result)
    return result.verdict == "regressed" and confirmed_whatever_comes(p, result.confidence, cases, correction)


def green(results: Sequence[Result], correction: Correction, exit_by: FamilyExit, *, strict: bool) -> list[bool]:
    """Of each result, whether it leaves the run green.

    With ``exit_by`` ``confirmed`` a regression that the family does not confirm counts as ``inconclusive`` does.
    """
    open_ = [False] * len(results) if exit_by == "case" else alone(results, correction)
    return [leaves_green(each, strict=strict, alone=single) for each, single in zip(results, open_, strict=True)]


def alone_words(cases: int) -> str:
    """What is said beside a regression that ``cases`` together do not confirm."""
    return f"regressed alone, not confirmed in this family of {cases} cases"


def family_size(results: Sequence[Result]) -> int:
    """The cases that the correction runs over."""
    return sum(result.verdict != "invalid" for result in results)


def _p_regressed(result: Result) -> float:
    """The record's p-value; without one (no interval was made) the verdict says on which side of the level it is."""
    level = (1 - result.confidence) / 2
    found = result.companions.get("p_regressed", math.nan)
    return found if 0 <= found <= 1 else (level if result.verdict == "regressed" else 1.0)


# --- one decision a method ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pooled:
    """Mean loss as a share of the margin over several cases, with its interval; NaN when no case can be pooled.

    ``confidence``: of the interval, the highest of its cases. ``without``: the tasks it leaves out, each with why.
    """

    share: float
    low: float
    high: float
    n_cases: int
    confidence: float = math.nan
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MethodDecision:
    """What a run says about one method; each case stands in one of the five tuples by the name of its task.

    ``regressed``: regressions that survive the correction; ``alone``: those that do not. ``left_out``: the planned
    tasks that were not judged.
    """

    method: str
    verdict: Verdict
    sentence: str
    passed: tuple[str, ...]
    regressed: tuple[str, ...]
    alone: tuple[str, ...]
    undecided: tuple[str, ...]
    invalid: tuple[str, ...]
    pooled: Pooled
    left_out: tuple[str, ...] = ()


@dataclass
class _Sorted:
    """The cases of one method by what they say; a case, not its task's name, stands in exactly one list."""

    cases: list[Result] = field(default_factory=list)
    passed: list[Result] = field(default_factory=list)
    regressed: list[Result] = field(default_factory=list)
    alone: list[Result] = field(default_factory=list)
    undecided: list[Result] = field(default_factory=list)
    invalid: list[Result] = field(default_factory=list)

    def add(self, case: Result, *, sure: bool) -> None:
        """File a case; ``sure``: its regression is confirmed."""
        self.cases.append(case)
        red = self.regressed if sure else self.alone
        lists = {"pass": self.passed, "regressed": red, "inconclusive": self.undecided, "invalid": self.invalid}
        lists[case.verdict].append(case)


def decide(
    results: Sequence[Result], correction: Correction = "holm", planned: Mapping[str, Sequence[str]] | None = None
) -> list[MethodDecision]:
    """One decision per method, in the order in which the methods occur. The correction runs over all ``results``.

    ``planned``: subject -> all tasks that it was to be judged on; one that is not in it was planned as judged.
    """
    methods: dict[str, _Sorted] = defaultdict(_Sorted)
    for result, sure in zip(results, confirmed(results, correction), strict=True):
        methods[result.about].add(result, sure=sure)
    for method in planned or {}:
        methods.setdefault(method, _Sorted())
    size = family_size(results)
    return [
        _decide(method, found, correction, size, _left_out(found.cases, (planned or {}).get(method, ())))
        for method, found in methods.items()
    ]


def _left_out(cases: Sequence[Result], planned: Sequence[str]) -> tuple[str, ...]:
    """Planned tasks without a case of their own."""
    judged = Counter(case.task for case in cases)
    missing = []
    for task in planned:
        judged[task] -= 1
        if judged[task] < 0:
            missing.append(task)
    return tuple(missing)


def _decide(
    method: str, found: _Sorted, correction: Correction, family: int, left_out: tuple[str, ...]
) -> MethodDecision:
    cases = found.cases
    verdict: Verdict
    if found.regressed:
        verdict = "regressed"
        first = f"{method} must not replace the reference: {_some(found.regressed, cases)} regressed"
        first += f" ({_NAMES[correction]} correction)"
    elif found.invalid:
        verdict = "invalid"
        first = f"nothing can be said about {method}: {_some(found.invalid, cases)} invalid"
    elif len(found.passed) == len(cases) > 0 and not left_out and not _missing(cases):
        verdict = "pass"
        first = f"{method} may replace the reference: it passes {_all(cases)} ({compared(cases)})"
    else:
        verdict = "inconclusive"
        first = f"{method} is not decided: {_why_open(found, family, left_out)}"
    pooled = pool(cases)
    further = _further(found, verdict, family, left_out)
    return MethodDecision(
        method,
        verdict,
        "; ".join([first, *further, *_pooled_words(pooled, cases)]),
        passed=_tasks(found.passed),
        regressed=_tasks(found.regressed),
        alone=_tasks(found.alone),
        undecided=_tasks(found.undecided),
        invalid=_tasks(found.invalid),
        pooled=pooled,
        left_out=left_out,
    )


def _tasks(cases: Sequence[Result]) -> tuple[str, ...]:
    return tuple(case.task for case in cases)


def _further(found: _Sorted, verdict: Verdict, family: int, left_out: Sequence[str]) -> list[str]:
    """What speaks beside that which decided: nothing red or invalid goes unnamed."""
    if verdict == "pass":
        return _blind_words(found.cases)
    if verdict == "inconclusive":
        return []
    told = []
    if found.alone:
        told.append(f"{_some(found.alone, found.cases)} {alone_words(family)}")
    if found.invalid and verdict != "invalid":
        told.append(f"{_some(found.invalid, found.cases)} invalid: of them nothing can be said")
    return told + ([_unjudged(found.cases, left_out)] if left_out else [])


def _missing(cases: Sequence[Result]) -> str:
    """What no case compared although a pass needs it: a smaller, faster or as sure model may still be a broken one."""
    answers = [case for case in cases if case.dimension != _EFFICIENCY]
    if not answers:
        return "nothing else was compared: no answer of the two models"
    return "" if any(case.metric not in _BLIND for case in answers) else _blind_words(answers)[0]


def _blind_words(cases: Sequence[Result]) -> list[str]:
    """Which cases rest on a metric that does not see all that answers show, and what it misses."""
    found: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        if case.metric in _BLIND:
            found[case.metric].append(case.task)
    return [f"{_counted(tasks)} by {name}, which does not see {_BLIND[name]}" for name, tasks in found.items()]


def _why_open(found: _Sorted, family: int, left_out: Sequence[str]) -> str:
    """Why a method without a case that is proven to speak against it has not passed."""
    cases = found.cases
    told = [f"{_some(found.alone, cases)} {alone_words(family)}"] if found.alone else []
    told += [f"{_some(found.undecided, cases)} undecided"] if found.undecided else []
    if not told and cases:
        told.append(f"it passes the {len(cases)} judged ({compared(cases)})")
    if left_out:
        told.append(_unjudged(cases, left_out))
    if len(found.passed) == len(cases) and not left_out:
        return f"{told[0]}, but {_missing(cases)}"
    return "; ".join(told)


def _unjudged(cases: Sequence[Result], left_out: Sequence[str]) -> str:
    """How much of the plan was left out, for any reason: selection, an interruption, a lost worker."""
    return f"{_counted(left_out)} of {len(cases) + len(left_out)} planned cases were not judged"


def _counted(tasks: Sequence[str]) -> str:
    return f"{len(tasks)} ({_first(tasks)})"


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


def _some(some: Sequence[Result], cases: Sequence[Result]) -> str:
    return f"{len(some)} of {len(cases)} cases ({', '.join(case.task for case in some)})"


def _pooled_words(pooled: Pooled, cases: Sequence[Result]) -> list[str]:
    """The pooled loss with its confidence and with the cases that it does not speak of."""
    if math.isnan(pooled.share):
        return []
    over = "its cases" if pooled.n_cases == len(cases) else f"{pooled.n_cases} of its {len(cases)} cases"
    without = f"; not among them: {_first(pooled.without)}" if pooled.without else ""
    return [
        f"over {over} it uses {100 * pooled.share:.0f}% of what is allowed (at most {100 * pooled.high:.0f}% with "
        f"{100 * pooled.confidence:g}% confidence{without})"
    ]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[: 2 * _NAMED_TASKS]) + (", ..." if len(names) > 2 * _NAMED_TASKS else "")


def pool(cases: Iterable[Result]) -> Pooled:
    """Pooled loss of the cases that were compared and have a margin above 0; efficiency is no quality to weigh it with.

    Cases on the same items (``data_digest``) move together, so their errors are added; the others' are independent
    given the models, so their squares are.
    """
    shares: list[float] = []
    errors: dict[str, float] = defaultdict(float)
    confidences: list[float] = []
    without: list[str] = []
    for case in cases:
        if reason := _not_pooled(case):
            without.append(f"{case.task} ({reason})")
            continue
        harm = -case.delta if case.higher_is_better else case.delta
        shares.append(harm / case.margin)
        # The wider arm, because the interval of a perplexity or of few flips is not symmetric.
        arm = max(case.ci_high - case.delta, case.delta - case.ci_low)
        errors[case.data_digest or f"case {len(shares)}"] += arm / normal_quantile(case.confidence) / case.margin
        confidences.append(case.confidence)
    if not shares:
        return Pooled(math.nan, math.nan, math.nan, 0, without=tuple(without))
    share = math.fsum(shares) / len(shares)
    error = math.sqrt(math.fsum(error**2 for error in errors.values())) / len(shares)
    half = normal_quantile(max(confidences)) * error
    return Pooled(share, share - half, share + half, len(shares), max(confidences), tuple(without))


def _not_pooled(case: Result) -> str:
    """Why a case has no share in the pooled loss; empty when it has."""
    if case.verdict == "invalid":
        return "invalid"
    if case.dimension == _EFFICIENCY:
        return "no quality"
    if not case.margin > 0:
        return "no margin above 0"
    return "" if math.isfinite(case.ci_high - case.ci_low) else "no interval"
