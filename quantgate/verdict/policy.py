"""The policy: how much worse a subject may be than its reference, and what must hold before that can be judged.

A policy is a tree of sections read from TOML (``policy_file`` parses it). A rule for one case collects its settings
from the sections that match the case; the most specific wins. Within a section the order is, from general to
specific: its own settings (at the top: ``defaults``), ``dimensions``, ``metrics``, ``tasks``, ``methods``, ``models``.
A section inside another one is more specific than everything beside the outer one. See docs/policy.md.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from quantgate.core.errors import PolicyError
from quantgate.core.metrics import GUESSING, Metric
from quantgate.verdict.companions import COMPANIONS
from quantgate.verdict.comparators.table import comparator_of

Correction: TypeAlias = Literal["holm", "bh", "none"]
FamilyExit: TypeAlias = Literal["confirmed", "case"]
"""Which regressions turn the exit code red: those that the correction over all cases confirms, or every one."""
SCOPES: Final = ("dimensions", "metrics", "tasks", "methods", "models")
DIMENSIONS: Final = ("knowledge", "alignment", "fidelity", "efficiency", "generalization")


@dataclass(frozen=True, slots=True)
class Margin:
    """How much worse is acceptable: ``absolute`` in the metric's unit, or ``relative`` to the reference's value."""

    kind: Literal["absolute", "relative"]
    amount: float

    def in_units(self, reference: float) -> float:
        """The margin in the metric's unit."""
        return self.amount if self.kind == "absolute" else self.amount * abs(reference)


@dataclass(frozen=True, slots=True)
class Floor:
    """What the reference must beat before a loss can show: ``chance``, the value of a model that knows nothing.

    For 0/1 metrics it is beaten when the exact binomial test says so at ``significance``; otherwise when the
    reference's value is better than ``chance``.
    """

    chance: float
    significance: float = 0.05


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the file: its own settings, and narrower sections by scope and name (names may hold ``*``)."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    scopes: Mapping[str, Mapping[str, Section]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked of one case: a task (with its metric) on a method.

    ``min_items``: scored pairs needed before anything but ``inconclusive`` may be said. ``max_unscored``: largest
    share of items without a score. ``floor``: see Floor; None asks nothing. ``allow``: verdicts that do not fail the
    case, ``because`` of a stated reason. ``companions``: further numbers that must keep a margin too. ``sources``:
    setting -> section of the policy file it came from. ``stake``: what an item that was not drawn may lose, in place of
    what the metric itself says (``Metric.stake``).
    """

    task: str
    method: str
    metric: Metric
    margin: Margin
    confidence: float = 0.95
    min_items: int = 1
    max_unscored: float = 0.0
    floor: Floor | None = None
    allow: tuple[str, ...] = ()
    because: str = ""
    companions: Mapping[str, Margin] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    stake: float | None = None

    def __post_init__(self) -> None:
        if self.stake is not None:
            object.__setattr__(self, "metric", replace(self.metric, stake=self.stake))

    def waiver(self, verdict: str) -> str:
        """Why the policy lets this verdict by; empty where it does not."""
        return (self.because or "the policy gives no reason") if verdict in self.allow else ""


@dataclass(frozen=True, slots=True)
class Policy:
    """A read policy file. ``name`` stands in messages; ``correction`` is for the run's cases together, ``exit_by`` says
    which regressions turn the exit code red; ``text`` is what was read.
    """

    name: str
    root: Section
    correction: Correction = "holm"
    exit_by: FamilyExit = "confirmed"
    text: str = field(default="", compare=False)

    @property
    def digest(self) -> str:
        """sha256 of what the file says; comments and the order of tables do not change it."""
        content = {"root": _plain(self.root), "correction": self.correction, "exit": self.exit_by}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def as_record(self) -> dict[str, str]:
        """What the report says about the policy."""
        family = {"correction": self.correction, "exit": self.exit_by}
        return {"name": self.name, "digest": self.digest, "text": self.text, **family}

    def rule(self, task: str, dimension: str, metric: Metric, model: str, method: str) -> Rule:
        """The rule for one case. Raises PolicyError when no margin is given for it, or one that could not fail."""
        settings, sources = self._collected(task, dimension, metric, model, method)
        if "margin" not in settings:
            raise PolicyError(
                self.name,
                f"no margin for task {task!r} (dimension {dimension!r}, metric {metric.name!r}, model {model!r})",
                expected="a margin for every case that is judged",
                hint=f"add [metrics.{metric.name}] or [tasks.{task}] with margin = {{ absolute = ... }}",
            )
        if settings.get("floor") == "none":
            settings["floor"] = None
        self.check_rule(task, dimension, metric, model, method)
        return Rule(task, method, metric, sources=sources, **settings)

    def check_rule(self, task: str, dimension: str, metric: Metric, model: str, method: str) -> None:
        """Raise PolicyError if a margin for this case is one that nothing could miss; no margin at all is let be."""
        settings, sources = self._collected(task, dimension, metric, model, method)
        if "margin" in settings:
            self._can_fail(settings["margin"], metric, f"{sources['margin']}.margin")
        for name, margin in settings.get("companions", {}).items():
            self._can_fail(margin, COMPANIONS[name].metric, f"{sources['companions']}.companions.{name}")

    def _collected(
        self, task: str, dimension: str, metric: Metric, model: str, method: str
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The settings of a case, and which section each came from."""
        names = dict(zip(SCOPES, (dimension, metric.name, task, method, model), strict=True))
        settings: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for path, section in _matching(self.root, names, ""):
            settings |= section.settings
            sources |= dict.fromkeys(section.settings, path or "defaults")
        return settings, sources

    def named(self) -> Iterator[tuple[str, str, str]]:
        """(key path, scope, name) of every section that has a name."""
        return _named(self.root, "")

    def _can_fail(self, margin: Margin, metric: Metric, source: str) -> None:
        worst = worst_change(metric)
        if margin.kind == "relative" and metric.name in _ZERO_FOR_THE_REFERENCE:
            found = f"relative margin {margin.amount:g} for {metric.name}, which is 0 for the reference itself"
            expected, hint = "{ absolute = NUMBER }", "a share of 0 is 0"
        elif margin.kind == "relative" and metric.higher_is_better and margin.amount >= 1:
            found = f"relative margin {margin.amount:g} for {metric.name}, where even a score of 0 would pass"
            expected, hint = "a margin below 1", "relative margins are shares: 0.05 means 5%"
        elif margin.kind == "relative" and margin.amount >= _MOST_TIMES:
            found = f"relative margin {margin.amount:g} for {metric.name}, where {margin.amount + 1:g} times would pass"
            expected, hint = f"a margin below {_MOST_TIMES}", "relative margins are shares: 0.05 means 5%"
        elif margin.kind == "absolute" and margin.amount >= worst:
            found = f"absolute margin {margin.amount:g} for {metric.name}, where even the worst possible would pass"
            if worst == 1:
                found = f"absolute margin {margin.amount:g} for {metric.name}, where even a score of 0 would pass"
            expected = f"a margin below {worst:g}"
            hint = "margins of accuracies are shares: 0.02 means two points" if worst == 1 else ""
        else:
            return
        raise PolicyError(f"{self.name}, {source}", found, expected=expected, hint=hint)


