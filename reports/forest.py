"""verdicts.svg: every case's interval against its margin, as one picture for a readme, a slide, a comment.

Text made of numbers and of names that are escaped here; nothing is loaded, light and dark follow who looks at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from markupsafe import Markup

from quantgate.core.records import Result
from quantgate.reports import shapes
from quantgate.reports.html import SIGNS, page_part
from quantgate.reports.report import Report
from quantgate.reports.table import digits_of, number

_WIDE: Final = 860
_ROW: Final = 26
_HEAD: Final = 34
_TOP: Final = 34
_BAR, _VALUES, _VERDICT = 290, 545, 735  # left edges of the columns
_LONGEST: Final = 34
_MOST: Final = 400  # cases: beyond it a picture is taller than anything shows
_NO_NUMBER: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # what XML cannot hold
_STYLE: Final = """text { font: 13px system-ui, sans-serif; fill: var(--ink) } .quiet { fill: var(--quiet) }
.strong { font-weight: 600 } .paper { fill: var(--paper) } .rule { stroke: var(--line) } .band { fill: var(--band) }
.pass { fill: var(--pass) } .regressed { fill: var(--regressed) } .inconclusive { fill: var(--inconclusive) }
.invalid { fill: var(--invalid) } .end { text-anchor: end }
g.pass { color: var(--pass) } g.regressed { color: var(--regressed) } g.inconclusive { color: var(--inconclusive) }
.zero { stroke: var(--quiet) } .margin { stroke: var(--ink); stroke-width: 3 }
.bar { stroke: currentColor; stroke-width: 2.5 } .dot, .arrow { fill: currentColor }"""


def as_svg(report: Report) -> str:
    """The picture; empty for a run without cases, or with more than 400."""
    if not 0 < len(report.judged) <= _MOST:
        return ""
    parts, height = [], _TOP
    for name, cases in groupby(report.rows, key=lambda result: result.about):
        parts.append(_heading(report, name, height))
        height += _HEAD
        for result in cases:
            parts.append(_case(result, height, alone=result.key in report.alone))
            height += _ROW
    title = f"{report.counts_in_words}, of {report.model.get('id', 'a model')}"
    return f"{_frame(title, height + 14, [*_legend(), *parts])}\n"


def _frame(title: str, height: int, parts: list[Markup]) -> Markup:
    start = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img">'
        '<title>{2}</title><style>{3}</style><rect width="{0}" height="{1}" class="paper"/>'
    )
    return (
        start.format(_WIDE, height, _clean(title), Markup(_colours() + _STYLE))
        + Markup("").join(parts)
        + Markup("</svg>")
    )


def _colours() -> str:
    """The page's colours, so that both look alike: its first rules, up to the first that is no colour."""
    return page_part("page.css").partition("* {")[0].partition("body {")[0]


def _legend() -> Iterator[Markup]:
    zero, margin = (_BAR + shapes.position(share) for share in (0, 1))
    yield _text(14, 22, "what each case lost of what it may lose", "quiet")
    yield _text(zero + 4, 22, "as 16 bit", "quiet end")
    yield _text(margin - 4, 22, "margin", "quiet")
    yield _text(_VALUES, 22, "16 bit → quantized", "quiet")
    yield _text(_VERDICT, 22, "verdict", "quiet")


def _heading(report: Report, name: str, y: int) -> Markup:
    told = next((each for each in report.derived.decisions if each.method == name), None)
    said = told.sentence.partition(" (")[0].partition("; ")[0] if told else name
    words = f"{SIGNS[told.verdict]} {said}" if told else said
    band = Markup('<rect x="0" y="{}" width="{}" height="{}" class="band"/>').format(y + 4, _WIDE, _HEAD - 8)
    return band + _text(14, y + 22, _short(words, 110), f"strong {told.verdict}" if told else "strong")


def _case(result: Result, y: int, *, alone: bool) -> Markup:
    digits = digits_of(result)
    values = f"{number(result.reference, digits)} → {number(result.value, digits)}"
    said = f"{SIGNS[result.verdict]} {result.verdict}{' alone' if alone else ''}{', waived' if result.waived else ''}"
    label = _text(14, y + 17, _short(result.task, _LONGEST))
    if result.metric != result.task:
        label += _text(_BAR - 10, y + 17, result.metric, "quiet end")
    picture = Markup('<g transform="translate({},{})" class="{}">{}</g>').format(
        _BAR, y + 2, result.verdict, shapes.interval(result)
    )
    return label + picture + _text(_VALUES, y + 17, values) + _text(_VERDICT, y + 17, said, result.verdict)


def _text(x: float, y: float, words: str, kind: str = "") -> Markup:
    return Markup('<text x="{:.1f}" y="{}" class="{}">{}</text>').format(x, y, kind, _clean(words))


def _clean(words: str) -> str:
    return _NO_NUMBER.sub("�", words)


def _short(words: str, most: int) -> str:
    """Cut in the middle, where two names differ least."""
    return words if len(words) <= most else f"{words[: most // 2 - 1]}…{words[-(most - most // 2) :]}"
