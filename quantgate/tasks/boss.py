"""BOSS under paper B's prompts: labels by free answer and by likelihood, answers by EM, F1 and loss, entities by F1.

* ``boss_NAME`` of a set with labels: greedy, at most paper B's few tokens; the answer is read after its normalisation
  (lower case, no punctuation, no articles). A stump with which one option alone begins counts as that option, so that a
  cap of one token works with every tokenizer; paper B maps ``ent``, ``ben`` and ``to`` only, and so calls a stump of
  "contradiction" wrong.
* ``boss_NAME_likelihood``: the option with the largest mean token likelihood; its probability is ``mass_...``.
* ``boss_NAME`` and ``boss_NAME_f1`` of a set with passages: exact match and token F1, over all accepted answers.
* ``boss_NAME`` of a set with entities: F1 of (type, words), mean over the types that the gold names.
* ``boss_NAME_loss``: mean loss of the right answer's tokens: it moves with every weight, where answers flip seldom.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACCURACY, EXACT_MATCH, GUESSING, Metric
from quantgate.core.requests import Generate, GenerateResponse, LikelihoodResponse, Request, Response
from quantgate.tasks.base import Selection, only
from quantgate.tasks.boss_rows import ENTITY_TYPES, KINDS, NO_ENTITY, SETS, BossSet, Kind, answers_of, entities_of
from quantgate.tasks.choices import NOT_FINITE, mean_token_likelihoods, score_options
from quantgate.tasks.data import DataSource, Row
from quantgate.tasks.items import k_shot, limited
from quantgate.tasks.lessons import Lessons
from quantgate.tasks.prompts import Prompts

TOKEN_F1: Final = Metric("token_f1", True, "mean", best=1.0, worst=0.0)
ANSWER_LOSS: Final = Metric("answer_loss", False, "mean", "nats", stake=GUESSING)
"""Mean loss a token of the right answer."""
_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_STOP: Final = ("\n",)
_FEWEST_LETTERS: Final = 2
_FACTS: Final = 3  # right, said too much, missed: of every type


def macro_f1(facts: npt.NDArray[np.float64]) -> float:
    """Mean over the types that occur of F1; ``facts``: right, said too much and missed, type after type."""
    right, extra, missed = facts.reshape(-1, _FACTS).T
    there = right + missed > 0
    if not there.any():
        return math.nan
    return float(np.mean(2 * right[there] / (2 * right + extra + missed)[there]))


ENTITY_F1: Final = Metric("entity_f1", True, "corpus", aggregate=macro_f1)


def normalized(text: str) -> str:
    """Paper B's (and SQuAD's) normalisation."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def option_of(answer: str, options: Sequence[str]) -> str:
    """The option that an answer names, whole or as a stump that no other option begins with; empty for none."""
    said = normalized(answer)
    if said in options:
        return said
    fit = [each for each in options if len(said) >= _FEWEST_LETTERS and each.startswith(said)]
    return fit[0] if len(fit) == 1 else ""


def token_f1(answer: str, gold: str) -> float:
    """F1 of the words of two normalised answers; 1 when both have none."""
    said, meant = normalized(answer).split(), normalized(gold).split()
    if not said or not meant:
        return float(said == meant)
    same = sum((Counter(said) & Counter(meant)).values())
    return 2 * same / (len(said) + len(meant))


def read_entities(answer: str) -> list[tuple[str, str]]:
    """(type, words) of an answer like ``person: A, B || location: C``; what is no such pair is left out."""
    found = []
    for part in answer.split("||"):
        kind, colon, words = part.partition(":")
        if colon:
            found += [(normalized(kind), normalized(each)) for each in words.split(",")]
    return [(kind, words) for kind, words in found if words and words != normalized(NO_ENTITY)]


