"""Tensors that need not stay in memory: beyond a budget they lie in a file without a name, which the system may put on
disk when memory is short and reads back where they are looked at.

Weights that are loaded in the files' own dtype lie in those files already (safetensors maps them). What a run makes
beside them, packed weights while a model is quantized and unpacked ones while it is scored, comes here.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from quantgate.core.errors import MethodError
from quantgate.core.memory import available

_SLAB: Final = 256 << 20  # bytes of a file at least: every file is an open descriptor
_ALIGNED: Final = 64


class Spill:
    """Keeps tensors; the first ``above`` bytes of them in memory, what follows in files below ``directory``.

    ``above``: None for a quarter of the memory that is available now; what is computed with them wants the rest.
    ``directory``: None for the system's temporary one (``TMPDIR``). The files go with the last tensor in them, or with
    the process.
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
        """An equal tensor that lies in a file. Raises MethodError when there is no disk left for it."""
        slab, start = self._place(tensor.nbytes)
        kept = torch.frombuffer(slab, dtype=tensor.dtype, count=tensor.numel(), offset=start).view(tensor.shape)
        self.spilled += tensor.nbytes
        return kept.copy_(tensor)

    def _place(self, nbytes: int) -> tuple[mmap.mmap, int]:
        start = -(-self._used // _ALIGNED) * _ALIGNED
        if self._slab is None or start + nbytes > len(self._slab):
            self._slab, start = self._new(max(_SLAB, nbytes)), 0
        self._used = start + nbytes
        return self._slab, start

    def _new(self, size: int) -> mmap.mmap:
        try:
            with tempfile.TemporaryFile(dir=self.directory) as file:
                if hasattr(os, "posix_fallocate"):  # a hole that the disk cannot fill later would kill the process
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
                return mmap.mmap(file.fileno(), size)
        except OSError as error:
            place = self.directory or Path(tempfile.gettempdir())
            raise MethodError(
                self.who, f"no room for {size / 2**20:,.0f} MiB in {place} ({error.strerror})",
                expected="disk for what does not fit into memory",
                hint="free some, or name another directory by TMPDIR or --store",
            ) from error  # fmt: skip
