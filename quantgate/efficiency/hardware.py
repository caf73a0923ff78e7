"""What accelerators can do at best, by their data sheets, and what this machine does, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Hardware:
    """``bandwidth``: bytes/s of the memory that holds the weights. ``float_rate``: operations/s of a 16-bit matmul
    (multiply and add count as two), dense; ``int8_rate``: of an int8 one. ``on_chip``: bytes of the fast memory that
    FlashAttention tiles for. ``source``: data sheet or measurement.
    """

    name: str
    bandwidth: float
    float_rate: float
    int8_rate: float
    on_chip: float
    source: str = "data sheet"

    def peak(self, integer: bool) -> float:
        """The rate of a product whose operands are all at most 8 bit wide (``integer``), or not."""
        return self.int8_rate if integer else self.float_rate

    @property
    def ridge(self) -> float:
        """Operations per byte above which a 16-bit product is bound by compute."""
        return self.float_rate / self.bandwidth

    def as_record(self) -> dict[str, Any]:
        """Plain dict for reports."""
        return asdict(self)


# GB/s, 16-bit TOPS, int8 TOPS, KiB of registers (256 for each streaming multiprocessor). Dense rates, as in the survey
# of arXiv 2402.16363 (LLM-Viewer) and the makers' data sheets.
_ROWS: Final = (
    ("v100", 900, 112, 62, 20_480),
    ("a6000", 768, 154.8, 309.7, 21_504),
    ("a100-40g", 1555, 312, 624, 27_648),
    ("a100-80g", 2039, 312, 624, 27_648),
    ("h100-sxm", 3072, 989.5, 1979, 33_792),
    ("h100-pcie", 2048, 756.5, 1513, 29_184),
    ("l40", 864, 181, 362, 36_352),
    ("a40", 696, 149.7, 299.3, 21_504),
)
HARDWARE: Final[dict[str, Hardware]] = {
    name: Hardware(name, bandwidth * 1e9, floats * 1e12, integers * 1e12, on_chip * 1024)
    for name, bandwidth, floats, integers, on_chip in _ROWS
}
_SIZES: Final = (512, 1024, 2048)
_ON_CHIP: Final = 2e6  # an L2 cache of today's server cores; only FlashAttention's re-reading depends on it


def measure_machine(dtype: str, device: str, working_set: int, seconds: float = 0.4) -> Hardware:
    """This machine's best rates on ``device``: each the fastest of many calls within ``seconds`` a kernel.

    The bandwidth is taken over ``working_set`` bytes (a model's weights): what fits into a cache is read faster, in the
    model too. It is the best of copying, summing and multiplying a matrix by a vector, so that no real model can have
    had more. The int8 rate is the 16-bit one where torch has no int8 product.
    """
    import torch

    from quantgate.models.loading import torch_dtype

    kind = torch_dtype(dtype)
    rate = _float_rate(torch, kind, device, seconds / len(_SIZES))
    return Hardware(
        name=_device_name(torch, device),
        bandwidth=_bandwidth(torch, kind, device, max(working_set, 1 << 24), seconds),
        float_rate=rate,
        int8_rate=_int8_rate(torch, device, seconds / len(_SIZES)) or rate,
        on_chip=_ON_CHIP,
        source="measured",
    )


def best_time(call: Callable[[], object], finish: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest call among those that fit into ``seconds`` (three at least); the first is not counted.

    A call that fills ``seconds`` by itself is the answer: warming up is nothing beside it, and a processor without the
    instructions for a dtype would take minutes for four.
    """
    start = time.perf_counter()
    call()
    finish()
    first = time.perf_counter() - start
    if first >= seconds:
        return first
    best, end = float("inf"), time.perf_counter() + seconds
    done = 0
    while done < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        finish()
        best = min(best, time.perf_counter() - start)
        done += 1
    return best


def synchronize(torch: Any, device: str) -> Callable[[], object]:
    """Waits for ``device`` to be done; nothing on a CPU."""
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def _best_rate(product: Callable[[int], Callable[[], object]], finish: Callable[[], object], seconds: float) -> float:
    """Operations/s of the best of ever larger square products; ``product(size)`` makes the call.

    A size whose single product fills ``seconds`` is the last: larger ones would only take longer.
    """
    best = 0.0
    for size in _SIZES:
        taken = best_time(product(size), finish, seconds)
        best = max(best, 2.0 * size**3 / taken)
        if taken >= seconds:
            break
    return best


def _float_rate(torch: Any, kind: Any, device: str, seconds: float) -> float:
    def product(size: int) -> Callable[[], object]:
        inputs, weight = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
        return lambda: inputs @ weight.t()  # the layout of a linear layer

    return _best_rate(product, synchronize(torch, device), seconds)


def _int8_rate(torch: Any, device: str, seconds: float) -> float:
    def product(size: int) -> Callable[[], object]:
        inputs, weight = (torch.randint(-128, 127, (size, size), dtype=torch.int8, device=device) for _ in range(2))
        return lambda: torch._int_mm(inputs, weight.t())

    try:
        return _best_rate(product, synchronize(torch, device), seconds)
    except (RuntimeError, NotImplementedError):
        return 0.0


def _bandwidth(torch: Any, kind: Any, device: str, working_set: int, seconds: float) -> float:
    width = 4096
    rows = max(working_set // (width * kind.itemsize), 64)
    matrix = torch.ones(rows, width, dtype=kind, device=device)
    target, vector = torch.empty_like(matrix), torch.ones(width, dtype=kind, device=device)
    finish = synchronize(torch, device)
    moved = rows * width * int(kind.itemsize)
    kernels: tuple[tuple[int, Callable[[], object]], ...] = (
        (2 * moved, lambda: target.copy_(matrix)),
        (moved, lambda: matrix.view(torch.int32).amax()),
        (moved, lambda: matrix @ vector),
    )
    return max(size / best_time(call, finish, seconds) for size, call in kernels)


def _device_name(torch: Any, device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"this CPU, {torch.get_num_threads()} threads"
