"""Multiple choice by option likelihood: HellaSwag, PIQA, ARC and the other zero-shot standards.

Prompts and scores as in lm-evaluation-harness 0.4.13, so that figures can be compared with the literature:

* ``acc``: the prediction is the option with the largest summed log-likelihood.
* ``acc_norm``: the sum is divided by the option's length in characters first, or long options could never win.

A benchmark is a row of :data:`BENCHMARKS`; a task is a benchmark under one of the two metrics. The rows are asked once:
both metrics read the same stored answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACC_NORM, ACCURACY, Metric
from quantgate.core.requests import Request, Response
from quantgate.tasks.base import Selection
from quantgate.tasks.choice_rows import ZERO_SHOT, Benchmark
from quantgate.tasks.choices import log_likelihoods, score_options
from quantgate.tasks.data import DataSource, Row
from quantgate.tasks.items import first_shots, k_shot, limited
from quantgate.tasks.lessons import Lessons
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.scenario_rows import SCENARIO

BENCHMARKS: Final[Mapping[str, Benchmark]] = {**ZERO_SHOT, **SCENARIO}


@dataclass(frozen=True)
class MultipleChoice:
    """One of :data:`BENCHMARKS` under one metric; zero-shot unless ``shots`` train rows are asked for."""

    id: str
    benchmark: str
    norm: Literal["none", "characters"] = "none"
    shots: int = 0
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 2  # a tie is nobody's choice

    @property
    def metric(self) -> Metric:
        """``acc`` or ``acc_norm``."""
        return ACCURACY if self.norm == "none" else ACC_NORM

    @property
    def dataset(self) -> str:
        """Hub id."""
        return BENCHMARKS[self.benchmark].dataset

    @property
    def place(self) -> tuple[str, str]:
        """Data set and configuration; empty where several are asked."""
        where = BENCHMARKS[self.benchmark]
        return where.dataset, "" if where.more else where.config

    def has_rows(self, data: DataSource) -> bool:
        """Whether ``data`` has the tested split of one of the configurations."""
        return bool(self._configs(data))

    def _configs(self, data: DataSource) -> list[str]:
        where = BENCHMARKS[self.benchmark]
        return [config for config in where.configs if data.has(where.dataset, config, where.split)]

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return BENCHMARKS[self.benchmark].chance

    @property
    def protocol(self) -> str:
        """What the options are compared by."""
        return f"{k_shot(self.shots)}, option log-likelihood{' per character' if self.norm == 'characters' else ''}"

    def examples(self, data: DataSource) -> dict[str, tuple[Row, ...]]:
        """The first rows of the split that is shown. Raises DataError where there is none, or it has too few."""
        where = BENCHMARKS[self.benchmark]
        if self.shots and not where.examples:
            raise DataError(
                f"task {self.id!r}",
                f"{self.shots} examples are asked for, and all rows of {where.dataset} are tested",
                hint="leave --num-fewshot out, or name other --tasks",
            )
        return {where.config: first_shots(data, where.dataset, where.config, where.examples, where.fields, self.shots)}

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Rows of the split under test with their examples; of several configurations, of those that the data has."""
        where = BENCHMARKS[self.benchmark]
        [shots] = self.examples(data).values()
        items = [item for config in self._configs(data) or where.configs for item in self._of(config, data, shots)]
        return limited(items, selection.limit, selection.seed)

    def _of(self, config: str, data: DataSource, shots: tuple[Row, ...]) -> list[Item]:
        where = BENCHMARKS[self.benchmark]
        items = []
        for number, row in enumerate(data.rows(where.dataset, config, where.split, where.fields)):
            name = f"{config}/{where.split}/{number}"
            self._check(row, f"{where.dataset}/{config}/{where.split} in {data.name}, row {number}")
            items.append(Item(name, _origin(where.source(row)) if where.source else name, row, shots))
        return items

    @property
    def lessons(self) -> Lessons:
        """Rows of another split than the tested one, each solved as a few-shot example is."""
        where = BENCHMARKS[self.benchmark]
        shown = ("train", "validation") if where.examples else ()
        return Lessons(
            where.dataset, where.configs, tuple(split for split in shown if split != where.split), where.fields,
            lambda _, row: where.read(dict(row)).solved, f"{self.benchmark} questions with their answers",
        )  # fmt: skip

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One likelihood per option."""
        read = BENCHMARKS[self.benchmark].read
        shots = "".join(f"{read(dict(shot)).solved}\n\n" for shot in item.shots)
        return [*read(dict(item.row)).requests(prompts, shots)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the right option is the likeliest, by sum or per character."""
        question = BENCHMARKS[self.benchmark].read(dict(item.row))
        values = log_likelihoods(responses)
        if self.norm == "characters":
            values = [value / max(1, len(option)) for value, option in zip(values, question.options, strict=True)]
        return score_options(item, values, question.right, [str(index) for index in range(len(values))])

    def golds(self, item: Item) -> list[str]:
        """The right option with what stands before it, where that is not the same for all (the filled-in sentence)."""
        question = BENCHMARKS[self.benchmark].read(dict(item.row))
        filled = "" if len(set(question.contexts)) == 1 else question.contexts[question.right]
        return [f"{filled} {question.options[question.right]}"]

    def _check(self, row: Row, where: str) -> None:
        try:
            BENCHMARKS[self.benchmark].read(row)
        except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
            raise DataError(where, str(error), expected="options, one of them right") from error


def _origin(text: str) -> str:
    # sources may be whole passages; a group's name only has to be the same for the same source
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
