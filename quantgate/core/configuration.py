"""Options without flags: ``quantgate.toml``, or ``[tool.quantgate]`` in pyproject.toml, where a command is typed.

A key is an option's name without its dashes (``num-fewshot`` or ``num_fewshot``). The file only changes what an option
is where nobody types it, so flags override. What is wrong with it is kept for whoever runs cases
(`Configuration.check`): other people's runs, and ``--help``, never fail because of it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.arguments import names
from quantgate.core.errors import UsageError
from quantgate.core.naming import suggestion
from quantgate.core.reading import Unreadable

FILE: Final = "quantgate.toml"
VARIABLE: Final = "QUANTGATE_CONFIG"
"""Names another file; empty: none is read."""
_PROJECT: Final = "pyproject.toml"
_NEVER: Final = {
    "update-baselines": "a command says so each time, or nobody would look at the change",
    "confirm-run-unsafe-code": "whoever runs what a model wrote says so each time",
}
_OTHERWISE: Final = {
    "candidates": "candidate", "recipes": "recipe", "task-files": "task-file", "report": "report-dir",
}  # fmt: skip
"""What reads better in a file than the option's name."""
_PLACES: Final = ("model", "data", "candidate")  # each may be a directory, and may be something else


class Repeated(argparse.Action):
    """As ``append``, but what is typed takes the place of the default instead of being added to it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add ``values`` to what was typed so far."""
        del parser, option_string
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, [*([] if before is None or before is self.default else before), values])


@dataclass(frozen=True)
class Declared:
    """One option: its names, where argparse keeps it, and what `argparse` was told of it."""

    flags: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The option's name in a file."""
        return self.flags[0].lstrip("-")

    @property
    def dest(self) -> str:
        """The attribute it is found under."""
        return str(self.settings.get("dest") or self.key.replace("-", "_"))


@dataclass(frozen=True)
class Setting:
    """What a file says of one option: the ``value`` as the option holds it, and the ``words`` that would say it."""

    dest: str
    value: Any
    words: tuple[str, ...]


