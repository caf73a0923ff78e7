"""Pictures for the page, as SVG that takes its colours from the page's style sheet: in the dark, in print, everywhere.

Each is text made of numbers alone, or of names that are escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from markupsafe import Markup

from quantgate.core.records import Result
from quantgate.studies.pareto import Front

_FROM, _TO = -1.5, 2.5  # of the margin: what an interval's picture shows
_WIDE, _HIGH = 240, 22
_PLOT: Final = (560, 300, 56, 20)  # width, height, left and bottom edge
_BINS: Final = 24


def interval(result: Result) -> Markup:
    """The interval of a case in units of its margin: 0 is as good as the reference, 1 all that is allowed, right is
    worse. Empty where there is no interval or no margin.
    """
    sign = -1.0 if result.higher_is_better else 1.0
    if not (result.margin > 0 and math.isfinite(result.ci_low) and math.isfinite(result.ci_high)):
        return Markup("")
    low, high = sorted(sign * end / result.margin for end in (result.ci_low, result.ci_high))
    at = sign * result.delta / result.margin
    words = f"loss {100 * at:.0f}% of what is allowed, between {100 * low:.0f}% and {100 * high:.0f}%"
    parts = [
        line(position(0), 1, position(0), _HIGH - 1, "zero"),
        line(position(1), 1, position(1), _HIGH - 1, "margin"),
        line(position(low), _HIGH / 2, position(high), _HIGH / 2, "bar"),
    ]
    parts += [_end(end, low_end=end == low) for end in (low, high)]
    if _FROM <= at <= _TO:
        parts.append(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.5" class="dot"/>').format(position(at), _HIGH / 2))
    return svg(_WIDE, _HIGH, words, parts, f"interval {result.verdict}")


def position(share: float) -> float:
    """Where a loss of ``share`` of the margin lies across the picture of an interval."""
    return (min(max(share, _FROM), _TO) - _FROM) / (_TO - _FROM) * (_WIDE - 8) + 4


def _end(share: float, *, low_end: bool) -> Markup:
    """A stroke where the interval ends, an arrow where it goes on outside the picture."""
    x, y = position(share), _HIGH / 2
    if _FROM <= share <= _TO:
        return line(x, y - 5, x, y + 5, "bar")
    back = 6 if low_end and share < _FROM else -6
    return Markup('<path d="M{0:.1f} {1:.1f}L{2:.1f} {3:.1f}V{4:.1f}Z" class="arrow"/>').format(
        x, y, x + back, y - 4, y + 4
    )


def front(found: Front) -> Markup:
    """Cost against quality, the front joined."""
    costs, qualities = [p.cost for p in found.points], [p.quality for p in found.points]
    if not costs:
        return Markup("")
    across, up = _Scale(costs, _PLOT[2], _PLOT[0] - 90), _Scale(qualities, _PLOT[1] - _PLOT[3] - 22, 12)
    parts = _axes(across, up, found.cost, found.quality)
    best = [point for point in found.points if point.name in found.front]
    path = " ".join(f"{across(p.cost):.1f},{up(p.quality):.1f}" for p in best)
    parts.append(Markup('<polyline points="{}" class="front"/>').format(path))
    for point in found.points:
        kind = "dot" if point.name in found.front else "hollow"
        x, y = across(point.cost), up(point.quality)
        parts.append(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4.5" class="{}"/>').format(x, y, kind))
        parts.append(Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(x + 7, y + 4, point.name))
    return svg(_PLOT[0], _PLOT[1], found.lines()[0], parts, "plot")


def histogram(values: Sequence[float], what: str) -> Markup:
    """How often values of which size occur; the last bar holds all beyond the 99th of 100."""
    usable = sorted(value for value in values if math.isfinite(value))
    if len(usable) < 2:
        return Markup("")
    top = usable[min(len(usable) - 1, int(0.99 * len(usable)))]
    low = min(usable[0], 0.0)
    width = (top - low) / _BINS or 1.0
    counts = [0] * (_BINS + 1)
    for value in usable:
        counts[min(int((value - low) / width), _BINS)] += 1
    across, up = _Scale([low, low + width * (_BINS + 1)], _PLOT[2], _PLOT[0] - 12), _counting(max(counts))
    parts = _axes(across, up, what, "items")
    for at, count in enumerate(counts):
        x, right = across(low + at * width), across(low + (at + 1) * width)
        title = f"{low + at * width:.3g} to {low + (at + 1) * width:.3g}: {count}"
        parts.append(_column(x + 0.5, up(count), max(right - x - 1, 0.5), up(0) - up(count), title))
    return svg(_PLOT[0], _PLOT[1], f"{len(usable)} items by {what}", parts, "plot")


def bars(values: Mapping[int, tuple[float, bool]], most: float, words: str) -> Markup:
    """A bar a decoder block: its value out of ``most``, full where it was measured and hollow where not."""
    blocks = max(values) + 1
    across, up = _Scale([0, blocks], _PLOT[2], _PLOT[0] - 12), _Scale([0, most], _PLOT[1] - _PLOT[3] - 22, 22)
    parts = _axes(across, up, "decoder block", "nats a token")
    for block, (value, measured) in sorted(values.items()):
        x, right = across(block), across(block + 1)
        title = f"block {block}: {value:.3g}, {'measured' if measured else 'estimated'}"
        kind = "column" if measured else "hollow"
        parts.append(_column(x + 0.5, up(value), max(right - x - 1.5, 0.5), up(0) - up(value), title, kind))
    return svg(_PLOT[0], _PLOT[1], words, parts, "plot")


class _Scale:
    """Maps numbers between the smallest and largest of ``values`` onto ``start``..``stop``."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        self.low, self.high = min(values), max(values)
        self.start, self.stop = start, stop

    def __call__(self, value: float) -> float:
        share = 0.5 if self.high == self.low else (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round numbers in between."""
        span = self.high - self.low
        if not span > 0:
            return [self.low]
        step = 10 ** math.floor(math.log10(span))
        step = next(part * step for part in (0.1, 0.2, 0.5, 1, 2) if span / (part * step) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        return [at * step for at in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _counting(most: int) -> _Scale:
    return _Scale([0, most], _PLOT[1] - _PLOT[3] - 22, 12)


def _column(x: float, y: float, width: float, height: float, title: str, kind: str = "column") -> Markup:
    place = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}">')
    return place.format(x, y, width, height, kind) + Markup("<title>{}</title></rect>").format(title)


def _axes(across: _Scale, up: _Scale, below: str, beside: str) -> list[Markup]:
    left, bottom = _PLOT[2] - 6, _PLOT[1] - _PLOT[3] - 18
    parts = [line(left, bottom, _PLOT[0] - 8, bottom, "axis"), line(left, 8, left, bottom, "axis")]
    label = Markup('<text x="{:.1f}" y="{:.1f}" class="tick {}">{:.4g}</text>')
    parts += [label.format(across(tick), bottom + 13, "middle", tick) for tick in across.ticks]
    parts += [label.format(left - 4, up(tick) + 4, "end", tick) for tick in up.ticks]
    parts.append(Markup('<text x="{}" y="{}" class="end">{}</text>').format(_PLOT[0] - 8, _PLOT[1] - 6, below))
    parts.append(Markup('<text x="{}" y="{}">{}</text>').format(_PLOT[2], 10, beside))
    return parts


def line(x: float, y: float, to_x: float, to_y: float, kind: str) -> Markup:
    """A line of one of the style sheet's kinds."""
    drawn = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
    return drawn.format(x, y, to_x, to_y, kind)


def svg(width: float, height: float, words: str, parts: Sequence[Markup], kind: str) -> Markup:
    """A picture with its description in ``words``."""
    start = Markup('<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}" class="{}">')
    head = start.format(width, height, width, height, words, kind)
    return head + Markup("<title>{}</title>").format(words) + Markup("").join(parts) + Markup("</svg>")
