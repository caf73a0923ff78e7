"""Read a policy from TOML, strictly: what is misspelt, of the wrong type, NaN or negative is refused by key path."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.errors import PolicyError
from quantgate.core.places import POLICY
from quantgate.core.reading import Unreadable
from quantgate.verdict.companions import COMPANIONS
from quantgate.verdict.policy import DIMENSIONS, SCOPES, Floor, Margin, Policy, Section

SCHEMA: Final = 1
DEFAULT_POLICY: Final = POLICY
_FAMILY: Final[Mapping[str, tuple[str, ...]]] = {"correction": ("holm", "bh", "none"), "exit": ("confirmed", "case")}
"""The choices of the section ``family``, the default first."""
# "invalid" cannot be allowed: nothing was compared, so there is nothing to wave through.
_ALLOWABLE: Final = ("regressed", "inconclusive")
_LETTERS: Final = 3  # that a reason has at least: a dot is none
# Which scopes a section may hold: a model's may hold all below it, a task's none.
_INNER: Final[Mapping[str, tuple[str, ...]]] = {"models": SCOPES[:4], "methods": SCOPES[:3]}


def load_policy(path: Path | None) -> Policy:
    """The policy in ``path``, or the shipped one (evals/policy.toml). Raises PolicyError for anything unclear."""
    path = path or DEFAULT_POLICY
    try:
        text = reading.read_text(path, reading.MOST_TOML)
    except (OSError, Unreadable) as error:
        raise PolicyError(f"policy file {path}", f"cannot be read ({error})", hint="give --policy FILE") from error
    return parse_policy(text, path.name)


def parse_policy(text: str, name: str) -> Policy:
    """The policy that ``text`` spells out; ``name`` stands in messages."""
    try:
        table = reading.parse_toml(text)
    except Unreadable as error:
        raise PolicyError(name, f"is {error}", expected="a policy in TOML", hint="see docs/policy.md") from error
    return replace(_Reader(name).policy(table), text=text)


class _Reader:
    """Turns nested tables into sections and keeps the key path for messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.readers: Mapping[str, Callable[[str, Any], Any]] = {
            "margin": self._margin,
            "confidence": lambda path, value: self._number(path, value, above=0.5, below=1),
            "min_items": self._count,
            "max_unscored": lambda path, value: self._number(path, value, at_least=0, below=1),
            "floor": self._floor,
            "allow": self._allow,
            "because": self._text,
            "companions": self._companions,
            "stake": lambda path, value: self._number(path, value, at_least=0),
        }

    def policy(self, table: Mapping[str, Any]) -> Policy:
        self._known("", table, ("schema", "defaults", "family", *SCOPES))
        schema = table.get("schema")
        if isinstance(schema, bool) or schema != SCHEMA:
            raise self._error("schema", f"{schema!r}", f"schema = {SCHEMA}")
        defaults = self._table("defaults", table.get("defaults", {}))
        self._known("defaults", defaults, self.readers)
        scopes = {scope: table[scope] for scope in SCOPES if scope in table}
        family = self._table("family", table.get("family", {}))
        self._known("family", family, _FAMILY)
        root = Section(self._settings("defaults", defaults), self._scopes("", scopes))
        return Policy(self.name, root, self._choice(family, "correction"), self._choice(family, "exit"))

    def _choice(self, family: Mapping[str, Any], key: str) -> Any:
        chosen = family.get(key, _FAMILY[key][0])
        if chosen not in _FAMILY[key]:
            raise self._error(f"family.{key}", repr(chosen), " or ".join(map(repr, _FAMILY[key])))
        return chosen

    def _section(self, path: str, table: Any, scope: str) -> Section:
        inner = _INNER.get(scope, ())
        self._known(path, self._table(path, table), (*self.readers, *inner))
        settings = {key: value for key, value in table.items() if key in self.readers}
        scopes = {key: value for key, value in table.items() if key in inner}
        return Section(self._settings(path, settings), self._scopes(f"{path}.", scopes))

    def _scopes(self, prefix: str, table: Mapping[str, Any]) -> dict[str, dict[str, Section]]:
        found: dict[str, dict[str, Section]] = {}
        for scope, entries in table.items():
            self._table(f"{prefix}{scope}", entries)
            if scope == "dimensions":
                self._known(f"{prefix}{scope}", entries, DIMENSIONS)
            found[scope] = {
                name: self._section(f"{prefix}{scope}.{name}", each, scope) for name, each in entries.items()
            }
        return found

    def _settings(self, path: str, table: Mapping[str, Any]) -> dict[str, Any]:
        settings = {key: self.readers[key](f"{path}.{key}", value) for key, value in table.items()}
        if settings.get("allow") and not settings.get("because"):
            raise self._error(f"{path}.allow", "no reason", 'because = "..." beside it, for whoever reads the report')
        return settings

    def _margin(self, path: str, value: Any) -> Margin:
        if not isinstance(value, dict) or len(value) != 1:
            raise self._error(path, f"{value!r}", "{ absolute = NUMBER } or { relative = NUMBER }")
        self._known(path, value, ("absolute", "relative"))
        ((kind, amount),) = value.items()
        return Margin(
            "absolute" if kind == "absolute" else "relative", self._number(f"{path}.{kind}", amount, at_least=0)
        )

    def _floor(self, path: str, value: Any) -> Floor | str:
        if value == "none":
            return "none"
        if not isinstance(value, dict) or "chance" not in value:
            raise self._error(path, f"{value!r}", '{ chance = NUMBER } or "none"')
        self._known(path, value, ("chance", "significance"))
        chance = self._number(f"{path}.chance", value["chance"], at_least=0)
        significance = self._number(f"{path}.significance", value.get("significance", 0.05), above=0, below=0.5)
        return Floor(chance, significance)

    def _allow(self, path: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or any(each not in _ALLOWABLE for each in value):
            expected = f"a list of {' and '.join(map(repr, _ALLOWABLE))} (an invalid case is never allowed)"
            raise self._error(path, f"{value!r}", expected)
        return tuple(value)

    def _companions(self, path: str, value: Any) -> dict[str, Margin]:
        self._known(path, self._table(path, value), COMPANIONS)
        return {name: self._margin(f"{path}.{name}", each) for name, each in value.items()}

    def _text(self, path: str, value: Any) -> str:
        if not isinstance(value, str) or len(re.findall(r"[^\W\d_]", value)) < _LETTERS:
            raise self._error(path, f"{value!r}", "a sentence that tells a reader why")
        if not reading.plain(value):
            raise self._error(path, f"{value!r}", "one line of text: nothing in it may steer a terminal")
        return value

    def _count(self, path: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._error(path, f"{value!r}", "a whole number of at least 1")
        return value

    def _number(
        self,
        path: str,
        value: Any,
        *,
        above: float = -math.inf,
        at_least: float = -math.inf,
        below: float = math.inf,
    ) -> float:
        bounds = [f"above {above:g}"] * (above > -math.inf) + [f"at least {at_least:g}"] * (at_least > -math.inf)
        expected = " and ".join(["a finite number", *bounds, *[f"below {below:g}"] * (below < math.inf)])
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._error(path, f"{value!r}", expected)
        # Written so that NaN fails every comparison and is refused.
        if not (math.isfinite(value) and value > above and value >= at_least and value < below):
            raise self._error(path, f"{value!r}", expected)
        return float(value)

    def _table(self, path: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(path, f"{value!r}", "a table")
        return value

    def _known(self, path: str, table: Mapping[str, Any], names: Iterable[str]) -> None:
        names = list(names)
        for key in table:
            if key not in names:
                close = difflib.get_close_matches(key, names, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
                where = f"{path}.{key}" if path else key
                raise PolicyError(f"{self.name}, {where}", f"unknown key {key!r}", hint=hint)

    def _error(self, path: str, found: str, expected: str) -> PolicyError:
        return PolicyError(f"{self.name}, {path}", f"found {found}", expected=expected)
