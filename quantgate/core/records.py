"""The record of one case: written once, read by the assertion, the terminal, JUnit, report.json and report.md.

Nothing recomputes a verdict from other numbers; whoever shows one reads this record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

from quantgate.core.cases import CaseKey

Verdict: TypeAlias = Literal["pass", "regressed", "inconclusive", "invalid"]
VERDICTS: Final[tuple[Verdict, ...]] = ("pass", "regressed", "inconclusive", "invalid")


@dataclass(frozen=True, slots=True)
class Result:
    """One case: a method on a task, compared item by item with the reference.

    ``delta`` = value - reference in the metric's own unit, with its interval ``ci_low``..``ci_high`` at
    ``confidence``; ``margin`` is how much worse is allowed, in the same unit, always >= 0. ``items_worse`` and
    ``items_better`` count paired items; ``flips`` the items whose answer changed. ``unscored`` maps a reason to the
    number of items it took out, ``failed`` to the number that only the subject could not answer, which count at the
    worst score; ``shortened`` maps what was left out of a prompt, so that it fits the model's context, to the number of
    items. ``companions``: further numbers such as ``kld_p99``. NaN marks "undefined". ``waived``: why the policy lets
    this verdict by (its ``because``); empty where no waiver holds. ``statement``: how the interval was made and what it
    speaks about. ``calibration`` and ``model``: as in `CaseKey`.
    """

    task: str
    dimension: str
    protocol: str
    method: str
    metric: str
    higher_is_better: bool
    n_items: int
    reference: float
    value: float
    delta: float
    ci_low: float
    ci_high: float
    confidence: float
    margin: float
    verdict: Verdict
    reason: str
    items_worse: int = 0
    items_better: int = 0
    flips: int = 0
    n_groups: int = 0
    unscored: Mapping[str, int] = field(default_factory=dict)
    companions: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0
    from_cache: bool = False
    reference_from: str = ""
    data_digest: str = ""
    data_source: str = ""
    shortened: Mapping[str, int] = field(default_factory=dict)
    waived: str = ""
    failed: Mapping[str, int] = field(default_factory=dict)
    statement: str = ""
    calibration: str = ""
    model: str = ""

    @property
    def key(self) -> CaseKey:
        """The case it is the record of."""
        return CaseKey(self.method, self.task, self.calibration, self.model)

    @property
    def about(self) -> str:
        """The subject's name within the run: see `CaseKey.about`."""
        return self.key.about

    @property
    def without_score(self) -> dict[str, int]:
        """``unscored`` and ``failed`` together, by reason."""
        return {**self.unscored, **{f"subject, counted as lost: {reason}": n for reason, n in self.failed.items()}}

    def as_json(self) -> dict[str, Any]:
        """Plain dict for report.json."""
        return asdict(self)


def leaves_green(result: Result, *, strict: bool, alone: bool = False) -> bool:
    """Whether a record leaves a run green: it passed, it is open and that is let by, or the policy waives it.

    ``alone``: its regression is not confirmed by the family (``family.green``), which leaves it open.
    """
    open_ = result.verdict == "inconclusive" or (result.verdict == "regressed" and alone)
    return result.verdict == "pass" or (open_ and not strict) or bool(result.waived)
