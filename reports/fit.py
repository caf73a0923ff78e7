"""Tables that fit where they are shown: columns are given up in a set order, then names are cut in their middle."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

LOG_WIDTH: Final = 160
"""Columns of a log: nobody's screen ends there, but viewers break much longer lines."""
_BETWEEN: Final = 3
_SHORTEST_NAME: Final = 8


@dataclass(frozen=True)
class Look:
    """What the place can show. ``width``: columns; ``color``: whether it knows escape sequences; ``unicode``: whether
    it knows more than ASCII.
    """

    width: int
    color: bool = False
    unicode: bool = True

    @classmethod
    def of_log(cls) -> Look:
        """That of a file or a pipe: as wide as ``COLUMNS`` says, else `LOG_WIDTH`."""
        given = os.environ.get("COLUMNS", "")
        return cls(int(given) if given.isdecimal() and int(given) > 0 else LOG_WIDTH)


@dataclass(frozen=True)
class Fitted:
    """A table of which some columns may be missing: ``left_out`` names them."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left_out: tuple[str, ...]


def fit(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, give_up: Sequence[int], names: Sequence[int]
) -> Fitted:
    """The table in ``width`` columns, as far as that can be done.

    Columns (by their number) go in the order of ``give_up``, no more than need to. Where that is not enough, the cells
    of ``names`` are cut, the widest first, down to eight letters. What still does not fit is shown as it is.
    """
    kept, spare = list(range(len(header))), list(give_up)
    widths = [max(cell_len(str(row[place])) for row in (header, *rows)) for place in kept]

    def needed() -> int:
        return sum(widths[place] for place in kept) + _BETWEEN * (len(kept) - 1)

    while needed() > width and spare:
        kept.remove(spare.pop(0))
    while needed() > width:
        widest = max((place for place in names if place in kept), key=lambda place: widths[place], default=None)
        if widest is None or widths[widest] <= _SHORTEST_NAME:
            break
        widths[widest] -= 1
    shown = [tuple(shorten(str(row[place]), widths[place]) for place in kept) for row in (header, *rows)]
    return Fitted(shown[0], shown[1:], tuple(header[place] for place in range(len(header)) if place not in kept))


def shorten(text: str, width: int) -> str:
    """``text`` in ``width`` columns: beginning and end of a name tell it apart, so its middle goes."""
    if cell_len(text) <= width:
        return text
    start = width // 2
    end = width - 1 - start
    return f"{text[:start]}…{text[len(text) - end :] if end else ''}"


def draw(table: Fitted, look: Look, words: frozenset[str], styles: Sequence[str]) -> str:
    """The table as lines; ``words``: headers of columns without numbers, ``styles``: of each row's last cell."""
    drawn = Table(
        show_edge=False, pad_edge=False, header_style="bold", box=box.HEAVY_HEAD if look.unicode else box.ASCII
    )
    for name in table.header:
        drawn.add_column(Text(name), justify="left" if name in words else "right", no_wrap=True)
    for row, style in zip(table.rows, styles, strict=True):
        drawn.add_row(*(Text(cell) for cell in row[:-1]), Text(row[-1], style=style))
    # a table that cannot be made narrow enough keeps its numbers: a longer line is better than a wrong one
    natural = sum(max(cell_len(row[place]) for row in (table.header, *table.rows)) + 3 for place in range(len(row)))
    width = max(look.width, natural)
    console = Console(file=io.StringIO(), width=width, force_terminal=look.color, no_color=not look.color)
    console.print(drawn)
    assert isinstance(console.file, io.StringIO)
    text = "\n".join(line.rstrip() for line in console.file.getvalue().split("\n"))
    return (text if look.unicode else text.replace("…", "~")) + "\n"
