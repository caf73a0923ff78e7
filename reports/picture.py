"""The roofline picture: what the machine can do at each arithmetic intensity, and where reference and subjects are."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from quantgate.reports.report import Report

MARKS = {"prefill": "o", "decode": "s"}


def roofline_svg(report: Report) -> str:
    """An SVG of the measured speeds under the machine's bounds, or an empty string when nothing was timed."""
    records = report.efficiency.values()
    timed = [record["speed"] for record in records if record.get("speed") and record["speed"].get("points")]
    if not timed:
        return ""
    import matplotlib
    from matplotlib.figure import Figure

    machine = timed[0]["machine"]
    with matplotlib.rc_context({"svg.hashsalt": "quantgate", "svg.fonttype": "none"}):  # the same file every time
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        _roof(axes, machine)
        seen: set[str] = set()
        for speed in timed:
            for point in speed["points"]:
                if point["name"] not in seen:
                    _mark(axes, point)
            seen |= {point["name"] for point in speed["points"]}
        axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="operations per second")
        axes.set_title(f"Roofline of {machine['name']}: hollow marks are bounds, filled ones were measured")
        axes.legend(fontsize="small")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _roof(axes: Any, machine: Mapping[str, Any]) -> None:
    bandwidth, rate = machine["bandwidth"], machine["float_rate"]
    ridge = rate / bandwidth
    intensities = [0.1, ridge, 100 * ridge]
    axes.plot(intensities, [min(x * bandwidth, rate) for x in intensities], "k-", label="bound (16-bit products)")


def _mark(axes: Any, point: Mapping[str, Any]) -> None:
    mark = MARKS[point["stage"]]
    [line] = axes.plot(point["intensity"], point["bound"], mark, fillstyle="none")
    axes.plot(
        point["intensity"], point["measured"], mark, color=line.get_color(), label=f"{point['name']} {point['stage']}"
    )
