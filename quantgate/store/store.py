"""The content-addressed store: quantized models and answers, safe under xdist and ``kill -9``.

An entry is a directory ``<root>/<kind>/<digest>/`` with the built files and ``entry.json`` (the key in clear, and size
and sha256 of every file, of large ones part by part). It is built in a temporary directory beside it, synced, and
published by one rename: an entry is there as a whole or not at all. One file lock per key makes sure that of several
workers one builds and the others wait. Every read checks the files against ``entry.json``; a damaged entry is set aside
under ``damaged/`` and built anew, and the user is told.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import platformdirs
from filelock import FileLock, Timeout

from quantgate.core import reading
from quantgate.core.errors import StoreError
from quantgate.core.keys import Key
from quantgate.core.progress import Progress
from quantgate.core.reading import Unreadable
from quantgate.store import bound

ENTRY: Final = "entry.json"
_CHUNK: Final = 1 << 22
PART: Final = 1 << 26
"""Bytes of a file that are digested by themselves, where it has more."""
_HASHING: Final = min(4, os.cpu_count() or 1)  # parts at a time
_LOCK_PATIENCE_S: Final = 4 * 3600  # quantizing a large model takes hours; a dead holder frees the lock at once


def default_root() -> Path:
    """``QUANTGATE_STORE`` if set, else the user's cache directory."""
    chosen = os.environ.get("QUANTGATE_STORE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("quantgate")) / "store"


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part_digests(path: Path) -> list[str]:
    """sha256 of every `PART` bytes of a file, several at a time: hashing leaves the interpreter to others."""

    def digest(start: int) -> str:
        found, left = hashlib.sha256(), PART
        with path.open("rb") as file:
            file.seek(start)
            while left and (content := file.read(min(left, _CHUNK))):
                found.update(content)
                left -= len(content)
        return found.hexdigest()

    with ThreadPoolExecutor(_HASHING) as pool:
        return list(pool.map(digest, range(0, path.stat().st_size, PART)))


@dataclass(frozen=True)
class Entry:
    """A published entry. ``from_cache``: it was there already; False for the caller who built it."""

    path: Path
    from_cache: bool
    digest: str

    def json(self, name: str) -> Any:
        """The content of one of its JSON files, which `bound.write_json` wrote for this entry's key.

        Raises:
            StoreError: it is gone since the entry was checked, was edited, or was made for another entry.
        """
        try:
            return bound.read_json(self.path / name, self.digest)
        except (OSError, Unreadable) as error:
            raise StoreError(
                f"store entry {self.path}",
                f"{name} cannot be read ({error})",
                hint="delete the entry, and it is made anew",
            ) from error


class Store:
    """See the module's docstring.

    Args:
        root: directory of the store; made when missing.
        progress: told about interrupted builds and damaged entries.

    Raises:
        StoreError: the directory cannot be written.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.progress = progress
        try:
            for name in ("tmp", "locks", "damaged"):
                (root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"store {root}", f"cannot be written ({error.strerror})", hint="choose another directory with --store"
            ) from error

    def fetch(self, key: Key, build: Callable[[Path], None], *, what: str) -> Entry:
        """The entry of ``key``; built by ``build(directory)`` if it is not there or damaged.

        Args:
            key: every field that changes the result.
            build: writes files (no links, no sub-directories) into an empty directory.
            what: what the entry is, for messages (``gptq4 of bundled``).

        Raises:
            StoreError: disk full or not writable while publishing.
        """
        final = self.path_of(key)
        with self._explaining(what), self.locked(key, what):
            if final.exists() and self._is_sound(final, key, what):
                return Entry(final, True, key.digest)
            self._clear_leftovers(key, what)
            self._build(key, build, final, what)
            return Entry(final, False, key.digest)

    def peek(self, key: Key, *, what: str) -> Entry | None:
        """The entry of ``key`` if it is there and sound; never builds."""
        final = self.path_of(key)
        if not final.exists():
            return None
        with self._explaining(what), self.locked(key, what):
            return Entry(final, True, key.digest) if final.exists() and self._is_sound(final, key, what) else None

    def path_of(self, key: Key) -> Path:
        """Where the entry of ``key`` is or would be."""
        return self.root / key.kind / key.digest

    @contextmanager
    def _explaining(self, what: str) -> Iterator[None]:
        """Say of a store that is read-only, full or gone by now what it is, instead of the bare system error."""
        try:
            yield
        except OSError as error:
            gone = "" if (self.root / "tmp").is_dir() else ", and the store is gone"
            raise StoreError(
                f"store {self.root}",
                f"cannot be used for {what} ({error.strerror or error}{gone})",
                expected="a writable directory with free space that stays during the run",
                hint="choose another directory with --store",
            ) from error

    @contextmanager
    def locked(self, key: Key, what: str) -> Iterator[None]:
        """Hold the lock of ``key``; says so when another process holds it."""
        lock = FileLock(self.root / "locks" / f"{key.kind}-{key.digest}.lock")
        try:
            lock.acquire(timeout=1.0)
        except Timeout:
            self.progress.note(f"waiting for another process that works on {what}")
            try:
                lock.acquire(timeout=_LOCK_PATIENCE_S)
            except Timeout as error:
                raise StoreError(
                    f"store {self.root}",
                    f"the lock for {what} was not freed in {_LOCK_PATIENCE_S // 3600} h",
                    hint=f"end the process that holds {lock.lock_file}",
                ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def computing(self, shared: bool) -> Iterator[None]:
        """Hold the machine for a heavy step, if several workers share it.

        Workers take turns with all cores instead of each computing with a part of them: that is as fast, and a result
        does not depend on the number of workers (sums of floats depend on the number of threads). Always the
        innermost lock: nobody asks for another one while holding it.
        """
        if not shared:
            yield
            return
        lock = FileLock(self.root / "locks" / "computing.lock")
        with self._explaining("taking turns"):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _is_sound(self, final: Path, key: Key, what: str) -> bool:
        problem = check_entry(final, key)
        if not problem:
            return True
        aside = self.root / "damaged" / f"{key.digest}-{time.time_ns()}"
        final.rename(aside)
        self.progress.note(f"rebuilding {what}: the stored entry is damaged ({problem}); it was set aside as {aside}")
        return False

    def _clear_leftovers(self, key: Key, what: str) -> None:
        # safe: whoever made these directories held this key's lock, which we hold now, so its owner is gone
        for leftover in (self.root / "tmp").glob(f"{key.digest}.*"):
            shutil.rmtree(leftover)
            self.progress.note(f"rebuilding {what}: an earlier run was interrupted while building it")

    def _build(self, key: Key, build: Callable[[Path], None], final: Path, what: str) -> None:
        work = self.root / "tmp" / f"{key.digest}.{os.getpid()}"
        work.mkdir()
        try:
            build(work)
            _seal(work, key)
            final.parent.mkdir(exist_ok=True)
            work.rename(final)
            _sync_directory(final.parent)
        except OSError as error:
            raise StoreError(
                f"store {self.root}",
                f"cannot write {what} ({error.strerror or error})",
                expected="a writable directory with free space",
                hint="free some space or choose another directory with --store",
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def check_entry(path: Path, key: Key) -> str:
    """What is wrong with the entry at ``path``, or an empty string. Reads every byte of it."""
    try:
        entry = reading.read_json(path / ENTRY)
        files: dict[str, dict[str, Any]] = entry["files"]
        canonical = entry["key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{ENTRY} is unreadable: {type(error).__name__}"
    if canonical != key.canonical():
        return f"{ENTRY} belongs to another key"
    try:
        return _wrong_file(path, files)
    except (OSError, LookupError, TypeError, AttributeError) as error:
        return f"its files cannot be read: {type(error).__name__}"


def _wrong_file(path: Path, files: Mapping[str, Mapping[str, Any]]) -> str:
    present = {file.name for file in path.iterdir()} - {ENTRY}
    if present != set(files):
        return f"files differ: {', '.join(sorted(present ^ set(files)))}"
    for name, facts in files.items():
        file = path / name
        if file.stat().st_size != facts["bytes"] or not _is_same(file, facts):
            return f"the digest of {name} does not match"
    return ""


def _is_same(file: Path, facts: Mapping[str, Any]) -> bool:
    return bool(part_digests(file) == facts["parts"] if "parts" in facts else sha256_file(file) == facts["sha256"])


def _seal(work: Path, key: Key) -> None:
    files = {}
    for file in sorted(work.iterdir()):
        if file.is_symlink() or not file.is_file():
            raise StoreError("store", f"a build left {file.name}", expected="plain files only")
        _sync_file(file)
        size = file.stat().st_size
        told = {"parts": part_digests(file)} if size > PART else {"sha256": sha256_file(file)}
        files[file.name] = {"bytes": size, **told}
    entry = work / ENTRY
    entry.write_text(json.dumps({"key": key.canonical(), "files": files}, indent=1) + "\n", encoding="utf-8")
    _sync_file(entry)
    _sync_directory(work)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    if os.name != "posix":  # directories cannot be opened elsewhere
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either the old or the new content, whatever happens.

    Raises:
        StoreError: the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):  # the folder may be none
            part.unlink()
        raise StoreError(str(path), f"cannot be written ({error.strerror or error})", hint="free some space") from error