@dataclass(frozen=True)
class _Boss:
    """What all protocols share: items of the test split with the first rows of the other one as examples."""

    boss: BossSet
    shots: int = 0
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1

    @property
    def kind(self) -> Kind:
        """How its rows lie and are asked."""
        return KINDS[self.boss.kind]

    @property
    def dataset(self) -> str:
        """Name of the data set; the set itself is its configuration."""
        return self.kind.dataset

    @property
    def place(self) -> tuple[str, str]:
        """Dataset and configuration that are asked."""
        return self.dataset, self.boss.config

    @property
    def lessons(self) -> Lessons:
        """See `BossSet.lessons`."""
        return self.boss.lessons

    def has_rows(self, data: DataSource) -> bool:
        """Whether ``data`` has this very set."""
        return data.has(self.dataset, self.boss.config, "test")

    def examples(self, data: DataSource) -> dict[str, tuple[Row, ...]]:
        """The first rows beside the test split, less those whose passage is tested."""
        if not self.shots:
            return {self.boss.config: ()}
        rows = self.lessons.rows(data)
        if len(rows) < self.shots:
            who = f"{self.dataset}/{self.boss.config} in {data.name}"
            raise DataError(who, f"{len(rows)} rows", expected=f"at least {self.shots}", hint="lower --num-fewshot")
        return {self.boss.config: tuple(rows[: self.shots])}

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Rows of the test split."""
        [shots] = self.examples(data).values()
        found, config = [], self.boss.config
        for number, row in enumerate(data.rows(self.dataset, config, "test", self.kind.fields)):
            name = f"{config}/test/{number}"
            self.kind.check(row, f"{self.dataset}/{config}/test in {data.name}, line {number + 1}")
            found.append(Item(name, self.kind.group(row, name), row, shots))
        return limited(found, selection.limit, selection.seed)

    def _protocol(self, how: str) -> str:
        stand_in = f"; {self.boss.stands_for}" if self.boss.stands_for else ""
        return f"{k_shot(self.shots)}, paper B's prompt, {how}{stand_in}"

    def _answer(self, item: Item, prompts: Prompts) -> list[Request]:
        prompt = self.kind.prompt(item.row, item.shots)
        return [Generate(prompts.encode(prompt), self.kind.new_tokens, _STOP)]


@dataclass(frozen=True)
class BossLabels(_Boss):
    """Labels by a free answer of paper B's few tokens."""

    metric: ClassVar[Metric] = ACCURACY

    @property
    def id(self) -> str:
        """``boss_NAME``."""
        return self.boss.name

    @property
    def chance(self) -> float:
        """A guess among the options."""
        return 1 / len(self.kind.options)

    @property
    def protocol(self) -> str:
        """The cap, and what counts."""
        return self._protocol(f"greedy, at most {self.kind.new_tokens} new tokens, normalised, a stump counts")

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy answer."""
        return self._answer(item, prompts)

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 for the right option. The companion ``named``: the answer names an option at all."""
        said = option_of(only(responses, GenerateResponse).text, self.kind.options)
        return ItemOutcome(
            item.id, item.group, float(said == self.kind.gold(item.row)), said, {"named": float(bool(said))}
        )

    def golds(self, item: Item) -> list[str]:
        """The right option."""
        return [self.kind.gold(item.row)]


@dataclass(frozen=True)
class BossLikelihood(_Boss):
    """Labels by the likelihood of the options: the probability of the right one is its companion."""

    metric: ClassVar[Metric] = ACCURACY

    @property
    def id(self) -> str:
        """``boss_NAME_likelihood``."""
        return f"{self.boss.name}_likelihood"

    @property
    def chance(self) -> float:
        """A guess among the options."""
        return 1 / len(self.kind.options)

    @property
    def protocol(self) -> str:
        """What the options are compared by."""
        return self._protocol("mean token likelihood of the options")

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One likelihood an option."""
        prompt = self.kind.prompt(item.row, item.shots)
        return [prompts.pair(prompt, f" {option}") for option in self.kind.options]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when the right option is the likeliest."""
        right = self.kind.options.index(self.kind.gold(item.row))
        return score_options(item, mean_token_likelihoods(responses), right, self.kind.options)

    def golds(self, item: Item) -> list[str]:
        """The right option."""
        return [self.kind.gold(item.row)]


