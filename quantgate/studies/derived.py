"""Everything in a report that follows from its results: drawn once by the run, and again by ``quantgate verify``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quantgate.core.records import VERDICTS, Result
from quantgate.studies.pareto import Front, fronts
from quantgate.studies.proxy import Proxy, proxies
from quantgate.verdict.family import MethodDecision, decide
from quantgate.verdict.policy import Correction


@dataclass(frozen=True)
class Derived:
    """``counts``: cases per verdict; ``decisions``: one a subject; ``fronts``: size and speed against quality;
    ``proxies``: correlations of perplexity and divergence with scores.
    """

    counts: Mapping[str, int]
    decisions: tuple[MethodDecision, ...]
    fronts: tuple[Front, ...]
    proxies: tuple[Proxy, ...]

    def as_json(self, results: Sequence[Result]) -> dict[str, Any]:
        """These parts of report.json; ``results``: those that it was derived from."""
        return {
            "counts": dict(self.counts),
            "decisions": [asdict(decision) for decision in self.decisions],
            "unscored": [
                {"task": result.task, "method": result.about, "reason": reason, "items": count}
                for result in results
                for reason, count in result.without_score.items()
            ],
            "pareto": [front.as_record() for front in self.fronts],
            "proxies": [proxy.as_record() for proxy in self.proxies],
        }


def counts(results: Sequence[Result]) -> dict[str, int]:
    """Number of cases per verdict."""
    return {verdict: sum(result.verdict == verdict for result in results) for verdict in VERDICTS}


def derive(
    results: Sequence[Result],
    correction: Correction,
    planned: Mapping[str, Sequence[str]] | None,
    bits: Mapping[str, float],
) -> Derived:
    """What follows from results, correction, plan, and the subjects' nominal bits of a weight."""
    return Derived(
        counts(results),
        tuple(decide(results, correction, planned)),
        tuple(fronts(results)),
        tuple(proxies(results, bits)),
    )
