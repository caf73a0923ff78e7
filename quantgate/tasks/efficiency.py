"""The efficiency cases by name: what ``--tasks`` can select beside the benchmarks. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quantgate.core.metrics import Metric
from quantgate.core.naming import same_name

WEIGHT_BYTES: Final = Metric("weight_bytes", False, "mean", "GiB", stake=0.0)
PEAK_MEMORY: Final = Metric("peak_memory", False, "exp_mean", "GiB", stake=0.0)
DECODE_SPEED: Final = Metric("decode_speed", True, "exp_mean", "tokens/s", stake=0.0)
GROUP: Final = "efficiency"


@dataclass(frozen=True, slots=True)
class EfficiencyTask:
    """One measured quantity. ``measured``: it needs the machine to itself for a while, so it runs only on request."""

    id: str
    metric: Metric
    protocol: str
    measured: bool
    version: int = 1
    dimension: str = "efficiency"


EFFICIENCY_TASKS: Final[dict[str, EfficiencyTask]] = {
    task.id: task
    for task in (
        EfficiencyTask("weight_bytes", WEIGHT_BYTES, "bytes of all tensors in the checkpoint's files", False),
        EfficiencyTask("peak_memory", PEAK_MEMORY, "highest memory of prefill and decode in a fresh process", True),
        EfficiencyTask(
            "decode_speed", DECODE_SPEED, "greedy tokens/s after the first, in turns with the reference", True
        ),
    )
}


def split_names(names: Sequence[str] | None) -> tuple[list[str] | None, list[str] | None]:
    """``--tasks`` cut into benchmarks and efficiency tasks (the group expanded); None stays "the default ones"."""
    if names is None:
        return None, None
    known = [GROUP, *EFFICIENCY_TASKS]
    mine = [found for name in names if (found := same_name(name, known))]
    expanded = list(EFFICIENCY_TASKS) if GROUP in mine else mine
    return [name for name in names if not same_name(name, known)], expanded


def efficiency_tasks(names: Sequence[str] | None, *, requested: bool) -> list[EfficiencyTask]:
    """The tasks called ``names``; by default what costs nothing, and everything when efficiency was asked for."""
    if names is None:
        return [task for task in EFFICIENCY_TASKS.values() if requested or not task.measured]
    return [EFFICIENCY_TASKS[name] for name in dict.fromkeys(names)]
