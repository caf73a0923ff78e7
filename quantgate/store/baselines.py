"""Committed baselines: the reference's stored outcome of a task, with everything that makes it comparable.

One JSON file per task under ``<baselines>/<model>/``. A baseline is used only when every field of its provenance equals
the run's; otherwise the run says which field differs and computes the reference anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.errors import StoreError
from quantgate.core.items import ItemOutcome
from quantgate.core.words import counted
from quantgate.store.store import write_atomically

SCHEMA: Final = 2


@dataclass(frozen=True)
class Baseline:
    """``provenance``: plain strings and numbers; ``outcomes``: one per item, in the task's order; ``noise``: by how
    much a second run of the same weights may differ, in the metric's unit.
    """

    provenance: Mapping[str, Any]
    outcomes: tuple[ItemOutcome, ...]
    noise: float

    @property
    def seal(self) -> str:
        """sha256 over all of it: a score that was changed by hand breaks it."""
        content = [dict(self.provenance), [asdict(outcome) for outcome in self.outcomes], self.noise]
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def folder_name(model_id: str) -> str:
    """A model's folder: its id with everything unusual replaced (ids come from options, never trusted in paths)."""
    return re.sub(r"[^A-Za-z0-9_-]+", "__", model_id).strip("_") or "model"


def path_of(root: Path, model_id: str, task_id: str) -> Path:
    """The file of one baseline."""
    return root / folder_name(model_id) / f"{folder_name(task_id)}.json"


def read(path: Path) -> Baseline | None:
    """The baseline in ``path``, or None when there is none.

    Raises:
        StoreError: the file is there but is no baseline.
    """
    try:
        content = reading.read_json(path, reading.MOST_RECORDS)
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        outcomes = tuple(ItemOutcome(**each | {"facts": tuple(each.get("facts", ()))}) for each in content["outcomes"])
        found = Baseline(dict(content["provenance"]), outcomes, float(content["noise"]))
        if found.seal != content["seal"]:
            raise ValueError("its seal is broken: the content was changed after it was written")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"baseline {path}",
            f"unreadable ({type(error).__name__}: {error})",
            expected=f"a baseline of schema {SCHEMA}",
            hint="delete it, or make it anew with --update-baselines",
        ) from error


def write(path: Path, baseline: Baseline) -> None:
    """Write ``baseline`` atomically, one outcome a line so that diffs can be read."""
    lines = ",\n  ".join(json.dumps(_plain(outcome), ensure_ascii=False) for outcome in baseline.outcomes)
    provenance = json.dumps(dict(baseline.provenance), indent=1, sort_keys=True, ensure_ascii=False)
    head = f'"schema": {SCHEMA},\n "seal": "{baseline.seal}",\n "noise": {baseline.noise!r}'
    text = f'{{{head},\n "provenance": {provenance},\n "outcomes": [\n  {lines}\n ]}}\n'
    write_atomically(path, text)


def _plain(outcome: ItemOutcome) -> dict[str, Any]:
    # only corpus metrics have facts
    return {name: value for name, value in asdict(outcome).items() if name != "facts" or value}


def check_own(stored: Baseline, path: Path, own: float) -> None:
    """Refuse scores of a comparison with the reference that are not ``own``, what it scores itself by definition.

    Raises:
        StoreError: some score is another number, whatever the seal says.
    """
    wrong = [outcome.item_id for outcome in stored.outcomes if outcome.score not in (own, None)]
    if wrong:
        raise StoreError(
            f"baseline {path}",
            f"{len(wrong)} items have a distance of the reference from itself (first: {wrong[0]})",
            expected=f"{own:g} for every item",
            hint="delete it, or make it anew with --update-baselines",
        )


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of the provenance fields that differ, in alphabetical order."""
    return sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name))


def unused(root: Path, model_id: str, known: Iterable[str]) -> list[str]:
    """Names of baseline files of this model that belong to no task there is: nobody reads them any more."""
    expected = {path_of(root, model_id, task_id).name for task_id in known}
    return sorted(path.name for path in (root / folder_name(model_id)).glob("*.json") if path.name not in expected)


def describe_change(old: Sequence[ItemOutcome], new: Sequence[ItemOutcome]) -> str:
    """One line on how two outcomes of the same task differ."""
    before = {outcome.item_id: outcome.score for outcome in old}
    after = {outcome.item_id: outcome.score for outcome in new}
    changed = sum(before[name] != after[name] for name in before.keys() & after.keys())
    return (
        f"{counted(len(after), 'item')} "
        f"({len(after.keys() - before.keys())} new, {len(before.keys() - after.keys())} gone), "
        f"{changed} scores changed, mean {_mean(before)} -> {_mean(after)}"
    )


def _mean(scores: Mapping[str, float | None]) -> str:
    known = [score for score in scores.values() if score is not None]
    return f"{sum(known) / len(known):.4f}" if known else "none"
