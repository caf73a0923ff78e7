"""What a run was to judge and what it did judge, so that its word hangs on records and on nothing that pytest says.

*planned*: every method on every task that the options ask for. *selected*: what ``-k``, ``-m``, ``--lf`` and the like
left of it. *judged*: cases with a record. *allowed*: those whose verdict leaves the run green, all cases considered
(``Run.settle``). A run is green only when
every selected case was judged and allowed, whatever skips, expected failures or switched-off asserts make of its tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Key: TypeAlias = tuple[str, str]
"""A case: method and task."""
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

    planned: dict[Key, str] = field(default_factory=dict)
    selected: set[Key] = field(default_factory=set)
    judged: dict[Key, bool] = field(default_factory=dict)
    excuses: dict[Key, str] = field(default_factory=dict)
    others: int = 0
    stopped: str = ""
    strict: bool = False
    listing: bool = False
    begun: bool = False
    code: int | None = None

    _ids: dict[str, Key] = field(default_factory=dict)

    def plan(self, cases: Iterable[tuple[str, str, str]]) -> None:
        """Take in the plan: method, task and dimension of every case."""
        for method, task, dimension in cases:
            self.planned[method, task] = dimension
            self._ids[f"{method}-{task}"] = (method, task)

    def case_of(self, nodeid: str) -> Key | None:
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

    def record(self, key: Key, *, allowed: bool) -> None:
        """A case has a record; the last attempt counts."""
        self.selected.add(key)
        self.judged[key] = allowed
        self.excuses.pop(key, None)

    @property
    def unjudged(self) -> list[Key]:
        """Selected cases without a record, in the order of the plan."""
        return [key for key in self.planned if key in self.selected - set(self.judged)]

    @property
    def refused(self) -> list[Key]:
        """Judged cases whose verdict is not allowed."""
        return [key for key, allowed in self.judged.items() if not allowed]

    def expected(self) -> dict[str, list[str]]:
        """Method -> all of its planned tasks, of every method with a selected case."""
        return self._tasks({method for method, _ in self.selected})

    def _tasks(self, methods: Iterable[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for method, task in self.planned:
            if method in methods:
                found.setdefault(method, []).append(task)
        return found

    @classmethod
    def from_json(cls, content: Mapping[str, Any], judged: Mapping[Key, bool]) -> Account:
        """Inverse of :meth:`as_json`, with what was judged; dimensions are not kept."""
        account = cls(strict=content["strict"], stopped=content["stopped"], judged=dict(judged))
        account.plan((method, task, "") for method, tasks in content["planned"].items() for task in tasks)
        account.selected = {(method, task) for method, tasks in content["selected"].items() for task in tasks}
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
        chosen = {method for method, _ in self.selected}
        methods = list(dict.fromkeys(method for method, _ in self.planned if method not in chosen))
        cases = sum(1 for key in self.planned if key[0] in chosen and key not in self.selected)
        parts = [_some(methods, "method")] if methods else []
        parts += [f"{cases} {'case' if cases == 1 else 'cases'} of the selected methods"] if cases else []
        return f", not selected: {' and '.join(parts)}" if parts else ""

    def as_json(self) -> dict[str, Any]:
        """What the report says about the plan."""
        return {
            "selected": {m: sorted(task for method, task in self.selected if method == m) for m in self._methods()},
            "planned": self._tasks(dict.fromkeys(method for method, _ in self.planned)),
            "counts": {
                "planned": len(self.planned),
                "selected": len(self.selected),
                "judged": len(self.judged),
                "allowed": sum(self.judged.values()),
            },
            "strict": self.strict,
            "stopped": self.stopped,
        }

    def _methods(self) -> list[str]:
        return sorted({method for method, _ in self.selected})


def _names(keys: Iterable[Key]) -> str:
    named = [f"{method} on {task}" for method, task in keys]
    return ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")


def _some(names: list[str], what: str) -> str:
    told = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'} ({told})"
