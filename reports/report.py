"""The report of a run as one frozen object: what everything that is shown or written reads, and nothing recomputes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.cases import CaseKey
from quantgate.core.records import Result
from quantgate.core.words import counted
from quantgate.reports import efficiency, turned, waivers
from quantgate.reports.efficiency import Rows
from quantgate.reports.studies import Shown, shown
from quantgate.reports.table import ordered
from quantgate.reports.turned import Turned
from quantgate.studies.derived import Derived
from quantgate.verdict.seal import EvidenceFile

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA: Final = 2
_DIVERGENCES: Final = ("kld_mean",)


@dataclass(frozen=True)
class RunFacts:
    """``id``, when it ``started`` and ``finished`` (UTC), its exit ``code``, and how far it came (``status``)."""

    id: str
    started: str
    finished: str
    code: int | None
    status: str


@dataclass(frozen=True)
class Report:
    """All that a run found.

    ``judged``: the results, in the order in which they came. ``alone``: what is said beside each regression that the
    family does not confirm. ``account``: how much of the plan the run speaks of, in sentences; ``plan``: the same for
    machines. ``model``: the main 16-bit model; ``models``: all of them by name within the run, the main one's empty.
    ``subjects`` and ``efficiency``: entries by name within the run. ``texts``: task -> item -> what may be
    quoted of it. ``studies``: what several cases say together, beyond the decisions. ``phases``: seconds by what they
    were spent on, over all workers.
    """

    run: RunFacts
    model: Mapping[str, Any]
    environment: Mapping[str, Any]
    policy: Mapping[str, Any]
    plan: Mapping[str, Any]
    account: tuple[str, ...]
    judged: tuple[Result, ...]
    alone: Mapping[CaseKey, str]
    derived: Derived
    subjects: Mapping[str, Mapping[str, Any]]
    efficiency: Mapping[str, Mapping[str, Any]]
    texts: Mapping[str, Mapping[str, str]]
    phases: Mapping[str, float]
    notes: tuple[str, ...]
    evidence: EvidenceFile
    studies: tuple[Mapping[str, Any], ...] = ()
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    diagnoses: tuple[Mapping[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The content of report.json, without what seals it."""
        run = self.run
        return {
            "schema": SCHEMA,
            "status": run.status,
            "run": {"id": run.id, "started": run.started, "finished": run.finished, "exit": run.code},
            "plan": dict(self.plan),
            "model": dict(self.model),
            "models": [{"name": name, **each} for name, each in self.models.items()],
            "environment": dict(self.environment),
            "policy": dict(self.policy),
            "subjects": [dict(each) for each in self.subjects.values()],
            "results": [result.as_json() for result in self.judged],
            "efficiency": [dict(each) for each in self.efficiency.values()],
            **self.derived.as_json(self.judged),
            "studies": [dict(each) for each in self.studies],
            "diagnoses": [dict(each) for each in self.diagnoses],
            "phases": {what: round(seconds, 2) for what, seconds in self.phases.items()},
            "texts": {task: dict(each) for task, each in self.texts.items()},
            "notes": list(self.notes),
        }

    @property
    def further_models(self) -> dict[str, Mapping[str, Any]]:
        """The 16-bit models beside the main one, by name."""
        return {name: each for name, each in self.models.items() if name}

    @property
    def rows(self) -> list[Result]:
        """The results in the order of the tables."""
        return ordered(self.judged)

    @cached_property
    def results(self) -> DataFrame:
        """For whoever loads a report: a row a case, a column a field, companions by name, each of its own dtype."""
        import pandas

        plain = [{**result.as_json(), **result.companions} for result in self.rows]
        frame = pandas.DataFrame(plain)
        return frame.drop(columns=[name for name in ("companions", "unscored", "failed", "shortened") if name in frame])

    @property
    def tables(self) -> list[Rows]:
        """Memory, speed and correlations, as far as they were measured."""
        return efficiency.tables(list(self.efficiency.values()), self.derived.proxies)

    @property
    def counts_in_words(self) -> str:
        """``3 pass, 1 regressed``."""
        return ", ".join(f"{count} {verdict}" for verdict, count in self.derived.counts.items() if count) or "none"

    @cached_property
    def shown_studies(self) -> list[Shown]:
        """What its studies say, with their tables."""
        return shown(self.studies)

    def sentence(self, result: Result) -> str:
        """Verdict and reason of a case, its waiver, and what the family says of it."""
        return waivers.sentence(result, self.alone.get(result.key, ""))

    def turned(self, result: Result) -> list[Turned]:
        """The items of a case that came out otherwise, the most harmed first."""
        return self.looked_at(result)[0]

    def looked_at(self, result: Result) -> tuple[list[Turned], dict[str, float]]:
        """The items of a case that came out otherwise, and, of one that compares distributions, item -> divergence.

        The evidence is read once for all that shows them.
        """
        if result.key not in self._looks:
            sides = self.evidence.sides(result.key) if result.dimension != "efficiency" else None
            diverged = turned.scores(sides["subject"]) if sides and result.metric in _DIVERGENCES else {}
            self._looks[result.key] = (turned.turned(result, sides) if sides else [], diverged)
        return self._looks[result.key]

    @cached_property
    def _looks(self) -> dict[CaseKey, tuple[list[Turned], dict[str, float]]]:
        return {}

    def turned_title(self, result: Result, found: int) -> str:
        """Heads the table of a case's turned items."""
        more = f", the first {turned.MOST}" if found > turned.MOST else ""
        return f"{result.key}: {counted(found, 'item')} came out otherwise{more}"
