"""Rows of benchmark data, checked against the fields a task needs.

Three sources, one layout: a directory holds ``<org>__<name>/<config>/<split>.jsonl`` with the field names and types of
the Hugging Face hub's dataset; the bundled items are such a directory; the hub itself is read through ``datasets``, and
records name the commit that was read. Lines are split at line feeds only: some rows hold other line separators inside
their strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from quantgate.core import reading
from quantgate.core.errors import DataError, translated
from quantgate.core.places import DATA
from quantgate.core.reading import Unreadable

Row: TypeAlias = dict[str, Any]
Fields: TypeAlias = Mapping[str, type | tuple[type, ...]]
BUNDLED_DATA: Final = DATA
BUNDLED: Final = "bundled"
_SAFE_PART: Final = re.compile(r"[A-Za-z0-9][\w.-]*")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


class DataSource(Protocol):
    """Where rows come from."""

    @property
    def name(self) -> str:
        """``bundled``, ``hub`` or the directory, for records."""

    def origin(self, dataset: str) -> str:
        """What records say about rows of ``dataset``: the name, and which version was read where there are several."""

    def has(self, dataset: str, config: str = "", split: str = "") -> bool:
        """Whether the source may hold ``dataset`` (a hub id), and if named this split; the hub is assumed to."""

    def configs(self, dataset: str) -> list[str]:
        """Configurations (MMLU: subjects) of ``dataset``, sorted."""

    def splits(self, dataset: str, config: str) -> list[str]:
        """Splits of a configuration, sorted; empty when there is no such configuration."""

    def rows(self, dataset: str, config: str, split: str, fields: Fields) -> list[Row]:
        """All rows of a split. Raises DataError naming file, line and field when something is not as expected."""

    def text(self, dataset: str, name: str) -> str:
        """A file that lies beside the configurations, such as BBQ's table of metadata. Raises DataError without it."""


@dataclass(frozen=True)
class DirectorySource:
    """A data directory; ``label`` names it in records (``bundled`` for evals/data)."""

    root: Path
    label: str = ""

    @property
    def name(self) -> str:
        """The label, or the directory's own name: an absolute path would make records differ between machines."""
        return self.label or self.root.name

    def origin(self, dataset: str) -> str:
        """The name: a directory holds one version of everything."""
        del dataset
        return self.name

    def has(self, dataset: str, config: str = "", split: str = "") -> bool:
        """Whether the dataset's folder, and if named the split's file, is there."""
        return self._folder(dataset).is_dir() and (not split or split in self.splits(dataset, config))

    def configs(self, dataset: str) -> list[str]:
        """Names of the sub-folders of the dataset's folder, sorted. Raises DataError when there are none."""
        folder = self._folder(dataset)
        found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if not found:
            raise DataError(
                f"data directory {self.name}",
                f"no data for {dataset}",
                expected=f"{folder.name}/<config>/<split>.jsonl",
                hint="choose other --tasks or another --data",
            )
        return found

    def splits(self, dataset: str, config: str) -> list[str]:
        """Names of the configuration's ``.jsonl`` files."""
        return sorted(path.stem for path in (self._folder(dataset) / _safe(config)).glob("*.jsonl"))

    def rows(self, dataset: str, config: str, split: str, fields: Fields) -> list[Row]:
        """All rows of ``<org>__<name>/<config>/<split>.jsonl``."""
        path = self._folder(dataset) / _safe(config) / f"{_safe(split)}.jsonl"
        who = f"{path.parent.parent.name}/{path.parent.name}/{path.name} in {self.name}"
        if not path.exists() and (others := self.splits(dataset, config)):
            raise DataError(
                who,
                "no such file",
                expected=f"the split {split!r}",
                hint=f"there is {' and '.join(others)}, which does not stand in for it: choose other --tasks or --data",
            )
        lines = _read(path, who).split("\n")
        if lines and lines[-1] == "":
            lines.pop()
        if not lines:
            raise DataError(who, "the file is empty", expected="one JSON object a line")
        return [_parse(line, number, who, fields) for number, line in enumerate(lines, start=1)]

    def text(self, dataset: str, name: str) -> str:
        """The file ``<org>__<name>/<name>``."""
        path = self._folder(dataset) / _safe(name)
        return _read(path, f"{path.parent.name}/{path.name} in {self.name}")

    def _folder(self, dataset: str) -> Path:
        return self.root / "__".join(_safe(part) for part in dataset.split("/"))


def _read(path: Path, who: str) -> str:
    try:
        return reading.read_text(path, reading.MOST_ROWS)
    except FileNotFoundError as error:
        raise DataError(who, "no such file", hint="choose other --tasks or another --data") from error
    except Unreadable as error:
        raise DataError(
            who, str(error), expected="UTF-8 text", hint="choose other --tasks or another --data"
        ) from error


def _safe(part: str) -> str:
    # names come from options and data files: they must not walk out of the data directory
    if not _SAFE_PART.fullmatch(part):
        raise DataError("data source", f"the name {part!r}", expected="letters, digits, '.', '_' and '-' only")
    return part


def _parse(line: str, number: int, who: str, fields: Fields) -> Row:
    where = f"{who}, line {number}"
    try:
        row = reading.parse_json(line, reading.MOST_LINE)
    except Unreadable as error:
        raise DataError(where, str(error), expected="a JSON object", hint="is the file truncated?") from error
    if not isinstance(row, dict):
        raise DataError(where, f"a {type(row).__name__}", expected="a JSON object")
    check_fields(row, fields, where)
    return row


