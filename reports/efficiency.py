"""Memory, speed, fronts and correlations as rows of text; terminal and markdown show the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quantgate.reports.table import number, signed
from quantgate.studies.pareto import REFERENCE
from quantgate.studies.proxy import Correlation, Proxy

GIB: Final = 2**30
MEMORY_HEADER: Final = (
    "model", "execution", "on disk", "resident", "KV cache", "activations", "peak load", "peak prefill",
    "peak decode", "deployed",
)  # fmt: skip
SPEED_HEADER: Final = (
    "model", "workload", "prefill tok/s", "decode tok/s", "first token ms", "ratio prefill",
    "ratio decode", "of the bound",
)  # fmt: skip
_MEMORY_GIVE_UP: Final = (6, 7, 5, 4, 1, 3)
_SPEED_GIVE_UP: Final = (4, 2, 5, 7)
_PROXY_GIVE_UP: Final = (6, 5, 2)
PROXY_HEADER: Final = ("proxy", "benchmark", "subjects", "Pearson r", "interval", "Spearman rho", "interval")


@dataclass(frozen=True)
class Rows:
    """A table with its title, ready to be drawn; ``give_up``: columns that narrow terminals do without, in order."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    give_up: tuple[int, ...] = ()


def memory_rows(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One row a subject and one for each reference, GiB."""
    measured = [record["memory"] for record in records if record.get("memory")]
    references: dict[str, Mapping[str, Any]] = {}
    for pair in measured:
        references.setdefault(pair[0]["name"], pair[0])
    return [_memory_row(row) for row in (*references.values(), *(pair[1] for pair in measured))]


def _memory_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    deployed = row.get("deployed")
    return (
        str(row["name"]),
        str(row["execution"]["name"]),
        *(_gib(row[name]) for name in ("on_disk", "resident", "cache", "activations")),
        *(_peak(row["peaks"][stage]) for stage in ("load", "prefill", "decode")),
        "as measured" if deployed is None else f"{_gib(deployed)} computed",
    )


def _gib(size: float) -> str:
    return number(size / GIB, 3)


def _peak(found: Mapping[str, float]) -> str:
    """Median, and the lowest and highest of the fresh processes."""
    return f"{_gib(found['median'])} [{_gib(found['low'])}, {_gib(found['high'])}]"


def speed_rows(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Two rows for every subject and workload: the subject, and the reference that ran in turns with it."""
    rows = []
    for record in records:
        for row in (record.get("speed") or {}).get("rows", ()):
            for side, name in (("reference", REFERENCE), ("subject", str(record["method"]))):
                rows.append(_speed_row(name, row, side))
    return rows


def _speed_row(name: str, row: Mapping[str, Any], side: str) -> tuple[str, ...]:
    mine, workload = row[side], row["workload"]
    ratios = [_rate(row["ratio"][each], 2) if side == "subject" else "1" for each in ("prefill", "decode")]
    reached = mine.get("reached", {})
    return (
        name,
        f"{workload['batch']}x{workload['prompt']}x{workload['new']}",
        _rate(mine["prefill"], 0),
        _rate(mine["decode"], 1),
        _rate({key: 1000 * value for key, value in mine["first_token_seconds"].items()}, 0),
        *ratios,
        f"{100 * reached['decode']:.0f}%" if reached else "-",
    )


def _rate(found: Mapping[str, float], digits: int) -> str:
    return f"{found['median']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def proxy_rows(found: Sequence[Proxy]) -> list[tuple[str, ...]]:
    """One row for each perplexity or divergence and benchmark that have a correlation."""
    return [
        (each.proxy, each.task, str(each.pearson.n), *_correlation(each.pearson), *_correlation(each.spearman))
        for each in found
        if not each.pearson.undefined
    ]


def _correlation(found: Correlation) -> tuple[str, str]:
    return signed(found.value, 3), f"[{signed(found.low, 2)}, {signed(found.high, 2)}]"


def tables(records: Sequence[Mapping[str, Any]], found: Sequence[Proxy]) -> list[Rows]:
    """All tables of this room that have rows, of the measured ``records`` and the correlations that were ``found``."""
    memory = "Memory (GiB above the process itself; median [lowest, highest])"
    speed = "Speed (median [lowest, highest]; ratios to the reference in turns)"
    proxy = f"Perplexity and divergence as a proxy ({found[0].scope if found else ''})"
    every = [
        Rows(memory, MEMORY_HEADER, memory_rows(records), _MEMORY_GIVE_UP),
        Rows(speed, SPEED_HEADER, speed_rows(records), _SPEED_GIVE_UP),
        Rows(proxy, PROXY_HEADER, proxy_rows(found), _PROXY_GIVE_UP),
    ]
    return [each for each in every if each.rows]
