"""Tensors that need not stay in memory: beyond a budget they lie in a file without a name, which the system may put on
disk when memory is short and reads back where they are looked at.

Weights that are loaded in the files' own dtype lie in those files already (safetensors maps them). What a run makes
beside them, packed weights while a model is quantized and unpacked ones while it is scored, comes here.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import torch
from torch import Tensor

from quantgate.core.errors import MethodError
from quantgate.core.memory import available, on_disk

_SLAB: Final = 256 << 20  # bytes of a file at least: every file is an open descriptor
_SHARE: Final = 8  # so they grow with what is kept already: 139 GiB are some 50 descriptors
_ALIGNED: Final = 64
_CANNOT: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # of file systems that promise no room
_PIECE: Final = 1 << 20


class Spill:
    """Keeps tensors; the first ``above`` bytes of them in memory, what follows in files below ``directory``.

    ``above``: None for a quarter of the memory that is available now; what is computed with them wants the rest.
    ``directory``: None for the system's temporary one (``TMPDIR``); ``/var/tmp`` where that lies in memory itself. The
    files go with the last tensor in them, or with the process.
    """

    def __init__(self, who: str, directory: Path | None = None, above: int | None = None) -> None:
        self.who, self.directory = who, directory
        free = available() if above is None else None
        self.left = above if above is not None else sys.maxsize if free is None else free // 4
        self.spilled = 0
        """Bytes that went into files."""
        self._slab: mmap.mmap | None = None
        self._used = 0

    def room(self, nbytes: int) -> bool:
        """Whether so many bytes more stay in memory; if they do, they are counted."""
        if nbytes > self.left:
            return False
        self.left -= nbytes
        return True

    def keep(self, tensor: Tensor) -> Tensor:
        """``tensor``, or an equal one that lies in a file. Raises MethodError when there is no disk left for it."""
        if tensor.device.type != "cpu" or not tensor.nbytes or self.room(tensor.nbytes):
            return tensor
        return self.put(tensor)

    def put(self, tensor: Tensor) -> Tensor:
        """An equal tensor that lies in a file, if it has bytes. Raises MethodError when there is no disk for it."""
        if not tensor.nbytes:
            return tensor
        slab, start = self._place(tensor.nbytes)
        kept = torch.frombuffer(slab, dtype=tensor.dtype, count=tensor.numel(), offset=start).view(tensor.shape)
        self.spilled += tensor.nbytes
        return kept.copy_(tensor.detach())

    def _place(self, nbytes: int) -> tuple[mmap.mmap, int]:
        start = -(-self._used // _ALIGNED) * _ALIGNED
        if self._slab is None or start + nbytes > len(self._slab):
            self._slab, start = self._new(max(_SLAB, nbytes, self.spilled // _SHARE)), 0
        self._used = start + nbytes
        return self._slab, start

    def _new(self, size: int) -> mmap.mmap:
        place = self.directory
        try:
            place = on_disk(place or Path(tempfile.gettempdir()))
            with tempfile.TemporaryFile(dir=place) as file:
                _reserve(file, size)
                return mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise MethodError(
                self.who,
                f"no room for {size / 2**20:,.0f} MiB in {place or 'a temporary directory'} ({error.strerror})",
                expected="disk for what does not fit into memory",
                hint="raise the limit of open files" if error.errno == errno.EMFILE
                else "free some, or name another directory by TMPDIR or --store",
            ) from error  # fmt: skip


def _reserve(file: IO[bytes], size: int) -> None:
    """Make ``file`` so long, with room on the disk: a hole that it cannot fill later would kill the process."""
    with suppress(AttributeError):  # macOS
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
    zeros = bytes(_PIECE)
    for start in range(0, size, _PIECE):
        file.write(zeros[: size - start])
    file.flush()