_MOST_TIMES: Final = 10  # of a perplexity, a size, a memory: who allows that judges nothing
_ZERO_FOR_THE_REFERENCE: Final = ("kld_mean", "kld_p99")
_WORST: Final[Mapping[str, float]] = {
    "*bleu*": 100,
    "bias_*": 100,
    "csl": 5,
    "kld_*": GUESSING,
    "mc2": 1,
    "rouge*": 1,
    "[hs]sr": 1,
    "prob_right": 1,
    "same_top_p": 1,
}
"""By how much a metric can get worse at all, by pattern of its name; what is not here has no such bound."""


def worst_change(metric: Metric) -> float:
    """By how much ``metric`` can get worse at all, in its unit; infinity where nothing bounds it."""
    if (known := comparator_of(metric).worst_change) is not None:
        return known
    return next((worst for name, worst in _WORST.items() if fnmatch.fnmatchcase(metric.name, name)), math.inf)


def _matching(section: Section, names: Mapping[str, str], path: str) -> Iterator[tuple[str, Section]]:
    """Sections that apply to a case, most general first."""
    yield path, section
    for scope in SCOPES:
        matches = [name for name in section.scopes.get(scope, {}) if fnmatch.fnmatchcase(names[scope], name)]
        # An exact name beats a pattern, a pattern with more letters one with fewer.
        for name in sorted(matches, key=lambda name: ("*" not in name, len(name))):
            yield from _matching(section.scopes[scope][name], names, _join(path, scope, name))


def _named(section: Section, path: str) -> Iterator[tuple[str, str, str]]:
    for scope, inner in section.scopes.items():
        for name, each in inner.items():
            yield _join(path, scope, name), scope, name
            yield from _named(each, _join(path, scope, name))


def _join(path: str, scope: str, name: str) -> str:
    return f"{path}.{scope}.{name}" if path else f"{scope}.{name}"


def _plain(section: Section) -> dict[str, Any]:
    settings = {key: _plain_value(value) for key, value in section.settings.items()}
    scopes = {scope: {name: _plain(each) for name, each in inner.items()} for scope, inner in section.scopes.items()}
    return {"settings": settings, "scopes": scopes}


def _plain_value(value: object) -> object:
    if isinstance(value, Margin):
        return [value.kind, value.amount]
    if isinstance(value, Floor):
        return [value.chance, value.significance]
    if isinstance(value, Mapping):
        return {key: _plain_value(each) for key, each in value.items()}
    return list(value) if isinstance(value, tuple) else value
