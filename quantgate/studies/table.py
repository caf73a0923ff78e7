"""The table of studies: which calibration sets meet which tests, or which tests are paired (``--study NAME``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from quantgate.core.errors import UsageError
from quantgate.core.naming import same_name, suggestion
from quantgate.core.registry import rows_of, with_packages
from quantgate.quantize.calibration.table import SOURCES
from quantgate.studies.abilities import ALONE, PAIRS, TASKS_ASKED
from quantgate.studies.protocol import Part, Study
from quantgate.tasks.boss_rows import KINDS, SETS, BossSet
from quantgate.tasks.corpora import CORPORA
from quantgate.tasks.data import DataSource
from quantgate.tasks.found import has_rows
from quantgate.tasks.table import TASKS

GROUP: Final = "quantgate.studies"
"""Entry point group by which other packages add rows: studies, or lists of them."""
_ENOUGH: Final = 3  # sets of the suite itself, so that no stand-in is taken


def _boss(data: DataSource) -> list[Part]:
    """One part a task: its sets against their own test splits, by paper B's metric and by a continuous score."""
    return [part for kind in KINDS if len((part := _boss_part(kind, data)).sets) > 1 or part.missing]


def _boss_part(kind: str, data: DataSource) -> Part:
    ours = [each for each in SETS if each.kind == kind and not each.stands_for]
    there = [each for each in ours if not _lacking(each, data)]
    if len(there) < _ENOUGH:
        there += [each for each in SETS if each.kind == kind and each.stands_for and not _lacking(each, data)]
    tests = [name for each in there for name in _tests(each)]
    missing = tuple(f"{each.name} ({lacking})" for each in ours if (lacking := _lacking(each, data)))
    return Part(tuple(each.name for each in there), tuple(tests), missing)


def _lacking(each: BossSet, data: DataSource) -> str:
    task = TASKS[each.name]
    if not has_rows(task, data):
        return f"data {data.name!r} has no test split of it"
    return SOURCES[each.name].lacking(data)


def _tests(each: BossSet) -> list[str]:
    named = (each.name, f"{each.name}_f1", f"{each.name}_loss", f"{each.name}_likelihood")
    return [name for name in (*named, f"mass_{each.name}_likelihood") if name in TASKS]


def _exams(names: Iterable[str]) -> Callable[[DataSource], Sequence[Part]]:
    """A part whose sets are dev questions of exams, and whose tests are their scored splits."""
    wanted = tuple(names)

    def parts(data: DataSource) -> list[Part]:
        lacking = {name: SOURCES[name].lacking(data) for name in wanted}
        sets = tuple(name for name in wanted if not lacking[name])
        tests = tuple(test for name in sets for test in (name, f"mass_{name}"))
        return [Part(sets, tests, tuple(f"{name} ({why})" for name, why in lacking.items() if why))]

    return parts


def _subjects(data: DataSource) -> list[Part]:
    groups = ("humanities", "social_science", "stem", "other")
    return [part for exam in ("ceval", "cmmlu") for part in _exams(f"{exam}_{group}" for group in groups)(data)]


_S1_SETS: Final = ("c4", "wikitext2", "ptb", "alpaca_gpt4", "random")


def _s1(data: DataSource) -> list[Part]:
    """One set that is nobody's own, or another: paper B's standard setting calibrates on C4."""
    lacking = {name: SOURCES[name].lacking(data) for name in _S1_SETS}
    wanted = [name for names in S1_CATEGORIES.values() for name in names]
    tests = tuple(name for name in wanted if has_rows(TASKS[name], data))
    missing = tuple(name for name in wanted if name not in tests)
    sets = tuple(name for name, why in lacking.items() if not why)
    return [Part(sets, tests, missing + tuple(f"{name} ({why})" for name, why in lacking.items() if why))]


S1_CATEGORIES: Final[dict[str, tuple[str, ...]]] = {
    "commonsense": ("hellaswag", "swag", "piqa", "winogrande", "wsc273", "copa"),
    "scientific questions": ("arc_easy", "arc_challenge", "openbookqa", "sciq", "pubmedqa"),
    "reading and logic": ("boolq", "logiqa", "drop", "squad2"),
    "mathematics": ("gsm8k_cot", "mathqa", "asdiv"),
    "inference": ("snli_likelihood", "mnli", "rte", "qnli", "wnli", "mrpc", "qqp", "sst2"),
    "truthfulness": ("truthfulqa",),
    "language": ("lambada", "blimp"),
    "knowledge": ("mmlu_cloze", "webqs", "triviaqa"),
    "bias": ("bbq",),
}
"""Nine categories of our own naming: which tests are in which of paper B's nine is not published."""


def _abilities(data: DataSource) -> list[Part]:
    """No sets: every method as the run calibrates it, on both tasks of every pair that the data has."""
    there = [name for name in TASKS_ASKED if name in TASKS and _has(name, data)]
    whole = [pair for pair in PAIRS if pair.without in there and pair.given in there]
    tests = tuple(name for name in there if name in ALONE or any(name in (p.without, p.given) for p in whole))
    missing = tuple(f"{pair.ability} on {pair.benchmark}" for pair in PAIRS if pair not in whole)
    return [Part((), tests if whole else (), missing, tuple((pair.without, pair.given) for pair in PAIRS))]


def _has(name: str, data: DataSource) -> bool:
    corpus = getattr(TASKS[name], "corpus", None)
    if corpus is not None:
        rows = CORPORA[corpus].rows
        return rows is None or data.has(rows.dataset)
    return has_rows(TASKS[name], data)


_OWN: Final = (
    Study("boss", "sets of one task of BOSS, each calibrating for all of them (paper B, S2)", _boss),
    Study("chinese", "C-Eval and CMMLU, each calibrating for the other (paper B, S2)", _exams(("ceval", "cmmlu"))),
    Study("subjects", "subject groups of one exam, each calibrating for the others (paper B, S2)", _subjects),
    Study("abilities", "gains of examples and of chains of thought, no sets (arXiv 2307.08072)", _abilities),
    Study("s1", "general texts, and random tokens, for tests that are nobody's own (paper B, S1)", _s1),
)


def _name(row: Study) -> str:
    return row.name


STUDIES: Final[dict[str, Study]] = with_packages(
    lambda: rows_of(GROUP, Study, _OWN, _name), lambda: {row.name: row for row in _OWN}
)


def study_called(name: str) -> Study:
    """The row of that name. Raises UsageError for an unknown one."""
    if (found := same_name(name, STUDIES)) is None:
        raise UsageError("--study", f"unknown study {name!r}", hint=suggestion(name, STUDIES))
    return STUDIES[found]
