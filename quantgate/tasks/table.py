"""The table of tasks: what ``--tasks`` can name, and what runs by default."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

from quantgate.core.errors import DataError, UsageError, translated
from quantgate.core.metrics import ACC_NORM, Metric
from quantgate.core.naming import same_name, suggestion
from quantgate.core.reading import visible
from quantgate.core.registry import check_packages, rows_of, with_packages
from quantgate.core.requests import is_number
from quantgate.tasks.base import Task
from quantgate.tasks.bbh import Bbh
from quantgate.tasks.bbq import Bbq
from quantgate.tasks.boss import BossLikelihood, BossLoss, boss_tasks
from quantgate.tasks.checked import is_guest
from quantgate.tasks.code import HumanEval, Mbpp
from quantgate.tasks.corpora import CORPORA
from quantgate.tasks.data import DataSource
from quantgate.tasks.decoded import decoded
from quantgate.tasks.efficiency import EFFICIENCY_TASKS
from quantgate.tasks.efficiency import GROUP as EFFICIENCY_GROUP
from quantgate.tasks.exams import CEVAL, CMMLU, MMLU, ExamChat, ExamLikelihood
from quantgate.tasks.flores import Flores
from quantgate.tasks.followbench import FollowBench
from quantgate.tasks.found import has_rows
from quantgate.tasks.gsm8k import Gsm8k
from quantgate.tasks.ifeval import IfEval
from quantgate.tasks.lambada import Lambada
from quantgate.tasks.mass import Mass
from quantgate.tasks.multiple_choice import MultipleChoice
from quantgate.tasks.open_answers import AlpacaEval, MtBench
from quantgate.tasks.passages import Passage
from quantgate.tasks.rolling import RollingTask
from quantgate.tasks.sampled import Sampled
from quantgate.tasks.scenario_rows import SCENARIO
from quantgate.tasks.short_answers import GreedyAnswer, TriviaQa
from quantgate.tasks.snli import Snli, SnliLikelihood
from quantgate.tasks.summaries import Summaries
from quantgate.tasks.truthfulqa import TruthfulQa
from quantgate.tasks.unlabelled import Agreement, Letters

_MOST_EXACT: Final = 16  # whole distributions of a segment of 2,048 tokens take 0.4 to 2 GB


def _segments(task: str, corpus: str, measure: Literal["ppl", "kld"], *, exact: bool = False) -> RollingTask:
    """A task over a corpus in its usual segments."""
    of = CORPORA[corpus]
    segments = min(of.segments, _MOST_EXACT) if exact and of.dataset else of.segments
    return RollingTask(task, corpus, measure, length=of.length, max_segments=segments, exact=exact)


_PAPER_TEXTS: Final = ("wikitext2", "ptb", "c4")
_ROLLING: Final[list[Task]] = [
    *(_segments(f"perplexity_{name}", name, "ppl") for name in CORPORA),
    *(RollingTask(f"perplexity_{name}_raw", name, "ppl", max_segments=None, raw=True) for name in _PAPER_TEXTS),
    *(_segments(f"kld_{name}", name, "kld") for name in CORPORA),
    *(_segments(f"kld_exact_{name}", name, "kld", exact=True) for name in CORPORA),
]

_EXAMS: Final[list[Task]] = [
    ExamLikelihood("mmlu", MMLU),
    ExamLikelihood("mmlu_cloze", MMLU, "text"),
    ExamLikelihood("mmlu_zero_shot", MMLU, shots=0),
    ExamLikelihood("mmlu_cloze_zero_shot", MMLU, "text", shots=0),
    ExamChat("mmlu_generate", MMLU),
    ExamLikelihood("ceval", CEVAL),
    ExamChat("ceval_generate", CEVAL),
    ExamLikelihood("cmmlu", CMMLU),
    *(
        ExamLikelihood(f"{name}_{group}", exam, group=group)
        for name, exam in (("ceval", CEVAL), ("cmmlu", CMMLU))
        for group in ("stem", "social_science", "humanities", "other")
    ),
]
_BOSS: Final = boss_tasks()

_ZERO_SHOT: Final[list[Task]] = [
    MultipleChoice("hellaswag", "hellaswag"),
    MultipleChoice("hellaswag_norm", "hellaswag", "characters"),
    MultipleChoice("piqa", "piqa"),
    MultipleChoice("piqa_norm", "piqa", "characters"),
    MultipleChoice("arc_easy", "arc_easy"),
    MultipleChoice("arc_easy_norm", "arc_easy", "characters"),
    MultipleChoice("arc_challenge", "arc_challenge"),
    MultipleChoice("arc_challenge_norm", "arc_challenge", "characters"),
    MultipleChoice("boolq", "boolq"),
    MultipleChoice("winogrande", "winogrande"),
    MultipleChoice("openbookqa", "openbookqa"),
    MultipleChoice("openbookqa_norm", "openbookqa", "characters"),
    Lambada(),
    Lambada("lambada_perplexity", "ppl"),
]
_NORMED: Final = ("swag", "sciq", "mathqa", "logiqa")  # options of unlike length
_SCENARIO: Final[list[Task]] = [
    *(MultipleChoice(name, name) for name in SCENARIO),
    *(MultipleChoice(f"{name}_norm", name, "characters") for name in _NORMED),
]

_OTHER_CHOICES: Final = (TruthfulQa(), TruthfulQa("truthfulqa_mc1", "mc1"), SnliLikelihood())
_SURE: Final = (ExamLikelihood, MultipleChoice, SnliLikelihood, TruthfulQa, BossLikelihood)
_MASS: Final[list[Task]] = [
    Mass(task)
    for task in (*_EXAMS, *_ZERO_SHOT, *_SCENARIO, *_OTHER_CHOICES, *_BOSS)
    if isinstance(task, _SURE) and task.metric is not ACC_NORM
]
"""One of each benchmark with options: the two metrics of the zero-shot standards read the same answers."""

_OTHERS: Final[list[Task]] = [
    TruthfulQa("truthfulqa_mc2", "mc2"),
    Gsm8k(),
    Gsm8k("gsm8k_any_number", "any_number"),
    Gsm8k("gsm8k_first_occurrence", "first_occurrence"),
    Gsm8k("gsm8k_cot", shots=8),
    Gsm8k("gsm8k_direct", max_new_tokens=64, shots=8, worked=False),
    Flores("flores_en_zh", "eng_Latn", "zho_Hans"),
    Flores("flores_zh_en", "zho_Hans", "eng_Latn"),
    Summaries("cnn_dailymail", "abisee/cnn_dailymail", "3.0.0", "article", "highlights"),
    Summaries("xsum", "EdinburghNLP/xsum", "default", "document", "summary"),
    Snli(),
    Snli("snli_strict", "one_label"),
    Bbq(),
    Bbq("bbq_ambiguous", "ambiguous"),
    Bbq("bbq_disambiguated", "disambiguated"),
    FollowBench(),
    FollowBench("followbench_ssr", "ssr"),
    FollowBench("followbench_csl", "csl"),
    IfEval(),
    HumanEval(),
    Mbpp(),
    Bbh(),
    Bbh("bbh_direct", "direct", 64),
    Bbh("bbh_zero_shot", "zero_shot", 64),
]
_SHORT: Final[list[Task]] = [
    *(GreedyAnswer("asdiv"), GreedyAnswer("webqs"), TriviaQa()),
    *(Passage("drop"), Passage("drop_f1", measure="f1"), Passage("squad2"), Passage("squad2_f1", measure="f1")),
]

_ALPACA: Final = AlpacaEval()
_DECODED: Final = ("gsm8k_cot", "cnn_dailymail", "humaneval")
_ANSWERS: Final[list[Task]] = [
    _ALPACA,
    MtBench(),
    *(
        Agreement(name, Letters(name, like))
        for name, like in (
            ("ceval_test", ExamLikelihood("ceval", CEVAL)),
            ("ceval_test_generate", ExamChat("ceval_generate", CEVAL)),
        )
    ),
    *(Sampled(task) for task in _OTHERS if isinstance(task, (Gsm8k, Flores, Summaries, Snli, FollowBench))),
    *(each for task in (*(task for task in _OTHERS if task.id in _DECODED), _ALPACA) for each in decoded(task)),
]

GROUP: Final = "quantgate.tasks"
"""Entry point group by which other packages add rows: tasks, or lists of them."""
_OWN: Final[tuple[Task, ...]] = (
    *(*_ROLLING, *_EXAMS, *_ZERO_SHOT, *_SCENARIO, *_OTHER_CHOICES),
    *(*_BOSS, *_MASS, *_OTHERS, *_SHORT, *_ANSWERS),
)
_DIMENSIONS: Final = ("knowledge", "alignment", "fidelity")  # each is a file in evals/


def _wrong_facts(task: Task) -> str:
    """What of a row from another package is not what the rest relies on; empty where all is."""
    with translated(f"task {task.id!r}", "cannot be looked at", kind=UsageError, also=(Exception,)):
        protocol, version, metric = task.protocol, task.version, task.metric
        chance, dataset = getattr(task, "chance", None), getattr(task, "dataset", "")
    if not isinstance(protocol, str) or not protocol or visible(protocol) != protocol:
        return "its protocol is no text of one line"
    if type(version) is not int or not isinstance(dataset, str):
        return "its version is no integer, or its dataset no text"
    if not isinstance(metric, Metric) or type(metric.kind) is not str:
        return f"its metric is {str(metric)[:80]}, no Metric"
    known = [each.metric for each in _OWN if each.metric.name == metric.name]
    if known and metric not in known:
        return f"its metric is called {metric.name!r}, and is another one"
    if not isinstance(metric.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", metric.name):
        return f"its metric is called {metric.name!r}, expected lower-case letters, digits and '_'"
    if chance is not None and not (is_number(chance) and math.isfinite(chance) and _possible(metric, chance)):
        return f"its chance is {chance!r}, which no score of {metric.name} can be"
    return ""


def _possible(metric: Metric, value: float) -> bool:
    return metric.range is None or min(metric.best or 0, metric.worst or 0) <= value <= max(
        metric.best or 0, metric.worst or 0
    )


_LONGEST: Final = 100


def check_table(tasks: Iterable[Task]) -> None:
    """Raise UsageError for a row that no case could be made of, or whose name stands for something else.

    A dimension that no file in evals/ has would leave the case out of the run without a word.
    """
    for task in tasks:
        who = f"task {task.id!r}"
        if len(task.id) > _LONGEST:
            found = f"a name of {len(task.id)} letters"
            raise UsageError(
                f"task '{task.id[:40]}…'", found, expected=f"at most {_LONGEST}, as files are named after it"
            )
        if not re.fullmatch(r"[a-z][a-z0-9_]*", task.id):
            raise UsageError(who, "a name that case ids cannot hold", expected="lower-case letters, digits and '_'")
        if task.id in GROUPS or task.id in (EFFICIENCY_GROUP, *EFFICIENCY_TASKS):
            raise UsageError(who, "the name is taken", expected="a name of its own")
        if task.dimension not in _DIMENSIONS:
            raise UsageError(who, f"dimension {task.dimension!r}", expected=" or ".join(_DIMENSIONS))
        if is_guest(task) and (wrong := _wrong_facts(task)):
            raise UsageError(who, wrong, hint="mend the package that brings it, or uninstall it")


def _is_part(task: Task) -> bool:
    """Whether it is a subject group, or a set of BOSS, which has groups of its own."""
    return isinstance(task, BossLikelihood) or bool(getattr(task, "group", ""))


GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "perplexity": tuple(f"perplexity_{name}" for name in CORPORA),
    "kld": tuple(f"kld_{name}" for name in CORPORA),
    "kld_exact": tuple(f"kld_exact_{name}" for name in CORPORA),
    "zero_shot": tuple(task.id for task in _ZERO_SHOT),
    "scenario": tuple(task.id for task in (*_SCENARIO, *_SHORT)),
    "sampled": tuple(task.id for task in _ANSWERS if isinstance(task, Sampled)),
    "mass": tuple(task.id for task in _MASS if isinstance(task, Mass) and not _is_part(task.of)),
    "boss": tuple(task.id for task in _BOSS if not isinstance(task, (BossLikelihood, BossLoss))),
    "boss_sure": (
        *(f"mass_{task.id}" for task in _BOSS if isinstance(task, BossLikelihood)),
        *(task.id for task in _BOSS if isinstance(task, BossLoss)),
    ),
    "paper": (
        *("mmlu_generate", "ceval_generate", "gsm8k_any_number", "gsm8k_first_occurrence", "snli"),
        *("flores_en_zh", "flores_zh_en", "cnn_dailymail", "xsum"),
        *("truthfulqa", "bbq", "bbq_ambiguous", "bbq_disambiguated"),
        *("followbench", "followbench_ssr", "followbench_csl"),
        *(f"perplexity_{name}_raw" for name in _PAPER_TEXTS),
    ),
}
"""Names that stand for several tasks: those of them that the data source has text for."""


def _table() -> dict[str, Task]:
    found: dict[str, Task] = rows_of(GROUP, Task, _OWN, lambda task: task.id)
    check_table(found.values())
    return found


check_table(_OWN)
TASKS: Final = with_packages(_table, lambda: {task.id: task for task in _OWN})


DEFAULT: Final = (
    "perplexity",
    "kld",
    "mmlu",
    "mmlu_cloze",
    "ceval",
    "cmmlu",
    "truthfulqa",
    "gsm8k",
    "gsm8k_cot",
    "bbq",
    "bbq_ambiguous",
    "bbq_disambiguated",
)
# Nothing could be shown: the bundled model is at chance with letters and in Chinese, with BBQ's 88 answers a condition
# a broken model is as unbiased as a good one, and without examples its word problems come out otherwise in every run
# (two runs of the same weights differ in 42 of 64 answers): it solves them as the examples do, in a line.
_BUNDLED_LEAVES_OUT: Final = ("mmlu", "ceval", "cmmlu", "bbq", "bbq_ambiguous", "bbq_disambiguated", "gsm8k")
_ONLY_BUNDLED: Final = ("gsm8k_cot",)


def select_tasks(
    names: Sequence[str] | None, data: DataSource, note: Callable[[str], None] = lambda _: None
) -> list[Task]:
    """The tasks called ``names`` (groups expanded), or the default ones that ``data`` has.

    ``note`` is told which tasks of a group are left out although ``data`` has other splits of their text.

    Raises:
        DataError: a task was named whose split ``data`` lacks.
        UsageError: an unknown name (suggests the closest), or a group that ``data`` has nothing for.
    """
    check_packages()
    chosen: dict[str, Task] = {}
    for typed in names or DEFAULT:
        known = [*TASKS, *GROUPS]
        if (name := same_name(typed, known)) is None:
            if same_name(typed, EFFICIENCY_TASKS) is not None:
                raise UsageError(
                    "--tasks", f"{typed!r} is a measurement, without items", expected="benchmarks here",
                    hint="quantgate run --tasks measures it",
                )  # fmt: skip
            raise UsageError("--tasks", f"unknown task {typed!r}", hint=suggestion(typed, [*known, *EFFICIENCY_TASKS]))
        members = [TASKS[member] for member in GROUPS[name]] if name in GROUPS else [TASKS[name]]
        open_question = names is None or name in GROUPS
        if not open_question:
            _check_split(members[0], data)
        suited = {task.id: task for task in members if not open_question or _suits(task, data, names is None)}
        if names is not None and not suited:
            raise UsageError(
                "--tasks",
                f"data {data.name} has text for none of {name!r}",
                expected=" or ".join(GROUPS[name]),
                hint="choose another --data, or name one of them",
            )
        for task in members:
            if task.id not in suited and (lacking := _lacking(task, data)):
                note(f"{task.id} is left out: {lacking}")
        chosen |= suited
    return list(chosen.values())


def _suits(task: Task, data: DataSource, by_default: bool) -> bool:
    """Whether a task nobody named outright is run on ``data``: CPython's text goes with the bundled items."""
    if isinstance(task, RollingTask) and task.corpus:
        corpus = CORPORA[task.corpus]
        return corpus.in_(data) and data.name != "bundled" if corpus.dataset else data.name == "bundled"
    left_out = _BUNDLED_LEAVES_OUT if data.name == "bundled" else _ONLY_BUNDLED
    if by_default and task.id in left_out:
        return False
    return has_rows(task, data)


def _lacking(task: Task, data: DataSource) -> str:
    """What of a task's text ``data`` lacks although it has other splits of it; empty when nothing."""
    corpus = CORPORA[task.corpus] if isinstance(task, RollingTask) and task.corpus else None
    if corpus is None or corpus.rows is None or corpus.in_(data) or not data.has(corpus.dataset):
        return ""
    splits = " and ".join(data.splits(corpus.dataset, corpus.rows.config)) or "no split"
    return f"data {data.name} has {splits} of {corpus.dataset}, and its text is {corpus.rows.split}"


def _check_split(task: Task, data: DataSource) -> None:
    if lacking := _lacking(task, data):
        hint = "add the split, choose another --data, or other --tasks"
        raise DataError(f"task {task.id!r}", lacking, expected="that split: no other one stands in for it", hint=hint)
