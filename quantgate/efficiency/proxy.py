"""How far perplexity (or KL divergence) stands in for a benchmark: correlations over the subjects of a run.

Paper A (Jin et al. 2024, figure on perplexity): Pearson's r over twelve models, mean |r| 0.79. Here with intervals,
because twelve subjects say little: Fisher's z for Pearson's r, and with the variance of Bonett and Wright (2000),
Psychometrika 65:23, for Spearman's rank correlation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from scipy import stats

from quantgate.verdict.intervals import normal_quantile
from quantgate.verdict.records import Result

Kind = Literal["pearson", "spearman"]
ENOUGH: Final = 4  # with three points Fisher's variance, 1 / (n - 3), is not defined
PROXIES: Final = ("ppl", "kld_mean")


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
class Proxy:
    """How a task with metric ``ppl`` or ``kld_mean`` goes with another task of the run."""

    proxy: str
    task: str
    pearson: Correlation
    spearman: Correlation

    def as_record(self) -> dict[str, Any]:
        """Plain dict for report.json."""
        return asdict(self)


def proxies(results: Sequence[Result], confidence: float = 0.95) -> list[Proxy]:
    """Correlations of every perplexity and divergence with every other benchmark, over the methods and the reference.

    Efficiency cases are no benchmarks, and a proxy is not compared with another one.
    """
    tables = _by_task([result for result in results if result.dimension != "efficiency"])
    metrics = {result.task: result.metric for result in results}
    found = []
    for name in [task for task in tables if metrics[task] in PROXIES]:
        for task in [task for task in tables if metrics[task] not in PROXIES]:
            shared = [subject for subject in tables[name] if subject in tables[task]]
            x, y = ([tables[each][subject] for subject in shared] for each in (name, task))
            both = [correlate(x, y, kind, confidence) for kind in ("pearson", "spearman")]
            found.append(Proxy(name, task, *both))
    return found


def _by_task(results: Sequence[Result]) -> dict[str, Mapping[str, float]]:
    """task -> subject -> value; the reference is the subject with the empty name."""
    tables: dict[str, dict[str, float]] = {}
    for result in results:
        table = tables.setdefault(result.task, {})
        table[""] = result.reference
        table[result.method] = result.value
    return dict(tables)
