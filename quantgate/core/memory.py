"""How much memory there is, and how it is kept while a model is read or quantized.

The C allocator hands large blocks back to the system as soon as they are freed, and the next layer's activations then
cost a page fault for every 4 KiB again. Measured on two cores of a virtual machine: 45% more tokens a second at 4,096
tokens a pass with the blocks kept.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_DEFAULT: Final = 128 << 10
LARGEST_KEPT: Final = 32 << 20  # glibc refuses more
_KEPT: Final = (1 << 31) - 1
_LARGE: Final = Path("/var/tmp")  # where Linux keeps temporary files that are too large for memory
_FIRST: Final = ("memory.limit_in_bytes",)  # of control groups, by version
_SECOND: Final = ("memory.max", "memory.high")  # "max" where there is none; above the second everything waits


def _libc() -> Any:
    """The C library if it is glibc, else None (musl, macOS and Windows have no mallopt)."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
    except OSError:
        return None


@contextmanager
def kept_heap() -> Iterator[None]:
    """Within a block freed blocks stay with the process; after it they go back to the system."""
    libc = _libc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, _DEFAULT)
        libc.mallopt(_MMAP_THRESHOLD, _DEFAULT)
        libc.malloc_trim(0)


def give_back() -> None:
    """Hand back what is free, within `kept_heap` too: where memory is short that is worth its faults."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def large_pages() -> None:
    """Let torch ask for pages of 2 MB from here on, where the system gives them on request (Linux: ``madvise``).

    A tensor of 200 MB that is used once costs several times its arithmetic in faults of 4 KB pages otherwise. To be
    called before torch allocates; what the user set stands. Source: PyTorch, ``THP_MEM_ALLOC_ENABLE``.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def available() -> int | None:
    """Bytes that this process may still take: what the system can give, and what its control groups leave.

    Containers limit memory by control groups (Linux, versions 1 and 2). What a group holds of files counts as free:
    the system drops it first. None where nothing says.
    """
    free = _number(Path("/proc/meminfo"), r"MemAvailable:\s+(\d+)") * 1024
    if not free and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()):
        free = max(0, os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    room = [*([free] if free else []), *group_rooms()]
    return min(room) if room else None


def group_rooms(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Bytes that the control groups leave in which this process is, and those around them.

    What other processes in a group hold is gone for this one too: of a container, of several workers.

    Args:
        root: where they are mounted.
        own: the file that says which groups these are.
    """
    for line in _text(own).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not {"", "memory"} & set(controllers.split(",")) or not path:
            continue
        top, names = (root / "memory", _FIRST) if controllers else (root, _SECOND)
        inside = top / path.lstrip("/")
        for place in (inside, *inside.parents):
            if limits := [limit for name in names if (limit := _number(place / name, r"\A(\d+)\s*\Z"))]:
                yield max(0, min(limits) - _held(place / "memory.stat"))
            if place == top:
                break


def _held(statistics: Path) -> int:
    """Bytes that a group holds and cannot drop: outside files, and in those that lie in memory."""
    said = dict(re.findall(r"^(\w+) ([0-9]{1,19})$", _text(statistics), re.MULTILINE))
    names = ("total_rss", "total_shmem") if "total_rss" in said else ("anon", "shmem")  # version 1 counts both ways
    if names[0] in said:
        return sum(int(said.get(name, 0)) for name in names)
    return _number(Path("/proc/self/status"), r"RssAnon:\s+(\d+)") * 1024


def in_memory(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether files in ``directory`` take memory instead of disk; False where nothing says so (Linux does)."""
    with suppress(OSError):
        device = directory.stat().st_dev
        for line in _text(mounts).splitlines():
            place, _, kind = line.partition(" - ")
            if kind.split(" ")[0] in ("tmpfs", "ramfs") and f" {os.major(device)}:{os.minor(device)} " in place:
                return True
    return False


def on_disk(wanted: Path) -> Path:
    """``wanted``, or where that lies in memory, which files in it would not relieve, another one that does not."""
    return _LARGE if in_memory(wanted) and os.access(_LARGE, os.W_OK) and not in_memory(_LARGE) else wanted


def _number(path: Path, pattern: str) -> int:
    """The first number that a file of the kernel says; 0 where it says none."""
    found = re.search(pattern, _text(path), re.ASCII)
    return int(found[1][:20]) if found else 0


def _text(path: Path) -> str:
    with suppress(OSError, reading.Unreadable):
        return reading.read_text(path)
    return ""
