"""The policy: how much worse a subject may be than its reference, and what must hold before that can be judged.

A policy is a tree of sections read from TOML (``policy_file`` parses it). A rule for one case collects its settings
from the sections that match the case; the most specific wins. Within a section the order is, from general to
specific: its own settings (at the top: ``defaults``), ``dimensions``, ``metrics``, ``tasks``, ``methods``, ``models``.
A section inside another one is more specific than everything beside the outer one. See docs/policy.md.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from quantgate.errors import PolicyError
from quantgate.tasks.base import Metric

Correction: TypeAlias = Literal["holm", "bh", "none"]
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
    setting -> section of the policy file it came from.
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

    def waiver(self, verdict: str) -> str:
        """Why the policy lets this verdict by; empty where it does not."""
        return (self.because or "the policy gives no reason") if verdict in self.allow else ""


@dataclass(frozen=True, slots=True)
class Policy:
    """A read policy file. ``name`` stands in messages; ``correction`` is for the run's cases together."""

    name: str
    root: Section
    correction: Correction = "holm"

    @property
    def digest(self) -> str:
        """sha256 of what the file says; comments and the order of tables do not change it."""
        content = {"root": _plain(self.root), "correction": self.correction}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def rule(self, task: str, dimension: str, metric: Metric, model: str, method: str) -> Rule:
        """The rule for one case. Raises PolicyError when no margin is given for it, or one that could not fail."""
        names = dict(zip(SCOPES, (dimension, metric.name, task, method, model), strict=True))
        settings: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for path, section in _matching(self.root, names, ""):
            settings |= section.settings
            sources |= dict.fromkeys(section.settings, path or "defaults")
        if "margin" not in settings:
            raise PolicyError(
                self.name,
                f"no margin for task {task!r} (dimension {dimension!r}, metric {metric.name!r}, model {model!r})",
                expected="a margin for every case that is judged",
                hint=f"add [metrics.{metric.name}] or [tasks.{task}] with margin = {{ absolute = ... }}",
            )
        if settings.get("floor") == "none":
            settings["floor"] = None
        self._can_fail(settings["margin"], metric, sources["margin"])
        return Rule(task, method, metric, sources=sources, **settings)

    def check_names(self, known: Mapping[str, Iterable[str]]) -> None:
        """Refuse sections whose name matches nothing: a misspelt task would silently fall back to wider margins.

        ``known``: scope (``tasks``, ``methods``, ``metrics``, ...) -> names that exist; other scopes are not checked.
        """
        for path, scope, name in _named(self.root, ""):
            names = list(known.get(scope, ()))
            if scope in known and not any(fnmatch.fnmatchcase(each, name) for each in names):
                close = difflib.get_close_matches(name, names, 1)
                raise PolicyError(
                    f"{self.name}, {path}",
                    f"there is nothing called {name!r} among the {scope}",
                    hint=f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(names))}",
                )

    def _can_fail(self, margin: Margin, metric: Metric, source: str) -> None:
        whole_range = metric.kind == "binary" or margin.kind == "relative"
        if metric.higher_is_better and whole_range and margin.amount >= 1:
            raise PolicyError(
                f"{self.name}, {source}.margin",
                f"{margin.kind} margin {margin.amount:g} for {metric.name}, where even a score of 0 would pass",
                expected="a margin below 1",
                hint="margins of accuracies are shares: 0.02 means two points",
            )


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