def check_fields(row: Row, fields: Fields, where: str) -> None:
    """Raise DataError when a field is missing or of another type than the benchmark's schema says."""
    for name, kind in fields.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if name not in row:
            raise DataError(
                where, f"no field {name!r}", expected=f"fields {', '.join(fields)}", hint="is this the right dataset?"
            )
        value = row[name]
        # bool is an int in Python, yet a label that is true or false is not the number that was meant
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(each.__name__ for each in kinds)
            raise DataError(where, f"field {name!r} is a {type(value).__name__}", expected=f"a {wanted}")


@dataclass(frozen=True)
class HubSource:
    """The Hugging Face hub through ``datasets``.

    Datasets in :data:`REVISIONS` are read at the commit that stands there, all others at the newest of their main
    branch (offline: the one in the cache). :meth:`origin` tells which commit that was.
    """

    offline: bool = False
    _read: dict[str, set[str]] = field(default_factory=dict, repr=False, compare=False)
    _shards: dict[str, set[str]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Always ``hub``."""
        return "hub"

    def origin(self, dataset: str) -> str:
        """``hub, <dataset> at <commit>`` once rows were read, whether this project pins that commit, and which files
        were read where it was not all of a split.
        """
        if not dataset:
            return self.name
        commits = " and ".join(sorted(self._read.get(dataset, ()))) or "an unknown commit"
        pinned = "" if dataset in REVISIONS else ", not pinned"
        shards = "".join(f", only {shard}" for shard in sorted(self._shards.get(dataset, ())))
        return f"{self.name}, {dataset} at {commits}{pinned}{shards}"

    def has(self, dataset: str, config: str = "", split: str = "") -> bool:
        """Assumed; what is missing shows when it is read."""
        del config, split
        return bool(dataset)

    def configs(self, dataset: str) -> list[str]:
        """Configurations the hub lists, less the aggregates ``all`` and ``auxiliary_train``."""
        with _asking(dataset):
            from datasets import get_dataset_config_names

            names = get_dataset_config_names(dataset, revision=REVISIONS.get(dataset))
        return sorted(set(names) - {"all", "auxiliary_train"})

    def splits(self, dataset: str, config: str) -> list[str]:
        """Splits the hub lists."""
        with _asking(dataset):
            from datasets import get_dataset_split_names

            return sorted(get_dataset_split_names(dataset, config, revision=REVISIONS.get(dataset)))

    def rows(self, dataset: str, config: str, split: str, fields: Fields) -> list[Row]:
        """All rows of a split, loaded by ``datasets`` and checked like those of a file."""
        shard = SHARDS.get((dataset, config, split))
        # without a shard, the whole split; naming files replaces the configuration, whose folder they lie in
        where: dict[str, Any] = {"data_files": {split: shard}} if shard else {"name": config}
        with _asking(dataset):
            from datasets import DownloadMode, load_dataset

            where |= {"revision": REVISIONS.get(dataset), "download_mode": DownloadMode.REUSE_DATASET_IF_EXISTS}
            table = load_dataset(dataset, split=split, **where)
            rows = [dict(row) for row in table]
        self._keep(dataset, [file["filename"] for file in table.cache_files])
        if shard:
            self._shards.setdefault(dataset, set()).add(shard)
        for number, row in enumerate(rows):
            check_fields(row, fields, f"{dataset} ({config}, {split}), row {number}")
        if not rows:
            raise DataError(f"{dataset} ({config}, {split})", "no rows", expected="at least one row")
        return rows

    def text(self, dataset: str, name: str) -> str:
        """A file of the dataset's repository."""
        with _asking(dataset):
            from huggingface_hub import hf_hub_download

            path = hf_hub_download(dataset, name, repo_type="dataset", revision=REVISIONS.get(dataset))
        self._keep(dataset, [path])
        return _read(Path(path), f"{dataset}/{name}")

    def _keep(self, dataset: str, files: Iterable[str]) -> None:
        # both caches, that of ``datasets`` and that of files, put what they hold into a folder named after its commit
        commits = {part for file in files for part in Path(file).parts if _COMMIT.fullmatch(part)}
        self._read.setdefault(dataset, set()).update(commits)


SHARDS: Final[Mapping[tuple[str, str, str], str]] = {
    ("allenai/c4", "en", "train"): "en/c4-train.00000-of-01024.json.gz",
    ("allenai/c4", "en", "validation"): "en/c4-validation.00000-of-00008.json.gz",
}
"""The one file of a split that stands for it on the hub, as in GPTQ's code: C4's English text has 305 GB."""

REVISIONS: Final[Mapping[str, str]] = {}
"""Commit per dataset, filled as commits are verified against the hub."""


def _asking(dataset: str) -> AbstractContextManager[None]:
    """A block that asks the hub or ``datasets``: what they raise becomes a DataError."""
    return translated(
        f"hub dataset {dataset}",
        "cannot be read",
        kind=DataError,
        expected="access to the hub or its local cache",
        hint="use --data bundled or --data DIR",
    )


def open_data(name: str, bundled: Path, *, offline: bool) -> DataSource:
    """The source called ``bundled``, ``hub`` or a directory. Raises DataError for anything else."""
    if name == "bundled":
        return DirectorySource(bundled, "bundled")
    if name == "hub":
        return HubSource(offline)
    if Path(name).is_dir():
        return DirectorySource(Path(name))
    raise DataError("--data", f"{name!r} is no directory", expected="'bundled', 'hub' or a data directory")
