"""report.html: the run as one page to look at. One file, nothing loaded from anywhere, readable without scripts.

The text of everything is escaped by the template engine; the page's own policy forbids it to load or send anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from quantgate.core import reading
from quantgate.core.records import Result
from quantgate.reports import companions, shapes, taken_apart, turned, waivers
from quantgate.reports.report import Report
from quantgate.reports.table import HEADER, SUBJECT_HEADER, result_row, subject_row
from quantgate.reports.turned import Turned

SIGNS: Final = {"pass": "✓", "regressed": "✗", "inconclusive": "?", "invalid": "!"}
_WORST: Final = 5
_PAGE: Final = Path(__file__).parent / "page"


@dataclass(frozen=True)
class CaseView:
    """One case as the page shows it: a row of the table, and what unfolds below it."""

    result: Result
    cells: tuple[str, ...]
    picture: Markup
    reason: str
    beside: Sequence[tuple[str, ...]]
    turned: Sequence[Turned]
    more: int
    texts: Mapping[str, str]
    histogram: Markup
    worst: Sequence[tuple[str, float]]


def render(report: Report) -> str:
    """The page."""
    template = templates().get_template("page.html")
    return str(
        template.render(
            report=report,
            decisions=[(each, SIGNS[each.verdict]) for each in report.derived.decisions],
            cases=[_case(report, result) for result in report.rows],
            signs=SIGNS,
            header=HEADER,
            subject_header=SUBJECT_HEADER,
            subjects=[subject_row(each) for each in report.subjects.values()],
            turned_header=turned.HEADER,
            turned_meaning=turned.MEANING,
            beside_header=companions.HEADER[2:],
            meanings=companions.meanings(report.judged),
            fronts=[(each.lines(), shapes.front(each)) for each in report.derived.fronts],
            waived=waivers.summary(report.judged),
            style=Markup(page_part("page.css")),
            script=Markup(page_part("page.js")),
            facts=_facts(report),
            studies=report.shown_studies,
            diagnoses=[taken_apart.shown(each) for each in report.diagnoses],
            phases=[(what, f"{seconds:.1f}") for what, seconds in report.phases.items()],
        )
    )


def _case(report: Report, result: Result) -> CaseView:
    found, scores = report.looked_at(result)
    worst = sorted(scores.items(), key=lambda pair: -pair[1])[:_WORST]
    return CaseView(
        result=result,
        cells=result_row(result, alone=result.key in report.alone),
        picture=shapes.interval(result),
        reason=report.sentence(result),
        beside=[row[2:] for row in companions.rows([result])],
        turned=found[: turned.MOST_SHOWN],
        more=len(found) - turned.MOST_SHOWN,
        texts=report.texts.get(result.task, {}),
        histogram=shapes.histogram(list(scores.values()), "divergence in nats a token"),
        worst=worst,
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    """What the run was made with."""
    environment, model, run = report.environment, report.model, report.run
    versions = ", ".join(f"{name} {version}" for name, version in environment.get("versions", {}).items())
    hardware = [str(environment.get(name) or "") for name in ("cpu", "gpu")]
    found = {
        "reference": f"{model.get('id', 'unknown')}, {model.get('dtype', '')} on {model.get('device', '')}"
        if model
        else "no model was asked",
        "digest": str(model.get("digest", {}).get("whole", "")),
        **{f"16-bit model {name}": f"{each.get('id')}" for name, each in report.further_models.items()},
        "policy": f"{report.policy.get('name', '')} {str(report.policy.get('digest', ''))[:16]}".strip(),
        "hardware": ", ".join(part for part in hardware if part) + f", {environment.get('cores')} cores",
        "software": f"Python {environment.get('python')}, {versions}",
        "commit": f"{environment.get('commit') or 'none'}{', with local changes' if environment.get('dirty') else ''}",
        "run": f"{run.id}, {run.status}, from {run.started} to {run.finished}, exit code {run.code}",
        "configuration": str(environment.get("configuration", {}).get("file", "")),
        "command": str(environment.get("command", "")),
    }
    return [(name, words) for name, words in found.items() if words or name != "configuration"]


@cache
def page_part(name: str) -> str:
    """A file of the folder ``page``."""
    return reading.read_text(_PAGE / name)


@cache
def templates() -> Any:
    """What renders the pages: everything is escaped."""
    import jinja2

    loader = jinja2.FunctionLoader(page_part)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
