"""Rows of the report about memory and speed: what was measured, beside what the roofline allows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quantgate.efficiency.architecture import Architecture
from quantgate.efficiency.hardware import Hardware
from quantgate.efficiency.roofline import Precision, Setting, decode, decode_seconds, memory, prefill
from quantgate.efficiency.workload import Timing, Workload
from quantgate.quantize.base import QuantizationRecord

RATES: Final = ("prefill", "decode", "generate")


@dataclass(frozen=True)
class Executed:
    """A subject beside its reference, as both were executed. ``packed``: its weights stayed packed; ``shape``: what the
    roofline needs, None for a model that it cannot describe."""

    name: str
    record: QuantizationRecord
    packed: bool
    shape: Architecture | None

    @property
    def precisions(self) -> tuple[Precision, Precision]:
        """Of reference and subject; an unpacked subject ran in 16 bit."""
        if not self.packed:
            return Precision(), Precision()
        activation = 8 if self.record.execution == "int8" else 16
        return Precision(), Precision(self.record.bits_nominal, activation, stored=self.record.bits_effective)

    def deployed(self, workload: Workload) -> float | None:
        """Bytes that the subject would need if its weights stayed packed: computed, not measured; None if they did."""
        if self.packed or self.shape is None:
            return None
        record = self.record
        precision = Precision(record.bits_nominal, cache=record.cache_bits, stored=record.bits_effective)
        hardware = Hardware("any", 1, 1, 1, 1e6)
        return memory(self.shape, Setting(precision, workload.batch), workload.prompt, workload.new, hardware).total

    def speed_rows(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """What a measuring process ``found``, with bounds, and points for the picture."""
        machine = Hardware(**found["machine"])
        rows = []
        for run in found["runs"]:
            workload = Workload(**run["workload"])
            row = speed_row(run, found["executions"])
            for side, bounds in zip(("reference", "subject"), self._bounds(workload, machine), strict=True):
                row[side]["bound"] = bounds
                row[side]["reached"] = {name: row[side][name]["median"] / rate for name, rate in bounds.items()}
            rows.append(row)
        return {"machine": found["machine"], "rows": rows, "points": self._points(rows[0], machine)}

    def _points(self, row: Mapping[str, Any], machine: Hardware) -> list[dict[str, Any]]:
        """Intensity, bound and measured operations/s of both sides' prefill and decode, for the picture."""
        if self.shape is None:
            return []
        workload = Workload(**row["workload"])
        points = []
        sides = zip(("reference", "subject"), ("16-bit", self.name), self.precisions, strict=True)
        for side, name, precision in sides:
            setting, keys = Setting(precision, workload.batch), workload.prompt + workload.new // 2
            passes = {
                "prefill": prefill(self.shape, setting, workload.prompt, machine),
                "decode": decode(self.shape, setting, keys, machine),
            }
            for stage, done in passes.items():
                per_token = done.ops / done.tokens
                points.append(
                    {
                        "name": name,
                        "stage": stage,
                        "intensity": done.ops / done.bytes,
                        "bound": done.ops / done.seconds(machine),
                        "measured": row[side][stage]["median"] * per_token,
                    }
                )
        return points

    def _bounds(self, workload: Workload, machine: Hardware) -> list[dict[str, float]]:
        """Highest rates of reference and subject on ``machine`` by the roofline."""
        if self.shape is None:
            return [{}, {}]
        found = []
        for precision in self.precisions:
            setting = Setting(precision, workload.batch)
            seconds = decode_seconds(self.shape, setting, workload.prompt, workload.new, machine)
            found.append(
                {
                    "prefill": prefill(self.shape, setting, workload.prompt, machine).rate(machine),
                    "decode": workload.batch * (workload.new - 1) / seconds,
                }
            )
        return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def memory_row(found: Sequence[Mapping[str, Any]], on_disk: int) -> dict[str, Any]:
    """Bytes of one model over its processes; peaks are above what the process held without a model."""
    first = found[0]
    stages = {
        name: spread([each["peaks"][name]["allocated"] - each["base"] for each in found]) for name in first["peaks"]
    }
    reserved = {name: max(each["peaks"][name]["reserved"] for each in found) for name in first["peaks"]}
    rest = stages["prefill"]["median"] - first["resident"] - first["cache"]
    return {
        "execution": first["execution"],
        "how": first["how"],
        "on_disk": on_disk,
        "resident": first["resident"],
        "cache": first["cache"],
        "activations": max(rest, 0.0),
        "process": first["base"],
        "peaks": stages,
        "reserved": reserved,
        "repetitions": len(found),
    }


def rates_of(run: Mapping[str, Any]) -> list[list[dict[str, float]]]:
    """Tokens a second of reference and subject in every repetition, by what was timed."""
    workload = Workload(**run["workload"])
    return [[Timing(**each).rates(workload) for each in side] for side in run["times"]]


def speed_row(run: Mapping[str, Any], executions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rates of reference and subject on one workload, and the ratio of each pair of repetitions."""
    rates = rates_of(run)
    row: dict[str, Any] = {"workload": run["workload"], "repetitions": len(rates[0])}
    for side, mine, times, execution in zip(("reference", "subject"), rates, run["times"], executions, strict=True):
        row[side] = {name: spread([each[name] for each in mine]) for name in RATES}
        row[side]["first_token_seconds"] = spread([each["first"] for each in times])
        row[side]["execution"] = dict(execution)
    row["ratio"] = {name: spread([b[name] / a[name] for a, b in zip(*rates, strict=True)]) for name in RATES}
    return row