@dataclass(frozen=True)
class BossAnswers(_Boss):
    """Answers out of a passage: exact match or token F1, the best over the accepted ones."""

    measure: Literal["em", "f1"] = "em"

    @property
    def id(self) -> str:
        """``boss_NAME`` or ``boss_NAME_f1``."""
        return self.boss.name if self.measure == "em" else f"{self.boss.name}_f1"

    @property
    def metric(self) -> Metric:
        """Exact match or F1."""
        return EXACT_MATCH if self.measure == "em" else TOKEN_F1

    @property
    def protocol(self) -> str:
        """The cap, and the measure."""
        what = "exact match" if self.measure == "em" else "token F1"
        return self._protocol(f"greedy, at most {self.kind.new_tokens} new tokens, normalised, {what}")

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy answer."""
        return self._answer(item, prompts)

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """The best over the accepted answers; the other measure is a companion."""
        said, golds = only(responses, GenerateResponse).text, answers_of(item.row)
        scores = {
            "em": float(any(normalized(said) == normalized(gold) for gold in golds)),
            "f1": max(token_f1(said, gold) for gold in golds),
        }
        return ItemOutcome(item.id, item.group, scores[self.measure], normalized(said), scores)

    def golds(self, item: Item) -> list[str]:
        """The accepted answers."""
        return answers_of(item.row)


@dataclass(frozen=True)
class BossEntities(_Boss):
    """Entities of a sentence: F1 over (type, words), mean over types."""

    metric: ClassVar[Metric] = ENTITY_F1

    @property
    def id(self) -> str:
        """``boss_NAME``."""
        return self.boss.name

    @property
    def protocol(self) -> str:
        """The cap, and the measure."""
        how = f"greedy, at most {self.kind.new_tokens} new tokens, F1 of (type, words), mean over types"
        return self._protocol(f"{how}; paper B's own is a stub")

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy answer."""
        return self._answer(item, prompts)

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """F1 of the item, and its facts for the whole. Entities are a set, as in the suite."""
        text = only(responses, GenerateResponse).text
        said = set(read_entities(text))
        meant = {(normalized(kind), normalized(words)) for kind, words in entities_of(item.row)}
        counts = [
            (len(said & meant & mine), len((said - meant) & mine), len((meant - said) & mine))
            for kind in ENTITY_TYPES
            for mine in [{each for each in said | meant if each[0] == kind}]
        ]
        facts = tuple(float(number) for each in counts for number in each)
        score = 2 * len(said & meant) / (len(said) + len(meant)) if said or meant else 1.0
        return ItemOutcome(item.id, item.group, score, " ".join(text.split()), facts=facts)


@dataclass(frozen=True)
class BossLoss(_Boss):
    """Mean loss of the right answer's tokens (of questions: of the first accepted answer)."""

    metric: ClassVar[Metric] = ANSWER_LOSS

    @property
    def id(self) -> str:
        """``boss_NAME_loss``."""
        return f"{self.boss.name}_loss"

    @property
    def protocol(self) -> str:
        """What is scored."""
        return self._protocol("mean token loss of the right answer")

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """The likelihood of the right answer."""
        return [prompts.pair(self.kind.prompt(item.row, item.shots), f" {self.kind.gold(item.row)}")]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """Nats a token."""
        response = only(responses, LikelihoodResponse)
        if not math.isfinite(response.logprob):
            return ItemOutcome(item.id, item.group, None, unscored=NOT_FINITE)
        return ItemOutcome(item.id, item.group, -response.logprob / response.n_tokens, str(int(response.greedy)))


def boss_tasks() -> list[BossLabels | BossLikelihood | BossAnswers | BossEntities | BossLoss]:
    """A row for every set and protocol."""
    found: list[BossLabels | BossLikelihood | BossAnswers | BossEntities | BossLoss] = []
    for each in SETS:
        if each.kind == "qa":
            found += [BossAnswers(each), BossAnswers(each, measure="f1"), BossLoss(each)]
        elif each.kind == "ner":
            found += [BossEntities(each), BossLoss(each)]
        else:
            found += [BossLabels(each), BossLikelihood(each)]
    return found
