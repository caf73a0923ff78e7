"""Peak memory of a stretch of work, each stretch with a peak of its own.

CPU: the kernel's high-water mark of this process's resident memory (``VmHWM``), reset before every stage through
``/proc/self/clear_refs``. Mapped file pages count once they are touched. Where the kernel has no such reset, the peak
is that of the process so far, and the record says so. CUDA: the allocator's counters, reset before every stage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from quantgate.core import reading

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"  # proc(5): writing 5 resets the peak resident set size


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes at the highest moment: ``allocated`` (CUDA: by tensors; CPU: resident) and ``reserved`` by the allocator
    (CUDA; elsewhere the same). ``after``: bytes allocated when the stage had ended.
    """

    allocated: int
    reserved: int
    after: int


class Gauge(Protocol):
    """Reads memory of one kind."""

    @property
    def how(self) -> str:
        """How peaks are found, for the record."""

    def reset(self) -> None:
        """Forget the peak so far."""

    def read(self) -> Peak:
        """The peak since the last reset."""


class ResidentGauge:
    """Resident memory of this process."""

    def __init__(self) -> None:
        self.resets = _can_reset()

    @property
    def how(self) -> str:
        """How peaks are found."""
        return "resident memory, reset before each stage" if self.resets else "resident memory, never reset"

    def reset(self) -> None:
        """Forget the peak, where the kernel lets us."""
        if self.resets:
            _CLEAR.write_text(_RESET_PEAK, encoding="ascii")

    def read(self) -> Peak:
        """Peak and present resident memory."""
        if not _STATUS.exists():
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
            return Peak(highest, highest, highest)
        lines = dict(line.split(":", 1) for line in reading.read_text(_STATUS).split("\n") if ":" in line)
        highest, now = (int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
        return Peak(highest, highest, now)


def _can_reset() -> bool:
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


class CudaGauge:
    """torch's caching allocator on one CUDA device."""

    how = "CUDA allocator, reset before each stage"

    def __init__(self, cuda: Any, device: str) -> None:
        self.cuda, self.device = cuda, device

    def reset(self) -> None:
        """Forget the peak; memory that only the cache holds goes back first, so that reserved means needed."""
        self.cuda.synchronize(self.device)
        self.cuda.empty_cache()
        self.cuda.reset_peak_memory_stats(self.device)

    def read(self) -> Peak:
        """Peaks of allocated and reserved memory."""
        self.cuda.synchronize(self.device)
        return Peak(
            int(self.cuda.max_memory_allocated(self.device)),
            int(self.cuda.max_memory_reserved(self.device)),
            int(self.cuda.memory_allocated(self.device)),
        )


def gauge_for(device: str) -> Gauge:
    """The gauge of the memory that a model on ``device`` lives in."""
    if device.startswith("cuda"):
        import torch

        return CudaGauge(torch.cuda, device)
    return ResidentGauge()


@dataclass
class Stages:
    """Measures named stages one after the other; ``base`` is what the process held before the first."""

    gauge: Gauge
    base: int = 0
    peaks: dict[str, Peak] = field(default_factory=dict)

    def start(self) -> None:
        """Take the present state as the base: libraries are loaded, no model is."""
        self.gauge.reset()
        self.base = self.gauge.read().after

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block as stage ``name``."""
        self.gauge.reset()
        yield
        self.peaks[name] = self.gauge.read()

    def as_record(self) -> dict[str, Any]:
        """Plain dict: how, base, and the peaks by stage."""
        return {
            "how": self.gauge.how,
            "base": self.base,
            "peaks": {name: asdict(peak) for name, peak in self.peaks.items()},
        }
