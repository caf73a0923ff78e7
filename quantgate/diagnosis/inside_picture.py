"""Two curves a method, one over the blocks and one over the linear layers: error of outputs, and loss of the method."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from quantgate.diagnosis.inside import LOGITS

_WIDE, _TALL, _LEFT, _GAP = 860, 220, 64, 60
_COLOURS: Final = ("#3b6ea8", "#c8722c", "#4d8a57", "#b3403a", "#7a5aa6", "#6b6b6b", "#a08a2c", "#2c8f9e")
_DASHES: Final = ("", "6 3", "2 3")


def svg(records: Sequence[Mapping[str, Any]]) -> str:
    """Both panels over a logarithmic scale, and a legend."""
    errors = {each["method"]: _errors(each) for each in records}
    losses = {each["method"]: [layer["loss"] for layer in each["layers"].values()] for each in records}
    height = 2 * (_TALL + _GAP) + 20 * len(records) + 20
    parts = _panel("relative error of block outputs, by block", errors, 30)
    parts += _panel("loss that the method saw, by linear layer", losses, 30 + _TALL + _GAP)
    for at, name in enumerate(errors):
        y = 2 * (_TALL + _GAP) + 20 * at
        parts.append(f'<path d="M{_LEFT} {y}h30" fill="none" stroke-width="2" {_stroke(at)}/>')
        parts.append(_text(_LEFT + 40, y + 4, name))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {height}" width="{_WIDE}" height="{height}" '
        'role="img" font-family="system-ui,sans-serif" font-size="12"><title>error by block and loss by layer</title>'
        f'<rect width="{_WIDE}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _errors(record: Mapping[str, Any]) -> list[float | None]:
    return [each["relative_error"] for name, each in record["blocks"].items() if name != LOGITS]


def _stroke(at: int) -> str:
    dash = _DASHES[at // len(_COLOURS) % len(_DASHES)]
    return f'stroke="{_COLOURS[at % len(_COLOURS)]}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _panel(title: str, curves: Mapping[str, Sequence[float | None]], top: int) -> list[str]:
    logs = [math.log10(value) for curve in curves.values() for value in curve if value]
    parts = [_text(_LEFT, top - 8, title)]
    if not logs:
        return [*parts, _text(_LEFT, top + 20, "nothing to be compared")]
    low, high = math.floor(min(logs)), math.ceil(max(logs) + 1e-9)
    for power in range(low, high + 1):
        y = _y(power, low, high, top)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDE - 20}" stroke="#ddd" fill="none"/>')
        parts.append(_text(8, y + 4, f"1e{power}"))
    for at, curve in enumerate(curves.values()):
        step = (_WIDE - 20 - _LEFT) / max(1, len(curve) - 1)
        points = [
            f"{_LEFT + step * place:.1f} {_y(math.log10(value), low, high, top):.1f}"
            for place, value in enumerate(curve)
            if value
        ]
        if points:
            parts.append(f'<path d="M{"L".join(points)}" fill="none" stroke-width="1.5" {_stroke(at)}/>')
    return parts


def _y(log: float, low: int, high: int, top: int) -> float:
    return top + (high - log) / max(1, high - low) * _TALL


def _text(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}">{html.escape(words)}</text>'
