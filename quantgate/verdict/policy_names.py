"""The names in a policy against those of a run: a misspelt section would silently leave its cases to wider margins.

Tasks, metrics and dimensions are a closed list: a name that matches none of them is refused. Methods and models are
open: a section may be about a candidate, a recipe or a model of another run. Such a section is refused where it looks
like a slip of something this run knows, and noted as not used otherwise.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quantgate.core.errors import PolicyError
from quantgate.core.naming import closest, suggestion
from quantgate.models.source import BUNDLED
from quantgate.verdict.policy import DIMENSIONS, Policy

_SLIP: Final = 0.75  # of a method's name: gtpq4 and gptq5 are slips of gptq4, "mine" is not
_SLIP_OF_A_WORD: Final = 0.7  # words of a model's name are short
_WORDS: Final = r"[^\W\d_]+\*?|\d+|\*|/"  # letters, digits, and what parts a path


@dataclass(frozen=True)
class Known:
    """What a run knows. ``methods``: rows of the method table; ``given``: candidates and recipes of this run;
    ``models``: the references as the user named them.
    """

    tasks: Sequence[str]
    metrics: Sequence[str]
    methods: Sequence[str]
    given: Sequence[str]
    models: Sequence[str]


def check_names(policy: Policy, known: Known) -> list[str]:
    """Notes about sections that this run does not use. Raises PolicyError for a name that must be a slip."""
    closed = {"tasks": known.tasks, "metrics": known.metrics, "dimensions": DIMENSIONS}
    notes = []
    if policy.root.settings.get("allow"):
        verdicts = " and ".join(policy.root.settings["allow"])
        notes.append(f"{policy.name}, defaults.allow: {verdicts} fails no case: {policy.root.settings['because']}")
    for path, scope, name in policy.named():
        if scope in closed:
            _closed(f"{policy.name}, {path}", scope, name, closed[scope])
        elif scope == "methods":
            notes += _method(f"{policy.name}, {path}", name, known)
        else:
            notes += _model(f"{policy.name}, {path}", name, known.models)
    return notes


def _matches(pattern: str, names: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _closed(where: str, scope: str, name: str, names: Sequence[str]) -> None:
    if not _matches(name, names):
        hint = suggestion(name, sorted(set(names)))
        raise PolicyError(where, f"there is nothing called {name!r} among the {scope}", hint=hint)


def _method(where: str, name: str, known: Known) -> list[str]:
    names = [*known.methods, *known.given]
    if _matches(name, names):
        return []
    close = closest(name.rstrip("*"), {each[: len(name) - 1] if "*" in name else each for each in names}, 1, _SLIP)
    if close:
        raise PolicyError(
            where,
            f"there is nothing called {name!r} among the methods",
            expected="a method, or a candidate or recipe that this run is given",
            hint=f"did you mean {close[0] + '*' * ('*' in name)!r}?",
        )
    return [f"{where} is not used: no method, candidate or recipe of this run is called so"]


def _model(where: str, name: str, models: Sequence[str]) -> list[str]:
    if _matches(name, models) or name == BUNDLED:  # always a real one; the shipped policy names it
        return []
    for model in models:
        if name.casefold() == model.casefold() or _is_place(name, model) or is_slip(name, model):
            raise PolicyError(
                where, f"no model of this run is called {name!r}", hint=f"did you mean {model!r}, as --model names it?"
            )
    its = "model of this run is" if len(models) == 1 else "models of this run are"
    return [f"{where} is not used: the {its} {', '.join(map(repr, models))}"]


def _is_place(name: str, model: str) -> bool:
    """Whether both are one directory, written in two ways."""
    if "\0" in name or not Path(model).is_dir():
        return False
    try:
        return Path(name).resolve() == Path(model).resolve()
    except (OSError, RuntimeError):  # a link that comes back to itself; Python before 3.13 raises the latter
        return False


def is_slip(name: str, model: str) -> bool:
    """Whether ``name`` looks like ``model`` misspelt.

    Hub ids: the same number of words, each equal or close, with other letters. Other digits are another model (7B and
    14B), other words too (base and chat), and so is a directory that exists.
    """
    if "/" in name and "\0" not in name and Path(name).is_dir():
        return False
    if Path(model).is_dir() and "\0" not in name and Path(name).absolute().parent == Path(model).absolute().parent:
        ours, theirs = (re.sub(r"\d", "", Path(text).name.casefold()) for text in (model, name))
        return ours != theirs and _alike(ours, theirs) >= _SLIP
    return _words_slipped(re.findall(_WORDS, name.casefold()), re.findall(_WORDS, model.casefold()))


def _words_slipped(theirs: list[str], ours: list[str]) -> bool:
    if theirs and theirs[-1].endswith("*"):  # a pattern: what its star stands for was not misspelt
        theirs = [word for word in (*theirs[:-1], theirs[-1].rstrip("*")) if word]
        ours = ours[: len(theirs)]
        if theirs and ours:
            ours[-1] = ours[-1][: len(theirs[-1])]
    if len(ours) != len(theirs):
        return False
    other = [(one, two) for one, two in zip(ours, theirs, strict=True) if one != two]
    if not other or any(one.isdigit() or two.isdigit() for one, two in other):
        return False
    return all(_alike(one, two) >= _SLIP_OF_A_WORD for one, two in other)


def _alike(one: str, two: str) -> float:
    return difflib.SequenceMatcher(None, one, two).ratio()
