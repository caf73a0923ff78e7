"""report.md: the run for people, rendered from the same record as report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantgate.core.words import counted
from quantgate.reports import companions, efficiency, turned, waivers
from quantgate.reports.run import Run
from quantgate.reports.table import HEADER, SUBJECT_HEADER, ordered, result_row, subject_row
from quantgate.studies.pareto import fronts


def render(run: Run, environment: Mapping[str, Any]) -> str:
    """The report as GitHub-flavoured markdown."""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in run.counts().items() if count)
    model, alone = run.model, run.alone()
    digest = str(model.get("digest", {}).get("whole", ""))
    parts = [
        "# quantgate report",
        f"Reference: {_code(str(model.get('id', 'unknown')))}, {_plain(str(model.get('dtype', '')))} on "
        f"{_plain(str(model.get('device', '')))}, digest {_code(digest[:16])}. "
        f"Verdicts: {counts or 'none'}.",
        "\n".join(f"- {_plain(line)}" for line in _decisions(run)),
        "## Comparison with the 16-bit reference",
        _table(HEADER, [result_row(result, alone=result.key in alone) for result in ordered(run.results)]),
        "## Why",
        "\n".join(
            f"- {_plain(str(result.key))}: **{result.verdict}**. {_plain(result.reason)}"
            + (f" **{_plain(alone[result.key])}**" if result.key in alone else "")
            + (f" Interval: {_plain(result.statement)}." if result.statement else "")
            + (f" **Waived by the policy:** {_plain(result.waived)}" if result.waived else "")
            for result in ordered(run.results)
        ),
    ]
    beside = companions.rows(run.results)
    if beside:
        added = [f"- {_plain(name)}: {_plain(words)}" for name, words in companions.meanings(run.results).items()]
        parts += ["## Beside the metric", _table(companions.HEADER, beside), "\n".join(added)]
    parts += _turned(run)
    if run.subjects:
        parts += ["## Subjects", _table(SUBJECT_HEADER, [subject_row(each) for each in run.subjects.values()])]
    records = list(run.efficiency.values())
    for table in efficiency.tables(records, run.results, run.bits):
        parts += [f"## {table.title}", _table(table.header, table.rows)]
    if any(record.get("speed") for record in records):
        parts.append("![roofline](roofline.svg)")
    lines = [line for front in fronts(run.results) for line in front.lines()]
    if lines:
        parts += ["## Size and speed against quality", "\n".join(f"- {_plain(line)}" for line in lines)]
    if run.notes:
        parts += ["## Notes", "\n".join(f"- {_plain(note)}" for note in run.notes)]
    versions = ", ".join(f"{name} {version}" for name, version in environment.get("versions", {}).items())
    parts += [
        "## Environment",
        f"- {_plain(str(environment.get('cpu', '')))}, {environment.get('cores')} cores, "
        f"Python {environment.get('python')}, {versions}",
        f"- commit {_code(str(environment.get('commit') or 'none'))}"
        f"{' with local changes' if environment.get('dirty') else ''}, seed {environment.get('seed')}",
        f"- command: {_code(str(environment.get('command', '')))}",
        f"- run {_code(run.id or 'unknown')}, {run.status}: from {_plain(run.started)} to {_plain(run.finished)}, "
        f"exit code {run.code}",
    ]
    return "\n\n".join(parts) + "\n"


def _decisions(run: Run) -> list[str]:
    """One sentence a method, and what of it rests on waivers."""
    told = [decision.sentence for decision in run.decisions()]
    return [*told, *waivers.summary(run.results), *run.account.lines()]


def _turned(run: Run) -> list[str]:
    """A table a case of the items that came out otherwise, as far as there is room."""
    parts = []
    for result in ordered(run.results):
        sides = run.evidence.sides(result.key)
        found = turned.turned(result, sides) if sides and result.dimension != "efficiency" else []
        if found:
            more = f", the first {turned.MOST}" if len(found) > turned.MOST else ""
            title = f"{result.key}: {counted(len(found), 'item')} came out otherwise{more}"
            parts += [_plain(title), _table(turned.HEADER, turned.rows(found, run.texts.get(result.task, {})))]
    return ["## Items that turned", *parts] if parts else []


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text that cannot break out of its place: model and data names may hold anything."""
    flat = " ".join(text.split())
    for character in ("\\", "|", "<", ">", "`", "*", "[", "]"):
        flat = flat.replace(character, {"<": "&lt;", ">": "&gt;"}.get(character, "\\" + character))
    return flat


def _code(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
