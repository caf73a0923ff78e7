"""What a run was to judge and what it did judge, so that its word hangs on records and on nothing that pytest says.

*planned*: every method on every task that the options ask for. *selected*: what ``-k``, ``-m``, ``--lf`` and the like
left of it. *judged*: cases with a record. *allowed*: those whose verdict leaves the run green, all cases considered
(``Run.settle``). A run is green only when
every selected case was judged and allowed, whatever skips, expected failures or switched-off asserts make of its tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from quantgate.core.cases import CaseKey

GREEN: Final = 0
RED: Final = 1
BROKEN: Final = 3
EMPTY: Final = 5
_NAMED: Final = 6


@dataclass
class Account:
    """The cases of one run. ``planned``: case -> dimension. ``excuses``: why a selected case has no record, as far as
    that was heard. ``others``: selected tests that judge no case. ``stopped``: why the run ended before its last case.
    ``strict``: whether ``inconclusive`` is red. ``listing``: the command itself asks for a list of the cases and
    nothing else. ``begun``: the report of this run exists; ``code``: how it ended.
    """

    planned: dict[CaseKey, str] = field(default_factory=dict)
    selected: set[CaseKey] = field(default_factory=set)
    judged: dict[CaseKey, bool] = field(default_factory=dict)
    excuses: dict[CaseKey, str] = field(default_factory=dict)
    others: int = 0
    stopped: str = ""
    strict: bool = False
    listing: bool = False
    begun: bool = False
    code: int | None = None

    _ids: dict[str, CaseKey] = field(default_factory=dict)

    def plan(self, cases: Iterable[tuple[CaseKey, str]]) -> None:
        """Take in the plan: every case and its dimension."""
        for key, dimension in cases:
            self.planned[key] = dimension
            self._ids[key.id] = key

    def case_of(self, nodeid: str) -> CaseKey | None:
        """The case that a test's node id names in its brackets, or None."""
        name = nodeid.partition("[")[2].rpartition("]")[0]
        if name in self._ids or not name:
            return self._ids.get(name)
        # a test of a user's own may have further parameters beside the case
        found = [each for each in self._ids if f"-{each}-" in f"-{name}-"]
        return self._ids[max(found, key=len)] if found else None

    def select(self, nodeids: Iterable[str]) -> None:
        """Take in what was selected."""
        for nodeid in nodeids:
            key = self.case_of(nodeid)
            if key is None:
                self.others += 1
            else:
                self.selected.add(key)

    def record(self, key: CaseKey, *, allowed: bool) -> None:
        """A case has a record; the last attempt counts."""
        self.selected.add(key)
        self.judged[key] = allowed
        self.excuses.pop(key, None)

    @property
    def unjudged(self) -> list[CaseKey]:
        """Selected cases without a record, in the order of the plan."""
        return [key for key in self.planned if key in self.selected - set(self.judged)]

    @property
    def refused(self) -> list[CaseKey]:
        """Judged cases whose verdict is not allowed."""
        return [key for key, allowed in self.judged.items() if not allowed]

    def expected(self) -> dict[str, list[str]]:
        """Subject -> all of its planned tasks, of every subject with a selected case."""
        return self._tasks({key.about for key in self.selected})

    def _tasks(self, subjects: Iterable[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for key in self.planned:
            if key.about in subjects:
                found.setdefault(key.about, []).append(key.task)
        return found

    @classmethod
    def from_json(cls, content: Mapping[str, Any], judged: Mapping[CaseKey, bool]) -> Account:
        """Inverse of :meth:`as_json`, with what was judged; dimensions are not kept."""
        account = cls(strict=content["strict"], stopped=content["stopped"], judged=dict(judged))
        account.plan((key, "") for key in keys_of(content["planned"], judged))
        account.selected = set(keys_of(content["selected"], judged))
        return account

    def exit_code(self, code: int) -> int:
        """The run's exit code, where pytest would end with ``code``: never green without a full account.

        A list of the cases is what it was asked to be, and says that nothing was judged.
        """
        if code != GREEN:
            return code
        if self.listing and not self.judged:
            return GREEN
        if self.unjudged or self.refused:
            return RED
        if not self.judged and (self.planned or not self.others):
            return EMPTY  # tests of somebody's own beside the plan do not speak for it
        return GREEN

    def lines(self) -> list[str]:
        """The account in words: what the run speaks of, and what it does not."""
        if not self.planned:
            return []
        if self.listing and not self.judged:
            return [f"listed {len(self.selected)} of {len(self.planned)} planned cases; nothing was judged"]
        found = [
            f"judged {len(self.judged)} of {len(self.selected)} selected cases, {sum(self.judged.values())} allowed; "
            f"{len(self.planned)} {'was' if len(self.planned) == 1 else 'were'} planned{self._left_out()}"
        ]
        if self.unjudged:
            found.append(f"not judged: {_names(self.unjudged)}{f' ({self.stopped})' if self.stopped else ''}")
        return found

    def _left_out(self) -> str:
        """What selection took out of the plan: whole methods by name, the rest as a number."""
        chosen = {key.about for key in self.selected}
        methods = list(dict.fromkeys(key.about for key in self.planned if key.about not in chosen))
        cases = sum(1 for key in self.planned if key.about in chosen and key not in self.selected)
        parts = [_some(methods, "method")] if methods else []
        parts += [f"{cases} {'case' if cases == 1 else 'cases'} of the selected methods"] if cases else []
        return f", not selected: {' and '.join(parts)}" if parts else ""

    def as_json(self) -> dict[str, Any]:
        """What the report says about the plan."""
        return {
            "selected": {
                name: sorted(key.task for key in self.selected if key.about == name) for name in self._subjects()
            },
            "planned": self._tasks(dict.fromkeys(key.about for key in self.planned)),
            "counts": {
                "planned": len(self.planned),
                "selected": len(self.selected),
                "judged": len(self.judged),
                "allowed": sum(self.judged.values()),
            },
            "strict": self.strict,
            "stopped": self.stopped,
        }

    def _subjects(self) -> list[str]:
        return sorted({key.about for key in self.selected})


def keys_of(names: Mapping[str, Iterable[str]], judged: Iterable[CaseKey]) -> list[CaseKey]:
    """The cases that a report's plan names, subject by subject: those that were judged, and others by their names."""
    known = {(key.about, key.task): key for key in judged}
    every = [(about, task) for about, tasks in names.items() for task in tasks]
    return [known.get(each) or CaseKey(*each) for each in every]


def _names(keys: Iterable[CaseKey]) -> str:
    named = [str(key) for key in keys]
    return ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")


def _some(names: list[str], what: str) -> str:
    told = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'} ({told})"
