"""How a calibration study is shown: matrices as tables, a file of cells, and a heat map with intervals."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from quantgate.studies.shift_record import STUDY, budget_words

CSV_FILE: Final = "calibration.csv"
PICTURE: Final = "calibration.svg"
_OWN: Final = "*"
_STEPS: Final = (0.1, 0.5, 1.0)  # of the margin, where a cell's colour changes
_COLUMNS: Final = (
    "method", "test", "set", "own", "metric", "draws", "items", "reference", "value", "change", "low", "high", "margin",
)  # fmt: skip


class Studied(Protocol):
    """A report, as far as its studies go."""

    @property
    def studies(self) -> Sequence[Mapping[str, Any]]:
        """Their records."""


@dataclass(frozen=True)
class Matrix:
    """One method over tests that share their sets: ``rows`` of ``header`` test, 16-bit, then a column a set.

    ``heat``: a class of the page's style sheet for every cell of ``rows`` (empty: no colour), or none at all.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    heat: tuple[tuple[str, ...], ...] = ()


def matrices(record: Mapping[str, Any]) -> list[Matrix]:
    """A table for every method and family of sets. ``*`` marks the test's own distribution."""
    found = []
    for (method, sets), cells in _families(record).items():
        rows, heat = [], []
        for test in dict.fromkeys(cell["test"] for cell in cells):
            mine = {cell["set"]: cell for cell in cells if cell["test"] == test}
            rows.append(
                (
                    test,
                    _number(next(iter(mine.values()))["reference"]),
                    *(_shown(mine[name]) if name in mine else "none" for name in sets),
                )
            )
            heat.append(("", "", *(_heat(mine[name]) if name in mine else "" for name in sets)))
        title = f"{method}: metric by calibration set (columns) and test (rows), {_OWN} own distribution"
        found.append(Matrix(title, ("test", "16-bit", *sets), tuple(rows), tuple(heat)))
    return found


def contrast_rows(record: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the contrasts of the own set with every other one, the surest first."""
    header = ("method", "test", "own - other", "difference", "95% interval", "p", "Holm", "would have shown")
    rows: list[tuple[str, ...]] = [
        (
            each["method"],
            each["test"],
            f"{each['first']} - {each['second']}",
            f"{each['delta']:+.4f}",
            f"{each['low']:+.4f} to {each['high']:+.4f}" + ("" if each["with_draws"] else ", these samples only"),
            f"{each['p']:.2g}",
            f"{each['adjusted']:.2g}",
            f"{each['smallest']:.4f}",
        )
        for each in sorted(record["contrasts"], key=lambda each: (each["adjusted"], each["p"]))
    ]
    return header, rows


def sentences(record: Mapping[str, Any]) -> list[str]:
    """What is said: the answer, then a sentence a method, then what could not be filled."""
    told = [f"calibration study ({budget_words(record)}): {record['answer']}"]
    told += [each["sentence"] for each in record["methods"]]
    verdicts = [verdict for cell in record["matrix"] for verdict in cell["verdicts"]]
    if invalid := verdicts.count("invalid"):
        told.append(
            f"{invalid} of {len(verdicts)} cells are invalid as verdicts (a reference at chance, for example): their "
            "differences are shown, and say nothing about a model that can do the task"
        )
    return told + [f"no cell for {each['method']} on {each['test']} with {each['set']}: {each['why']}"
                   for each in record["holes"]]  # fmt: skip


def study_of(report: Studied) -> Mapping[str, Any]:
    """The calibration study of a run; empty when there is none."""
    return next((each for each in report.studies if each.get("study") == STUDY), {})


def cells_csv(report: Studied) -> str:
    """A line a cell; empty without a study."""
    if not (record := study_of(report)):
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(record["matrix"])
    return buffer.getvalue()


def heat_map(report: Studied) -> str:
    """An SVG: colour is the change from 16 bit in margins, the text its interval; empty where no cell was filled."""
    record = study_of(report)
    if not record or not record["matrix"]:
        return ""
    import matplotlib
    from matplotlib.figure import Figure

    families = _families(record)
    heights = [2 + 0.45 * len({cell["test"] for cell in cells}) for cells in families.values()]
    with matplotlib.rc_context({"svg.hashsalt": "quantgate", "svg.fonttype": "none"}):  # the same file every time
        width = 4 + 1.9 * max(len(sets) for _, sets in families)
        figure = Figure(figsize=(width, sum(heights)), layout="constrained")
        axes = figure.subplots(len(families), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        for (axis,), ((method, sets), cells) in zip(axes, families.items(), strict=True):
            _panel(axis, method, sets, cells)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _panel(axis: Any, method: str, sets: Sequence[str], cells: Sequence[Mapping[str, Any]]) -> None:
    tests = list(dict.fromkeys(cell["test"] for cell in cells))
    by = {(cell["test"], cell["set"]): cell for cell in cells}
    colours = [[_margins(by[test, name]["change"], by[test, name]["margin"]) for name in sets] for test in tests]
    axis.imshow(colours, cmap="RdYlGn", vmin=-2, vmax=2, aspect="auto")
    for row, test in enumerate(tests):
        for column, name in enumerate(sets):
            cell = by[test, name]
            text = f"{cell['change']:+.3f}\n[{cell['low']:+.3f}, {cell['high']:+.3f}]"
            weight = "bold" if cell["own"] else "normal"
            axis.text(column, row, text, ha="center", va="center", fontsize=6, fontweight=weight)
    axis.set_xticks(range(len(sets)), sets, rotation=20, fontsize=7)
    axis.set_yticks(range(len(tests)), tests, fontsize=7)
    axis.set_title(
        f"{method}: change from 16 bit, 95% interval (colour in margins, bold: own distribution)", fontsize=8
    )


def _margins(change: float, margin: Any) -> float:
    usable = isinstance(margin, int | float) and math.isfinite(margin) and margin > 0
    return change / margin if usable else 0.0


def _heat(cell: Mapping[str, Any]) -> str:
    """The class of a cell's colour: how much of the margin was lost or gained."""
    share = _margins(cell["change"], cell["margin"])
    step = sum(abs(share) > least for least in _STEPS)
    return f"{'harm' if share < 0 else 'gain'}-{step}" if step else ""


def _families(record: Mapping[str, Any]) -> dict[tuple[str, tuple[str, ...]], list[Mapping[str, Any]]]:
    """(method, sets) -> its cells."""
    tests: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in record["matrix"]:
        tests.setdefault((cell["method"], cell["test"]), []).append(cell)
    found: dict[tuple[str, tuple[str, ...]], list[Mapping[str, Any]]] = {}
    for (method, _), cells in tests.items():
        found.setdefault((method, tuple(_names(cells))), []).extend(cells)
    return found


def _names(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    return [str(cell["set"]) for cell in cells]


def _shown(cell: Mapping[str, Any]) -> str:
    half = (cell["high"] - cell["low"]) / 2
    return f"{_number(cell['value'])}{_OWN if cell['own'] else ''} ({cell['change']:+.3f}±{half:.3f})"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
