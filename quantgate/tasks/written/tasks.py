"""The three kinds of task that a file can describe; beside them, perplexity on a text (`quantgate.tasks.rolling`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACC_NORM, ACCURACY, EXACT_MATCH, PERPLEXITY, Metric
from quantgate.core.requests import Generate, GenerateResponse, LikelihoodResponse, Request, Response
from quantgate.tasks.base import Selection, only
from quantgate.tasks.choices import NOT_FINITE, log_likelihoods, score_options
from quantgate.tasks.data import DataSource, Row
from quantgate.tasks.items import k_shot, limited
from quantgate.tasks.prompts import Prompts, user
from quantgate.tasks.rolling import RollingTask
from quantgate.tasks.written.answers import Scorer
from quantgate.tasks.written.form import Content, Form

_VERSION: Final = 1


@dataclass(frozen=True)
class Origin:
    """Which file describes the task. ``source``: what records say of rows that it brings along, else empty."""

    file: str
    digest: str
    source: str = ""
    quote: bool = False

    def __str__(self) -> str:
        return f"{self.file} ({self.digest})"


@dataclass(frozen=True)
class _Written:
    """What all kinds share. ``shots``: solved examples in front, None where there can be none."""

    id: str
    form: Form
    origin: Origin
    shots: int | None = 0
    dimension: str = "knowledge"

    @property
    def version(self) -> int:
        """Of this code; what the file says is in the protocol."""
        return _VERSION

    @property
    def dataset(self) -> str:
        """Hub id; empty where the rows are a file."""
        return self.form.where.dataset

    @property
    def carries(self) -> str:
        """What records say about rows that the task file brings along; empty where they are the run's data."""
        return self.origin.source

    def quoted(self, item: Item) -> str:
        """The question, where the task file allows it."""
        return str(item.row.get("question") or item.row["contexts"][0]) if self.origin.quote else ""

    def read(self, row: Row, where: str) -> Content:
        """What a row asks. Raises DataError."""
        return self.form.answer(row, where)

    def examples(self, data: DataSource) -> dict[str, tuple[Mapping[str, Any], ...]]:
        """The first rows of the split or file that the task file names for them."""
        if not self.shots:
            return {"": ()}
        place = self.form.examples
        if place is None:
            raise DataError(f"task {self.id}", "its file names no rows for examples", expected="examples", hint=_SHOTS)
        rows = place.rows(data)
        if len(rows) < self.shots:
            raise DataError(place.described, f"{len(rows)} rows", expected=f"{self.shots} for examples")
        return {"": tuple(self.read(row, f"{place.described}, row {at}") for at, row in enumerate(rows[: self.shots]))}

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Every row; rows of one value of the field ``group`` belong together."""
        del prompts
        place, [shots], items = self.form.where, self.examples(data).values(), []
        for number, row in enumerate(place.rows(data)):
            where = f"task {self.id}, row {number} of {place.described}"
            name = f"{place.name}/{number}"
            group = name
            if self.form.group:
                if self.form.group not in row:
                    raise DataError(where, f"no field {self.form.group!r}", expected="the field named as group")
                group = f"{place.name}/{row[self.form.group]}"[:200]
            items.append(Item(name, group, self.read(row, where), tuple(shots)))
        return limited(items, selection.limit, selection.seed)

    def _asked(self) -> str:
        return f"{k_shot(self.shots or 0)} as {self.origin} says, {self.form.where.described}"


_SHOTS: Final = "name them, or drop --num-fewshot"


@dataclass(frozen=True)
class WrittenChoice(_Written):
    """One of several options, by likelihood: summed, or per character (``norm``)."""

    norm: Literal["none", "characters"] = "none"

    @property
    def metric(self) -> Metric:
        """``acc`` or ``acc_norm``."""
        return ACCURACY if self.norm == "none" else ACC_NORM

    @property
    def protocol(self) -> str:
        """What the options are compared by."""
        return f"{self._asked()}, option log-likelihood{' per character' if self.norm == 'characters' else ''}"

    def read(self, row: Row, where: str) -> Content:
        """Contexts, options and which is right."""
        return self.form.choice(row, where)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One likelihood per option."""
        row, between = item.row, self.form.between
        front = row["before"] + "".join(self._solved(shot) for shot in item.shots)
        pairs = zip(row["contexts"], row["options"], strict=True)
        return [prompts.pair(front + context, between + option) for context, option in pairs]

    def _solved(self, shot: Mapping[str, Any]) -> str:
        right = shot["right"]
        return f"{shot['contexts'][right]}{self.form.between}{shot['options'][right]}{self.form.behind}"

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the right option is the likeliest, by sum or per character."""
        values = log_likelihoods(responses)
        if self.norm == "characters":
            values = [value / max(1, length) for value, length in zip(values, item.row["lengths"], strict=True)]
        return score_options(item, values, item.row["right"], [str(at) for at in range(len(values))])

    def golds(self, item: Item) -> list[str]:
        """The right option with what stands before it, where that is not the same for all."""
        contexts, right = item.row["contexts"], item.row["right"]
        filled = "" if len(set(contexts)) == 1 else contexts[right]
        return [f"{filled} {item.row['options'][right]}"]


@dataclass(frozen=True)
class WrittenEnding(_Written):
    """The likelihood of the answer behind the question: whether it is the greedy one, or its loss (``ppl``)."""

    measure: Literal["acc", "ppl"] = "acc"

    @property
    def metric(self) -> Metric:
        """Accuracy of the greedy ending, or perplexity per ending."""
        return ACCURACY if self.measure == "acc" else PERPLEXITY

    @property
    def protocol(self) -> str:
        """What is made of the ending's likelihood."""
        return f"{self._asked()}, {'greedy ending' if self.measure == 'acc' else 'loss of the ending'}"

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """The likelihood of the ending."""
        front = item.row["before"] + "".join(_solved(self.form, shot) for shot in item.shots)
        return [prompts.pair(front + item.row["question"], item.row["answers"][0])]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when every token of the ending is the likeliest; or its loss in nats."""
        response = only(responses, LikelihoodResponse)
        if not math.isfinite(response.logprob):
            return ItemOutcome(item.id, item.group, None, unscored=NOT_FINITE)
        score = float(response.greedy) if self.measure == "acc" else -response.logprob
        nll = {"nll": -response.logprob / response.n_tokens}
        return ItemOutcome(item.id, item.group, score, str(int(response.greedy)), nll)

    def golds(self, item: Item) -> list[str]:
        """The ending."""
        return [item.row["answers"][0]]


@dataclass(frozen=True)
class WrittenAnswer(_Written):
    """A free answer, greedy, out of which ``scorer`` takes what is compared; ``chat``: asked in a chat turn."""

    scorer: Scorer = field(default_factory=Scorer)
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    chat: bool = False
    metric: ClassVar[Metric] = EXACT_MATCH

    @property
    def protocol(self) -> str:
        """How it is asked, and what of the answer counts."""
        form = "chat" if self.chat else "plain text"
        return f"{self._asked()}, {form}, greedy, at most {self.max_new_tokens} new tokens, {self.scorer}"

    def read(self, row: Row, where: str) -> Content:
        """Question and right answers, which the scorer has to be able to find."""
        content = self.form.answer(row, where)
        self.scorer.check(content["answers"], where)
        return content

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy answer."""
        front = item.row["before"] + "".join(_solved(self.form, shot) for shot in item.shots)
        text = front + item.row["question"]
        prompt = prompts.chat(user(text)) if self.chat else prompts.encode(text)
        return [Generate(prompt, self.max_new_tokens, self.stop)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when what is taken out of the answer is right."""
        response = only(responses, GenerateResponse)
        try:
            answer, right = self.scorer.score(response.text, item.row["answers"])
        except TimeoutError:
            return ItemOutcome(item.id, item.group, None, unscored="a pattern of the task file came to no end")
        return ItemOutcome(item.id, item.group, float(right), answer, {"capped": float(response.finish == "length")})

    def golds(self, item: Item) -> list[str]:
        """The right answers, as they are compared."""
        return [self.scorer.normal(answer) for answer in item.row["answers"]]


def _solved(form: Form, shot: Mapping[str, Any]) -> str:
    return f"{shot['question']}{form.between}{shot['answers'][0]}{form.behind}"


@dataclass(frozen=True)
class WrittenText(RollingTask):
    """Perplexity on, or divergence over, a text that a task file names."""

    origin: Origin = Origin("", "")

    @property
    def carries(self) -> str:
        """What records say about the text."""
        return self.origin.source

    def quoted(self, item: Item) -> str:
        """Segments are not shown."""
        del item
        return ""


Written = WrittenChoice | WrittenEnding | WrittenAnswer | WrittenText
