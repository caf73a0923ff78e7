"""How far perplexity (or KL divergence) stands in for a benchmark: correlations over the subjects of a run.

Paper A (Jin et al. 2024, figure on perplexity): Pearson's r of the mean perplexity of three corpora over the twelve
models of 3 and 4 bits, mean |r| 0.79. Those rows are taken here too where a run has them, and :class:`Scope` says where
it has not. With intervals, because twelve subjects say little: Fisher's z for Pearson's r, and with the variance of
Bonett and Wright (2000), Psychometrika 65:23, for Spearman's rank correlation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from quantgate.core.records import Result
from quantgate.studies.pareto import is_reference, with_references
from quantgate.verdict.intervals import normal_quantile

Kind = Literal["pearson", "spearman"]
ENOUGH: Final = 4  # with three points Fisher's variance, 1 / (n - 3), is not defined
PROXIES: Final = ("ppl", "kld_mean")
PAPER_CORPORA: Final = ("wikitext2", "ptb", "c4")
PAPER_BITS: Final = (3, 4)


@dataclass(frozen=True, slots=True)
class Correlation:
    """``value`` with its interval at ``confidence`` over ``n`` subjects; NaN and ``undefined`` says why."""

    kind: Kind
    n: int
    value: float
    low: float
    high: float
    confidence: float
    undefined: str = ""

    def words(self) -> str:
        """The value and its interval."""
        return f"{self.value:+.3f} [{self.low:+.2f}, {self.high:+.2f}]"


def correlate(x: Sequence[float], y: Sequence[float], kind: Kind, confidence: float = 0.95) -> Correlation:
    """The correlation of pairs; pairs with a number that is not finite are left out.

    Raises:
        ValueError: ``x`` and ``y`` differ in length.
    """
    pairs = np.array([(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)])
    nan, n = math.nan, len(pairs)
    if n < ENOUGH:
        return Correlation(kind, n, nan, nan, nan, confidence, f"{n} subjects: at least {ENOUGH} are needed")
    if not np.ptp(pairs[:, 0]) or not np.ptp(pairs[:, 1]):
        return Correlation(kind, n, nan, nan, nan, confidence, "one of the two never varies")
    from scipy import stats  # takes seconds to import, and every run imports this module

    measure = stats.pearsonr if kind == "pearson" else stats.spearmanr
    value = float(measure(pairs[:, 0], pairs[:, 1]).statistic)
    low, high = _interval(value, n, kind, confidence)
    return Correlation(kind, n, value, low, high, confidence)


def _interval(value: float, n: int, kind: Kind, confidence: float) -> tuple[float, float]:
    if abs(value) >= 1:
        return value, value
    factor = 1 + value**2 / 2 if kind == "spearman" else 1.0
    half = normal_quantile(confidence) * math.sqrt(factor / (n - 3))
    centre = math.atanh(value)
    return math.tanh(centre - half), math.tanh(centre + half)


@dataclass(frozen=True, slots=True)
class Scope:
    """Over which subjects and which perplexities a run's correlations are taken, and why not over the paper's.

    ``subjects``: None for all, else the names of those of 3 and 4 bits.
    """

    subjects: frozenset[str] | None
    corpora: tuple[str, ...]
    lacks: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For titles and records."""
        if not self.lacks:
            return "as in paper A: subjects of 3 and 4 bits, mean perplexity of three corpora"
        return f"not paper A's rows: {'; '.join(self.lacks)}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """How a perplexity or divergence goes with another task of the run. ``scope``: see :class:`Scope`."""

    proxy: str
    task: str
    pearson: Correlation
    spearman: Correlation
    scope: str = ""

    def as_record(self) -> dict[str, Any]:
        """Plain dict for report.json."""
        return asdict(self)


def scope_of(results: Sequence[Result], bits: Mapping[str, float]) -> Scope:
    """The paper's rows as far as ``results`` have them. ``bits``: nominal bits of a weight by method."""
    tasks = {result.task for result in results if result.metric == "ppl"}
    forms = [tuple(f"perplexity_{name}{form}" for name in PAPER_CORPORA) for form in ("_raw", "")]
    corpora = next((form for form in forms if tasks.issuperset(form)), ())
    few = frozenset(name for name in {result.about for result in results} if bits.get(name) in PAPER_BITS)
    lacks = []
    if len(few) < ENOUGH:
        lacks.append(f"all subjects, of any bits, because only {len(few)} have 3 or 4")
    if not corpora:
        lacks.append(f"each text by itself, because not all of {', '.join(PAPER_CORPORA)} were read")
    return Scope(few if len(few) >= ENOUGH else None, corpora, tuple(lacks))


def proxies(
    results: Sequence[Result], bits: Mapping[str, float] | None = None, confidence: float = 0.95
) -> list[Proxy]:
    """Correlations of perplexity and of every divergence with every other benchmark, over the subjects of the scope.

    The reference is a subject where the scope is not the paper's. Efficiency cases are no benchmarks, and a proxy is
    not compared with another one.
    """
    benchmarks = [result for result in results if result.dimension != "efficiency"]
    scope = scope_of(benchmarks, bits or {})
    tables = _by_task(benchmarks)
    metrics = {result.task: result.metric for result in benchmarks}
    sources = {task: table for task, table in tables.items() if metrics[task] in PROXIES}
    if scope.corpora:
        mean = f"mean of {', '.join(task.removeprefix('perplexity_') for task in scope.corpora)}"
        kept = {task: table for task, table in sources.items() if metrics[task] != "ppl"}
        sources = {mean: _mean([tables[task] for task in scope.corpora])} | kept
    found = []
    for name, source in sources.items():
        for task in [task for task in tables if metrics[task] not in PROXIES]:
            chosen = [each for each in source if scope.subjects is None or each in scope.subjects]
            shared = [subject for subject in chosen if subject in tables[task]]
            x, y = ([table[subject] for subject in shared] for table in (source, tables[task]))
            pearson, spearman = (correlate(x, y, kind, confidence) for kind in ("pearson", "spearman"))
            found.append(Proxy(name, task, pearson, spearman, scope.words))
    return found


def _mean(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    shared = [subject for subject in tables[0] if all(subject in table for table in tables)]
    return {subject: math.fsum(table[subject] for table in tables) / len(tables) for subject in shared}


def _by_task(results: Sequence[Result]) -> dict[str, Mapping[str, float]]:
    """task -> subject -> value; the reference is the subject with the empty name, unless it has results of its own."""
    results = with_references(results)
    own = any(is_reference(result.about) for result in results)
    tables: dict[str, dict[str, float]] = {}
    for result in results:
        table = tables.setdefault(result.task, {})
        if not own:
            table[""] = result.reference
        table[result.about] = result.value
    return dict(tables)
