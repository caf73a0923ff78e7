"""Second-order statistics of a layer's input: ``H = 2/n * sum x x^T``, additive over batches and shards.

Accumulated in float32. bf16 activations are multiplied by the bf16 matrix unit with float32 accumulation: the product
of two bf16 numbers has at most 16 significant bits, so every product is exact, and only the summation rounds, as it
would with float32 inputs. Other dtypes are multiplied in full float32.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final, Protocol, TypeVar

import torch
from torch import Tensor

from quantgate.core.errors import MethodError
from quantgate.quantize.base import Order, Statistics
from quantgate.quantize.settings import Need

T = TypeVar("T")
_PANEL: Final = 256  # columns of one panel of the symmetric product
_CHUNK: Final = {
    "cpu": 512
}  # tokens at a time: on a CPU what the cache holds (measured: 0.6 of the time of all at once)
_CHUNK_ELSEWHERE: Final = 16_384


@contextmanager
def exact_bf16_products(enabled: bool) -> Iterator[None]:
    """Let float32 matmuls round their inputs to bf16 (CPU) or TF32 (CUDA): lossless for inputs that came from bf16."""
    if not enabled:
        yield
        return
    cpu: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # missing in torch's stubs
    cuda: Any = torch.backends.cuda.matmul
    before = cpu.fp32_precision, cuda.fp32_precision
    cpu.fp32_precision, cuda.fp32_precision = "bf16", "tf32"
    try:
        yield
    finally:
        cpu.fp32_precision, cuda.fp32_precision = before


class Ordered(Protocol):
    """Settings that say in which order layers see each other quantized."""

    @property
    def true_sequential(self) -> bool:
        """See `Order`."""
        ...

    @property
    def block_sequential(self) -> bool:
        """See `Order`."""
        ...


class Hessian:
    """Sum of outer products of the input vectors of one stage.

    Statistics over shards of the calibration set, merged, equal those of the whole set (up to summation order).
    """

    def __init__(self, features: int, device: torch.device) -> None:
        self.total = torch.zeros(features, features, dtype=torch.float32, device=device)
        self.count = 0
        self._derived: dict[Hashable, Any] = {}

    def derived(self, what: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once until more is added: methods of one sweep share it, and must not change it."""
        if what not in self._derived:
            self._derived[what] = make()
        found: T = self._derived[what]
        return found

    def add(self, rows: Tensor) -> None:
        """Add input vectors ``[n, features]`` of any float dtype."""
        features = rows.shape[1]
        with exact_bf16_products(rows.dtype == torch.bfloat16):
            for chunk in torch.split(rows, _CHUNK.get(rows.device.type, _CHUNK_ELSEWHERE)):
                values = chunk.to(torch.float32)
                # the product is symmetric: panels of the upper triangle only, mirrored in `matrix`
                for start in range(0, features, _PANEL):
                    end = min(start + _PANEL, features)
                    self.total[start:end, start:].addmm_(values[:, start:end].t(), values[:, start:])
        self.count += rows.shape[0]
        self._derived.clear()

    def merge(self, other: Hessian) -> None:
        """Add the statistics of another shard of the calibration set."""
        self.total += other.total
        self.count += other.count
        self._derived.clear()

    def matrix(self) -> Tensor:
        """``2/n * sum x x^T``, float32 ``[features, features]``, symmetric."""
        upper = self.total.triu()
        full = upper + upper.t()
        full.diagonal().mul_(0.5)
        return full.mul_(2.0 / max(self.count, 1))


class OnHessian:
    """What algorithms share that look at one Hessian a stage, in the order that their settings say."""

    settings: Ordered
    needs: ClassVar[frozenset[Need]] = frozenset({"hessian"})

    @property
    def order(self) -> Order:
        """As set."""
        return Order(self.settings.true_sequential, self.settings.block_sequential)

    def statistics(self, in_features: int, device: torch.device) -> Hessian:
        """An empty Hessian for inputs of ``in_features``."""
        return Hessian(in_features, device)


def hessian_of(statistics: Statistics | None, who: str) -> Tensor:
    """The Hessian that was collected, not to be changed. Raises MethodError when there is none, or it saw no token."""
    if not isinstance(statistics, Hessian) or statistics.count == 0:
        raise MethodError(who, "no calibration statistics", expected="at least one calibration token")
    return statistics.derived("matrix", statistics.matrix)


def output_energy(weight: Tensor, hessian: Tensor) -> Tensor:
    """``w H w^T`` of every output row: what losses are relative to. Only for the report: three digits are plenty."""
    with exact_bf16_products(True):
        return (weight @ hessian).mul_(weight).sum(1)
