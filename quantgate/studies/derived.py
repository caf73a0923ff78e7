"""Everything in a report that follows from its results: written by the run, and drawn again by ``quantgate verify``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from quantgate.core.records import VERDICTS, Result
from quantgate.studies.pareto import fronts
from quantgate.studies.proxy import proxies
from quantgate.verdict.family import decide
from quantgate.verdict.policy import Correction


def counts(results: Sequence[Result]) -> dict[str, int]:
    """Number of cases per verdict."""
    return {verdict: sum(result.verdict == verdict for result in results) for verdict in VERDICTS}


def derived(
    results: Sequence[Result],
    correction: Correction,
    planned: Mapping[str, Sequence[str]] | None,
    bits: Mapping[str, float],
) -> dict[str, Any]:
    """The parts of report.json that need nothing but results, correction, plan, and the methods' nominal bits."""
    return {
        "counts": counts(results),
        "decisions": [asdict(decision) for decision in decide(results, correction, planned)],
        "unscored": [
            {"task": result.task, "method": result.about, "reason": reason, "items": count}
            for result in results
            for reason, count in result.without_score.items()
        ],
        "pareto": [front.as_record() for front in fronts(results)],
        "proxies": [proxy.as_record() for proxy in proxies(results, bits)],
    }
