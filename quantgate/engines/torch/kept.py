"""What the reference leaves of its distributions, on disk: one safetensors file per Rolling request.

A file is written under a temporary name and renamed: a killed run leaves whole files only, and a resumed run writes
what is missing. A checksum ties it to the request, by which it is named, and to the key.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from quantgate.core.errors import StoreError
from quantgate.core.reading import Unreadable
from quantgate.store.bound import checksum

_CACHED_BYTES: Final = 1 << 30
_CHECKSUM: Final = "checksum"


T = TypeVar("T", bound=Any)


class KeptWriter(Generic[T]):
    """Writes records into ``directory`` (created if missing), the first request being number ``start``."""

    def __init__(self, directory: Path, start: int = 0, key: str = "") -> None:
        self.directory, self.start, self.key = directory, start, key
        directory.mkdir(parents=True, exist_ok=True)

    def has(self, index: int) -> bool:
        """Whether this request was already written (a resumed run need not score it again)."""
        return _file(self.directory, self.start + index).exists()

    def write(self, index: int, record: T) -> None:
        """Store one request's positions. Raises StoreError when the disk refuses."""
        save(_file(self.directory, self.start + index), record.tensors, self.key)


class KeptReader(Generic[T]):
    """Reads what a writer left under ``key``, counting from ``start``; the last used files are kept in memory."""

    kind: ClassVar[type[Any]]

    def __init__(self, directory: Path, start: int = 0, key: str = "") -> None:
        self.directory, self.start, self.key = directory, start, key
        self._files: OrderedDict[int, T] = OrderedDict()

    def read(self, index: int) -> T:
        """The reference's positions of one request, on the CPU.

        Raises:
            StoreError: the file is missing or no whole safetensors file, was edited, or belongs to another request
                or another key.
        """
        if index not in self._files:
            names = set(self.kind.__dataclass_fields__)
            found = load(_file(self.directory, self.start + index), self.key, [names])[0]
            self._files[index] = self.kind(**found)
            while len(self._files) > 1 and sum(map(_bytes, self._files.values())) > _CACHED_BYTES:
                self._files.popitem(last=False)
        self._files.move_to_end(index)
        return self._files[index]


def save(path: Path, tensors: Mapping[str, Tensor], key: str, notes: Mapping[str, str] | None = None) -> None:
    """Write ``tensors``, and ``notes`` in the file's header. Raises StoreError when the disk refuses."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        mine = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(mine, partial, metadata={**(notes or {}), _CHECKSUM: _checksum(mine, path, key, notes or {})})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"fidelity file {path}",
            f"cannot be written ({error})",
            hint="free disk space or choose another --store",
        ) from error


def load(path: Path, key: str, names: Collection[set[str]]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors that `save` wrote, called by one of the sets of ``names``, and the notes.

    Raises:
        StoreError: see `KeptReader.read`.
    """
    try:
        file: Any = safe_open(path, framework="pt")
        with file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # safe_open is no mapping
            notes: dict[str, str] = dict(file.metadata() or {})
        if set(tensors) not in names:
            raise Unreadable(f"it holds {', '.join(sorted(tensors)) or 'nothing'}")
        if notes.pop(_CHECKSUM, None) != _checksum(tensors, path, key, notes):
            raise Unreadable("it was edited, or belongs to another request or entry")
    except (OSError, SafetensorError, Unreadable) as error:
        raise StoreError(
            f"fidelity file {path}",
            f"cannot be read ({error})",
            expected="what the reference left of its distributions for this request",
            hint="score the reference again",
        ) from error
    return tensors, notes


def _bytes(record: Any) -> int:
    return sum(tensor.nbytes for tensor in record.tensors.values())


def _checksum(tensors: Mapping[str, Tensor], path: Path, key: str, notes: Mapping[str, str]) -> str:
    said = (f"{name}={notes[name]}".encode() for name in sorted(notes))
    raw = (tensors[name].flatten().view(uint8).numpy() for name in sorted(tensors))
    return checksum(key, (path.name.encode(), *said, *raw))


def _file(directory: Path, index: int) -> Path:
    return directory / f"{index:06d}.safetensors"
