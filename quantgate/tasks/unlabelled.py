"""C-EVAL's test split, whose answers its authors keep: what models say there, to be sent in, and how far they agree.

``ceval_test`` (5-shot, likelihood) and ``ceval_test_generate`` (paper A's free answers) ask all of it; the score of a
question is whether the subject says what the reference says, so the reference's is 1 and a subject's the share of equal
answers. `quantgate report RUN --submit DIR` writes each model's answers as the official scorer takes them. For an
accuracy here, there is the labelled split (``ceval``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.core.requests import Request, Response
from quantgate.tasks.base import Selection
from quantgate.tasks.choices import NOT_FINITE, TIED
from quantgate.tasks.data import DataSource
from quantgate.tasks.exams import ExamChat, ExamLikelihood
from quantgate.tasks.extraction import LETTERS
from quantgate.tasks.items import limited, rows_of_split
from quantgate.tasks.prompts import Prompts

AGREEMENT: Final = Metric("agreement", True, "binary")
_SPLIT: Final = "test"


@dataclass(frozen=True)
class Letters:
    """Asks the test split as ``like`` asks the labelled one; no answer of it has a score."""

    id: str
    like: ExamLikelihood | ExamChat
    every_item: ClassVar[bool] = True
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = AGREEMENT

    @property
    def dataset(self) -> str:
        """The exam's."""
        return self.like.dataset

    @property
    def protocol(self) -> str:
        """The labelled split's."""
        return f"the unlabelled split {_SPLIT}, {self.like.protocol}"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Every question of every subject, behind the subject's dev examples where the form has some."""
        exam, items = self.like.exam, []
        fields = {name: kind for name, kind in exam.fields.items() if name != exam.answer}
        for subject, examples in exam.examples(data, getattr(self.like, "shots", 0)).items():
            for name, row in rows_of_split(data, self.dataset, subject, _SPLIT, fields):
                items.append(Item(f"{subject}/{name}", subject, {**row, exam.answer: ""}, examples))
        return limited(items, selection.limit, selection.seed)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """As the labelled split is asked."""
        return self.like.requests(item, prompts)

    def letter(self, item: Item, responses: Sequence[Response]) -> str:
        """What the model says: of options that are equally likely the first."""
        row: Mapping[str, Any] = {**item.row, self.like.exam.answer: LETTERS[0]}
        return self.like.score(replace(item, row=row), responses).answer.split(TIED)[0]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """The letter, and no score."""
        said = self.letter(item, responses)
        return ItemOutcome(item.id, item.group, None, said, unscored="its answer is not published")


@dataclass(frozen=True)
class Agreement:
    """``first``'s questions, of which the reference's own answers count as right."""

    id: str
    first: Letters
    every_item: ClassVar[bool] = True
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = AGREEMENT
    chance: ClassVar[float] = 0.25

    @property
    def dataset(self) -> str:
        """The exam's."""
        return self.first.dataset

    @property
    def place(self) -> tuple[str, str]:
        """All of its subjects."""
        return self.dataset, ""

    def has_rows(self, data: DataSource) -> bool:
        """Whether a subject has the split."""
        return any(data.has(self.dataset, subject, _SPLIT) for subject in data.configs(self.dataset))

    @property
    def protocol(self) -> str:
        """How it is asked, and what an answer is compared with."""
        return f"{self.first.protocol}; whether the answer is the reference's"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """The questions, without answers: see `behind`."""
        return self.first.items(data, selection, prompts)

    def behind(
        self, asked: Sequence[tuple[Item, Sequence[Request], Sequence[Response]]], prompts: Prompts
    ) -> list[Item]:
        """Every question with the reference's letter as its answer."""
        key = self.first.like.exam.answer
        return [
            replace(item, row={**item.row, key: self.first.letter(item, responses)}) for item, _, responses in asked
        ]

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """As the reference was asked."""
        return self.first.requests(item, prompts)

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 where the letters are the same."""
        said = self.first.letter(item, responses)
        if not said:
            return ItemOutcome(item.id, item.group, None, unscored=NOT_FINITE)
        return ItemOutcome(item.id, item.group, float(said in self.golds(item)), said)

    def golds(self, item: Item) -> list[str]:
        """The reference's letter."""
        return [item.row[self.first.like.exam.answer]]