@dataclass(frozen=True)
class Configuration:
    """What a file says. ``name`` stands in messages and records, ``fault`` says why nothing could be read."""

    name: str = ""
    folder: Path = field(default_factory=Path)
    table: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    fault: str = ""

    def default(self, flags: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
        """``{"default": value}`` for the option ``flags`` where the file has a sound one, else nothing."""
        try:
            found = self.setting(Declared(tuple(flags), settings))
        except UsageError:
            return {}  # told by `check`
        return {} if found is None else {"default": found.value}

    def setting(self, option: Declared) -> Setting | None:
        """What the file says of ``option``; None where it says nothing.

        Raises:
            UsageError: the value is not what the option takes.
        """
        for key in self.table:
            if _key(key) == option.key and option.key not in _NEVER:
                return _Reader(self, key, option).read(self.table[key])
        return None

    def check(self, options: Iterable[Declared]) -> list[Setting]:
        """All that the file says. Raises UsageError for what is wrong with it, the first fault only."""
        if self.fault:
            raise UsageError(self.name, self.fault, expected="settings in TOML", hint="see docs/configuration.md")
        options = list(options)
        known = {option.key: option for option in options if option.key not in _NEVER}
        seen: set[str] = set()
        for key in self.table:
            if why := _NEVER.get(_key(key)):
                raise UsageError(f"{self.name}, {key}", "not taken from a file", hint=why)
            if _key(key) not in known:
                raise UsageError(f"{self.name}, {key}", f"unknown key {key!r}", hint=suggestion(_key(key), known))
            if _key(key) in seen:
                raise UsageError(f"{self.name}, {key}", "given twice", expected="one spelling of each key")
            seen.add(_key(key))
        return [found for option in options if (found := self.setting(option)) is not None]

    def as_record(self, settings: Iterable[Setting], options: Any) -> dict[str, Any]:
        """File, digest, and the words of those of ``settings`` that ``options`` still hold; empty without a file."""
        if not self.name:
            return {}
        words = [word for each in settings if getattr(options, each.dest, None) == each.value for word in each.words]
        return {"file": self.name, "sha256": self.digest, "words": words}


@dataclass(frozen=True)
class _Reader:
    """Turns a TOML value into what an option holds."""

    of: Configuration
    key: str
    option: Declared

    def read(self, value: Any) -> Setting:
        settings, flag = self.option.settings, self.option.flags[0]
        action = settings.get("action", "store")
        if action == "store_true" or action is argparse.BooleanOptionalAction:
            if not isinstance(value, bool):
                raise self._error(value, "true or false")
            shown = flag if value else f"--no-{flag[2:]}"
            return Setting(self.option.dest, value, (shown,))
        if action is Repeated:
            texts = [self._placed(text) for text in self._several(value)]
            made = [self._made(text) for text in texts]
            return Setting(self.option.dest, made, tuple(word for text in texts for word in (flag, text)))
        text = self._placed(self._text(value))
        return Setting(self.option.dest, self._made(text), (flag, text))

    def _made(self, text: str) -> Any:
        make: Callable[[str], Any] = self.option.settings.get("type", str)
        choices = self.option.settings.get("choices")
        if choices and text not in choices:
            raise self._error(text, " or ".join(map(repr, choices)), suggestion(text, choices))
        try:
            return make(text)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"{self.of.name}, {self.key}", str(error)) from error

    def _text(self, value: Any) -> str:
        listed = self.option.settings.get("type") is names or "," in str(self.option.settings.get("metavar", ""))
        counted = self.option.settings.get("type") not in (None, names, Path)
        if counted:
            if type(value) is not int:
                raise self._error(value, "a whole number")
            return str(value)
        if listed and isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            return ",".join(value)
        if not isinstance(value, str) or not value:
            raise self._error(value, "a list of texts" if listed else "a text")
        return value

    def _several(self, value: Any) -> list[str]:
        table = "=" in str(self.option.settings.get("metavar", ""))
        if table and isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
            return [f"{name}={place}" for name, place in value.items()]
        if isinstance(value, str) and value and not table:
            return [value]
        needed = bool(self.option.settings.get("default"))
        if isinstance(value, list) and (value or not needed) and all(isinstance(each, str) and each for each in value):
            return value
        raise self._error(value, "a table of NAME = PLACE" if table else "a list of texts")

    def _placed(self, text: str) -> str:
        """``text`` with a relative path seen from the file's folder; as it stands where that is the current one."""
        if not self.of.folder.parts:
            return text
        name, joint, place = text.rpartition("=") if self.option.key == "candidate" else ("", "", text)
        there = self.of.folder / place
        if self.option.settings.get("type") is Path or (self.option.key in _PLACES and _exists(there)):
            return f"{name}{joint}{there}"
        return text

    def _error(self, value: Any, expected: str, hint: str = "") -> UsageError:
        return UsageError(f"{self.of.name}, {self.key}", f"found {value!r}", expected=expected, hint=hint)


def _key(key: str) -> str:
    key = key.replace("_", "-")
    return {"candidates": "candidate", "recipes": "recipe", "task-files": "task-file", "report": "report-dir"}.get(
        key, key
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def configuration() -> Configuration:
    """The file that holds where the command is typed: the one `VARIABLE` names, ``quantgate.toml`` here, or
    pyproject.toml here where it has ``[tool.quantgate]``.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        path = Path(named)
        return _read(path, _name(path)) if named else Configuration()
    here = Path.cwd()
    if (here / FILE).is_file():
        return _read(Path(FILE), FILE)
    return _of_project(Path(_PROJECT)) if (here / _PROJECT).is_file() else Configuration()


def _name(path: Path) -> str:
    # an absolute path would make records differ between machines
    return path.name if path.is_absolute() else str(path)


def _read(path: Path, name: str) -> Configuration:
    try:
        text = reading.read_text(path, reading.MOST_TOML)
        return Configuration(name, path.parent, reading.parse_toml(text), _digest(text))
    except (OSError, Unreadable) as error:
        return Configuration(name, fault=f"cannot be read ({error})")


def _of_project(path: Path) -> Configuration:
    name = f"{path.name} [tool.quantgate]"
    try:
        text = reading.read_text(path, reading.MOST_TOML)
        if "quantgate" not in text:
            return Configuration()  # somebody else's file, whatever may be wrong with it
        tools = reading.parse_toml(text).get("tool")
        table = tools.get("quantgate") if isinstance(tools, dict) else None
    except (OSError, Unreadable) as error:
        return Configuration(name, fault=f"cannot be read ({error})")
    if table is None:
        return Configuration()
    if not isinstance(table, dict):
        return Configuration(name, fault=f"{table!r} is no table")
    return Configuration(name, path.parent, table, _digest(text))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
