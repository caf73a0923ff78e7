"""A diagnosis as a picture: a bar for every block and component, and one for every leading module; SVG, and a page."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from quantgate.diagnosis.record import lines

_WIDTH: Final = 860
_HEIGHT: Final = 240
_LEFT: Final = 64
_BAR: Final = 16
_LABEL: Final = 400
_LEADING: Final = 15
_COLOURS: Final = {"attention": "#3b6ea8", "feed-forward": "#c8722c", "": "#6b6b6b"}
_OTHER: Final = "#4d8a57"
_GOOD: Final = "#2e7d4f"
_BAD: Final = "#b3403a"
_UNJUDGED: Final = "#9a9a9a"
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "pre{white-space:pre-wrap;font-size:13px}svg{max-width:100%;height:auto}"
)


def svg(record: Mapping[str, Any]) -> str:
    """Bars of attention and feed-forward by block, and of the leading modules, with intervals where measured."""
    upper = list(_by_block(record))
    rows = record["levels"].get("module", [])[:_LEADING]
    lower = list(_modules(rows, _HEIGHT + 50))
    height = _HEIGHT + 70 + (_BAR + 6) * len(rows)
    title = html.escape(f"{record['subject']} against {record['model']}: isolated effects, nats a token")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui,sans-serif" font-size="12"><title>{title}</title>'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>{_text(_LEFT, 18, title)}'
        + "".join(upper + lower)
        + "</svg>\n"
    )


def page(record: Mapping[str, Any]) -> str:
    """The picture and the text beside it, as one HTML file that loads nothing."""
    title = html.escape(f"Diagnosis of {record['subject']}")
    text = html.escape("\n".join(lines(record)))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1>{svg(record)}<pre>{text}</pre></html>\n"
    )


def frontier_svg(record: Mapping[str, Any]) -> str:
    """Bits a weight against the estimated divergence (logarithmic), a mark a mixture, coloured by its verdict."""
    rows = [row for row in record["frontier"] if row["estimated_kl"] > 0]
    if not rows:
        return ""
    bits = [row["bits"] for row in rows]
    logs = [math.log10(row["estimated_kl"]) for row in rows]
    wide, tall = _WIDTH - _LEFT - 40, _HEIGHT - 60
    marks = []
    for row, x, y in zip(rows, _scaled(bits, wide), _scaled(logs, tall), strict=True):
        across, up = _LEFT + x, _HEIGHT - 20 - y
        judged = row["search"]
        colour = _UNJUDGED if judged is None else _GOOD if judged["passes"] else _BAD
        title = html.escape(f"{row['name']}: {row['bits']:.3f} bits, estimated KL {row['estimated_kl']:.3g}")
        shape = f'width="10" height="10" x="{across - 5:.1f}" y="{up - 5:.1f}" rx="{0 if row["uniform"] else 5}"'
        ring = ' stroke="#222" stroke-width="2"' if row["chosen"] else ""
        marks.append(f'<rect {shape} fill="{colour}"{ring}><title>{title}</title></rect>')
        if row["uniform"]:
            marks.append(_text(across + 8, up - 6, html.escape(row["name"])))
    title = html.escape(f"{record['model']}: mixtures of {', '.join(record['methods'])}")
    words = "bits a weight; up: estimated KL, logarithmic; squares uniform; green passes, red does not, grey not judged"
    ends = _text(_LEFT, _HEIGHT + 16, f"{min(bits):.2f}") + _text(_WIDTH - 40, _HEIGHT + 16, f"{max(bits):.2f}", "end")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT + 60}" role="img" '
        f'font-family="system-ui,sans-serif" font-size="12"><title>{title}</title>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT + 60}" fill="#fff"/>{_text(_LEFT, 18, title)}{"".join(marks)}{ends}'
        f"{_text(_LEFT, _HEIGHT + 40, words)}</svg>\n"
    )


def _scaled(values: Sequence[float], room: float) -> list[float]:
    low, span = min(values), (max(values) - min(values)) or 1.0
    return [(value - low) / span * room for value in values]


def _effect(row: Mapping[str, Any]) -> float:
    return max(0.0, float((row["isolated"] or row["estimate"])["mean"]))


def _by_block(record: Mapping[str, Any]) -> Iterator[str]:
    rows = record["levels"].get("component", [])
    if not rows:
        return
    blocks = max(row["block"] for row in rows) + 1
    most = max(map(_effect, rows)) or 1.0
    step = (_WIDTH - _LEFT - 20) / blocks
    floor = _HEIGHT
    yield _text(_LEFT - 6, 40, f"{most:.3g}", "end")
    yield _text(_LEFT - 6, floor, "0", "end")
    for row in rows:
        feed_forward = "feed-forward" in row["unit"]
        high = _effect(row) / most * (floor - 36)
        x = _LEFT + row["block"] * step + (step * 0.45 if feed_forward else step * 0.05)
        colour = _COLOURS["feed-forward" if feed_forward else "attention"]
        yield _bar(
            x, floor - high, step * 0.4, high, colour, bool(row["isolated"]), f"{row['unit']}: {_effect(row):.4g}"
        )
    for block in range(0, blocks, max(1, blocks // 15)):
        yield _text(_LEFT + (block + 0.5) * step, floor + 16, str(block), "middle")
    for place, name in enumerate(("attention", "feed-forward")):
        yield f'<rect x="{_LEFT + 110 * place}" y="{floor + 24}" width="10" height="10" fill="{_COLOURS[name]}"/>'
        yield _text(_LEFT + 14 + 110 * place, floor + 33, name)
    yield _text(_LEFT + 230, floor + 33, "by decoder block; pale bars are estimates, full ones were measured")


def _modules(rows: Sequence[Mapping[str, Any]], top: float) -> Iterator[str]:
    most = max([*map(_effect, rows), *((row["isolated"] or {}).get("high") or 0.0 for row in rows)], default=0.0) or 1.0
    room = _WIDTH - _LABEL - 90
    for place, row in enumerate(rows):
        y = top + place * (_BAR + 6)
        colour = _COLOURS.get(row["component"], _OTHER)
        yield _text(_LABEL - 8, y + 12, row["unit"], "end")
        wide = _effect(row) / most * room
        yield _bar(_LABEL, y, wide, _BAR, colour, bool(row["isolated"]), f"{row['unit']}: {_effect(row):.4g}")
        end = wide
        isolated = row["isolated"]
        if isolated and isolated["low"] is not None:
            low, end = (max(0.0, isolated[key]) / most * room for key in ("low", "high"))
            yield f'<path d="M{_LABEL + low:.1f} {y + _BAR / 2}H{_LABEL + end:.1f}" stroke="#222"/>'
        yield _text(_LABEL + max(end, wide) + 6, y + 12, f"{_effect(row):.4f}")


def _bar(x: float, y: float, width: float, height: float, colour: str, full: bool, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{max(height, 0.5):.1f}" fill="{colour}" '
        f'fill-opacity="{1 if full else 0.45}"><title>{html.escape(title)}</title></rect>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222">{text}</text>'
