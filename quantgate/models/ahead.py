"""Weights that lie in files are read before they are needed.

Left to itself, the system reads a mapped file where it is touched, some hundred kilobytes at a time, and the processor
waits. Told which pages come next, it reads them in large pieces while the block before is computed.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any, Final

from torch import nn

from quantgate.core.memory import available

_WILL_NEED: Final = 3  # MADV_WILLNEED, of Linux and macOS alike
_READER: Final = ThreadPoolExecutor(1, "read-ahead")  # the call returns when the reads are on their way


def will_need(module: nn.Module) -> None:
    """Tell the system that the parameters of ``module`` are needed soon; what is in memory already costs nothing."""
    if _libc() is not None:
        places = [(each.data_ptr(), each.nbytes) for each in module.parameters() if each.device.type == "cpu"]
        _READER.submit(_advise, places)


def read_ahead(model: nn.Module) -> bool:
    """Let every decoder block of ``model`` have the next one read, where the model does not fit into memory.

    Behind the last block comes the first: passes follow each other. Gives whether it does so.
    """
    size, free = sum(each.nbytes for each in model.parameters() if each.device.type == "cpu"), available()
    blocks = max((each for each in model.modules() if isinstance(each, nn.ModuleList)), key=_numbers, default=None)
    if free is None or size <= free or blocks is None:
        return False
    for number, block in enumerate(blocks):
        following = blocks[(number + 1) % len(blocks)]
        block.register_forward_pre_hook(lambda *_, following=following: will_need(following))
    return True


def _numbers(module: nn.Module) -> int:
    """How many it holds: a block may be a list of more experts than there are blocks."""
    return sum(each.numel() for each in module.parameters())


def _advise(places: Sequence[tuple[int, int]]) -> None:
    for address, nbytes in places:
        start = address // mmap.PAGESIZE * mmap.PAGESIZE
        _libc().madvise(start, address + nbytes - start, _WILL_NEED)


@cache
def _libc() -> Any:
    """The C library, or None where it has no madvise."""
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        return libc
    return None
