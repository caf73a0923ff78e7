"""Which processor this is, told without asking a library that takes a second to load."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Final

from quantgate.core import reading

_CHOSEN_BY: Final = ("ATEN_", "ONEDNN_", "DNNL_", "MKL_", "OPENBLAS_", "TORCH_", "PYTORCH_")
_TELLING: Final = (
    "vendor_id", "cpu family", "cpu", "model", "model name", "flags", "features", "cpu implementer", "cpu part",
)  # fmt: skip
_GIVEN: Final = Path("/proc/self/environ")  # what this process was started with


def processor_digest() -> str | None:
    """sha256 over what the system says of the processor's kind, and over the variables by which libraries are told how
    to use it; None where the system says nothing (only Linux does), and where this process chose such variables itself:
    libraries that were loaded before go by the earlier ones.
    """
    try:
        told = reading.read_text(Path("/proc/cpuinfo"))
    except (OSError, reading.Unreadable):
        return None
    lines = {line for line in told.splitlines() if line.partition(":")[0].strip().lower() in _TELLING}
    if not lines:
        return None
    chosen = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(_CHOSEN_BY)]
    if sorted(chosen) != _given():
        return None
    content = "\n".join([platform.machine(), *sorted(lines), *sorted(chosen)])
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def _given() -> list[str] | None:
    """The variables by which libraries are told how to compute, as of when this process was started."""
    try:
        found = os.fsdecode(reading.read_bytes(_GIVEN)).split("\0")
    except (OSError, reading.Unreadable):
        return None
    return sorted(each for each in found if each.startswith(_CHOSEN_BY))
