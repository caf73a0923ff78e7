"""report.md: the run for people, rendered from the same record as report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantgate.reports import companions, taken_apart, turned, waivers
from quantgate.reports.report import Report
from quantgate.reports.studies import Shown
from quantgate.reports.table import HEADER, SUBJECT_HEADER, result_row, subject_row


def render(report: Report) -> str:
    """The report as GitHub-flavoured markdown."""
    model, alone, environment = report.model, report.alone, report.environment
    parts = [
        "# quantgate report",
        f"{_reference(model)} Verdicts: {report.counts_in_words}.",
        *(
            f"Further model {_code(name)}: {_code(str(each.get('id')))}."
            for name, each in report.further_models.items()
        ),
        "\n".join(f"- {_plain(line)}" for line in _decisions(report)),
        "## Comparison with the 16-bit reference",
        _table(HEADER, [result_row(result, alone=result.key in alone) for result in report.rows]),
        "## Why",
        "\n".join(
            f"- {_plain(str(result.key))}: **{result.verdict}**. {_plain(result.reason)}"
            + (f" **{_plain(alone[result.key])}**" if result.key in alone else "")
            + (f" Interval: {_plain(result.statement)}." if result.statement else "")
            + (f" **Waived by the policy:** {_plain(result.waived)}" if result.waived else "")
            for result in report.rows
        ),
    ]
    beside = companions.rows(report.judged)
    if beside:
        added = [f"- {_plain(name)}: {_plain(words)}" for name, words in companions.meanings(report.judged).items()]
        parts += ["## Beside the metric", _table(companions.HEADER, beside), "\n".join(added)]
    parts += [part for study in report.shown_studies for part in _study(study)]
    parts += [part for each in report.diagnoses for part in _taken_apart(each)]
    parts += _turned(report)
    if report.subjects:
        parts += ["## Subjects", _table(SUBJECT_HEADER, [subject_row(each) for each in report.subjects.values()])]
    for table in report.tables:
        parts += [f"## {table.title}", _table(table.header, table.rows)]
    if any(record.get("speed") for record in report.efficiency.values()):
        parts.append("![roofline](roofline.svg)")
    lines = [line for front in report.derived.fronts for line in front.lines()]
    if lines:
        parts += ["## Size and speed against quality", "\n".join(f"- {_plain(line)}" for line in lines)]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {_plain(note)}" for note in report.notes)]
    run = report.run
    versions = ", ".join(f"{name} {version}" for name, version in environment.get("versions", {}).items())
    parts += [
        "## Environment",
        f"- {_plain(str(environment.get('cpu', '')))}, {environment.get('cores')} cores, "
        f"Python {environment.get('python')}, {versions}",
        f"- commit {_code(str(environment.get('commit') or 'none'))}"
        f"{' with local changes' if environment.get('dirty') else ''}, seed {environment.get('seed')}",
        f"- command: {_code(str(environment.get('command', '')))}"
        + (f", some of it from {_code(str(file['file']))}" if (file := environment.get("configuration")) else ""),
        f"- run {_code(run.id or 'unknown')}, {run.status}: from {_plain(run.started)} to {_plain(run.finished)}, "
        f"exit code {run.code}",
    ]
    return "\n\n".join(parts) + "\n"


def _reference(model: Mapping[str, Any]) -> str:
    """What the verdicts are about."""
    if not model:
        return "No model was asked."
    digest = str(model.get("digest", {}).get("whole", ""))
    return (
        f"Reference: {_code(str(model.get('id', 'unknown')))}, {_plain(str(model.get('dtype', '')))} on "
        f"{_plain(str(model.get('device', '')))}, digest {_code(digest[:16])}."
    )


def _decisions(report: Report) -> list[str]:
    """One sentence a method, and what of it rests on waivers."""
    told = [decision.sentence for decision in report.derived.decisions]
    return [*told, *waivers.summary(report.judged), *report.account]


def _study(study: Shown) -> list[str]:
    """What a study says, its tables, and its picture."""
    parts = [f"## {_plain(study.title)}", "\n".join(f"- {_plain(line)}" for line in study.lines)]
    for each in study.tables:
        parts += [_plain(each.title), _table(each.header, each.rows)]
    return [*parts, f"![{_plain(study.title)}]({study.picture})"] if study.picture else parts


def _taken_apart(record: Mapping[str, Any]) -> list[str]:
    """What a diagnosis within the run found."""
    found = taken_apart.shown(record)
    parts = [f"## {_plain(found.title)}", "\n".join(f"- {_plain(line)}" for line in found.lines)]
    for each in found.tables:
        parts += [_plain(each.title), _table(each.header, each.rows)]
    return parts


def _turned(report: Report) -> list[str]:
    """A table a case of the items that came out otherwise, as far as there is room."""
    parts = []
    for result in report.rows:
        if found := report.turned(result):
            rows = turned.rows(found, report.texts.get(result.task, {}))
            parts += [_plain(report.turned_title(result, len(found))), _table(turned.HEADER, rows)]
    return ["## Items that turned", turned.MEANING, *parts] if parts else []


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
