"""The record of one case, made of its conclusion and of what the run knows about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from quantgate.core.records import Result
from quantgate.verdict.evidence import Conclusion
from quantgate.verdict.policy import Rule


@dataclass(frozen=True)
class Told:
    """What a record says beside the comparison; the fields are `Result`'s."""

    task: str
    dimension: str
    protocol: str
    method: str
    seconds: float = 0.0
    tokens: int = 0
    from_cache: bool = False
    reference_from: str = ""
    data_digest: str = ""
    data_source: str = ""
    shortened: Mapping[str, int] = field(default_factory=dict)
    calibration: str = ""
    model: str = ""


def build_result(found: Conclusion, rule: Rule, told: Told) -> Result:
    """The record of one case. The judgement's p-values travel among the companions, where they are defined.

    ``rule``: says whether the verdict is waived, and why.
    """
    comparison, judgement = found.comparison, found.judgement
    further = dict(found.companions)
    further |= {
        name: value
        for name, value in (("p_pass", judgement.p_pass), ("p_regressed", judgement.p_regressed))
        if not math.isnan(value)
    }
    return Result(
        **vars(told),
        metric=comparison.metric.name,
        higher_is_better=comparison.metric.higher_is_better,
        n_items=comparison.n_items,
        reference=comparison.reference,
        value=comparison.value,
        delta=comparison.delta,
        ci_low=comparison.ci_low,
        ci_high=comparison.ci_high,
        confidence=comparison.confidence,
        margin=judgement.margin,
        verdict=judgement.verdict,
        reason=judgement.reason,
        items_worse=comparison.items_worse,
        items_better=comparison.items_better,
        flips=comparison.flips,
        n_groups=comparison.n_groups,
        unscored=dict(comparison.unscored),
        failed=dict(comparison.failed),
        companions=further,
        waived=rule.waiver(judgement.verdict),
        statement=comparison.statement,
    )
