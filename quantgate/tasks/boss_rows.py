"""BOSS (Yuan et al. 2023): which sets there are, how their rows lie, and how paper B shows and asks them.

Five tasks of English, each with several sets from different places: the same question under another distribution. The
prompts are those of paper B's toolbox (MI-optimize, ``load_boss.py``), to the letter, and so is the text it calibrates
on. Its entity recognition is a stub; here it is asked in the same form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quantgate.core.errors import DataError
from quantgate.tasks.data import Fields, Row
from quantgate.tasks.lessons import Lessons

SENTIMENTS: Final = ("negative", "positive", "neutral")
RELATIONS: Final = ("entailment", "neutral", "contradiction")
TOXICITIES: Final = ("benign", "toxic")
ENTITY_TYPES: Final = ("person", "location", "organization", "miscellaneous", "art", "product", "event", "building")
NO_ENTITY: Final = "None"


@dataclass(frozen=True)
class Kind:
    """One of the five tasks.

    ``ask``, ``gold``: a row as a question, and what answers it. ``learn``: a row as calibration text. ``options``: what
    can be answered, by label. ``new_tokens``: paper B's cap. ``origin``: the field that rows of one origin share.
    """

    dataset: str
    domain: str
    fields: Fields
    instruction: str
    form: str
    ask: Callable[[Mapping[str, Any]], str]
    gold: Callable[[Mapping[str, Any]], str]
    learn: Callable[[Mapping[str, Any]], str]
    new_tokens: int
    options: tuple[str, ...] = ()
    origin: str = ""

    def prompt(self, row: Mapping[str, Any], shots: Sequence[Mapping[str, Any]]) -> str:
        """The whole prompt, up to where the answer begins."""
        solved = "".join(f"{self.ask(shot)} {self.gold(shot)}\n" for shot in shots)
        examples = f"### Example ###\n{solved}" if shots else ""
        head = f"### Instruction ###\n{self.instruction}\n### Format ###\n{self.form}\n"
        return f"{head}{examples}### Input ###\n{self.ask(row)}"

    def group(self, row: Mapping[str, Any], name: str) -> str:
        """Rows of one passage are not independent; a name that is the same for the same passage."""
        if not self.origin:
            return name
        return hashlib.sha256(str(row[self.origin]).encode(errors="surrogatepass")).hexdigest()[:16]

    def check(self, row: Row, where: str) -> None:
        """Raise DataError for a row that has no answer in the terms of the task."""
        try:
            self.gold(row)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise DataError(where, f"no answer in its terms ({error})", expected="the suite's own schema") from error


def _labelled(options: tuple[str, ...]) -> Callable[[Mapping[str, Any]], str]:
    def gold(row: Mapping[str, Any]) -> str:
        if row["Label"] not in range(len(options)):
            raise ValueError(f"label {row['Label']}")
        return options[int(row["Label"])]

    return gold


def answers_of(row: Mapping[str, Any]) -> list[str]:
    """The accepted answers of a question. Raises ValueError when there are none."""
    texts = row["answers"].get("text") or []
    if not texts:
        raise ValueError("no answer text")
    return list(texts)


def entities_of(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(type, words) of every entity, from BIO tags, in order."""
    found: list[tuple[str, list[str]]] = []
    before = "O"
    for token, tag in zip(row["tokens"], row["tags"], strict=True):
        mark, _, kind = str(tag).partition("-")
        if mark == "B" or (mark == "I" and before.partition("-")[2] != kind):
            found.append((kind, [token]))
        elif mark == "I":
            found[-1][1].append(token)
        before = str(tag)
    return [(kind, " ".join(words)) for kind, words in found]


def shown_entities(entities: Sequence[tuple[str, str]]) -> str:
    """``person: A, B || location: C``, types in the order in which they come first; ``None`` without entities."""
    by_type: dict[str, list[str]] = {}
    for kind, words in entities:
        by_type.setdefault(kind, []).append(words)
    return " || ".join(f"{kind}: {', '.join(words)}" for kind, words in by_type.items()) or NO_ENTITY


def _text_of(row: Mapping[str, Any]) -> str:
    return " ".join(row["tokens"])


_LABEL_FIELDS: Final[Fields] = {"Text": str, "Label": int}
_PAIR_FIELDS: Final[Fields] = {"Premise": str, "Hypothesis": str, "Label": int}
_sentiment, _relation, _toxicity = map(_labelled, (SENTIMENTS, RELATIONS, TOXICITIES))

KINDS: Final[Mapping[str, Kind]] = {
    "qa": Kind(
        "boss/qa", "questions about a passage", {"context": str, "question": str, "answers": dict},
        "Solve the extractive question answering task. Refering to the passage below and extract answer for the "
        "question. The answer should be the shortest phrase as it can be.",
        "Passage: {Passage} // Question: {Question} // Answer: {Answer}.",
        lambda row: f"Passage: {row['context']} // Question: {row['question']} // Answer:",
        lambda row: answers_of(row)[0],
        lambda row: f"Question:{row['question']} Context:{row['context']} Answer:{answers_of(row)}",
        5, origin="context",
    ),
    "sentiment": Kind(
        "boss/sentiment", "opinions with their sentiment", _LABEL_FIELDS,
        "Solve the sentiment analysis task. Options for sentiment: negative, positive, neutral.",
        "Text: {Text} // Prediction: {Prediction}",
        lambda row: f"Text: {row['Text']} // Prediction:",
        _sentiment, lambda row: f"Text:{row['Text']} Label:{_sentiment(row)}", 2, SENTIMENTS,
    ),
    "nli": Kind(
        "boss/nli", "premises and hypotheses with their relation", _PAIR_FIELDS,
        "Solve the NLI task. Options for entailment relationship: entailment, neutral, contradiction.",
        "Premise: {Premise} // Hypothesis: {Hypothesis} // Prediction: {Prediction}",
        # the toolbox writes "prediction" in small letters here, and in capitals in its examples
        lambda row: f"Premise: {row['Premise']} // Hypothesis: {row['Hypothesis']} // prediction:",
        _relation,
        lambda row: f"Premise:{row['Premise']} Hypothesis:{row['Hypothesis']} Label:{_relation(row)}",
        1, RELATIONS, "Premise",
    ),
    "toxic": Kind(
        "boss/toxic", "comments with their toxicity", _LABEL_FIELDS,
        "Solve the toxic detection task. Options for toxicity: benign, toxic.",
        "Text: {Text} // Prediction: {Prediction}",
        lambda row: f"Text: {row['Text']} // Prediction:",
        _toxicity, lambda row: f"Text:{row['Text']} Label:{_toxicity(row)}", 1, TOXICITIES,
    ),
    "ner": Kind(
        "boss/ner", "sentences with their entities", {"tokens": list, "tags": list},
        f"Solve the named entity recognition task. Options for entity types: {', '.join(ENTITY_TYPES)}.",
        "Text: {Text} // Entity: {Type}: {Words}, {Words} || {Type}: {Words}",
        lambda row: f"Text: {_text_of(row)} // Entity:",
        lambda row: shown_entities(entities_of(row)),
        lambda row: f"Text:{_text_of(row)} Label:{shown_entities(entities_of(row))}",
        50,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class BossSet:
    """One set of a task: ``config`` is its folder. ``stands_for``: what is not the suite's own, in a few words.

    ``stock``: see `Lessons`.
    """

    kind: str
    config: str
    stands_for: str = ""
    stock: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``boss_`` and the folder: the task's name, and that of its calibration set."""
        return f"boss_{self.config}"

    @property
    def lessons(self) -> Lessons:
        """Its rows beside the tested ones, literally as paper B calibrates on them.

        Passages of questions that stand in any tested set of the task are left out: advqa and squad share articles.
        """
        kind = KINDS[self.kind]
        tested = [each for each in SETS if each.kind == self.kind] if self.kind == "qa" else []
        return Lessons(
            kind.dataset, (self.config,), ("train", "validation"), kind.fields, lambda _, row: kind.learn(row),
            f"{kind.domain} ({self.config})", apart=tuple((each.config, "test", kind.origin) for each in tested),
            stock=self.stock,
        )  # fmt: skip


SETS: Final = (
    BossSet("qa", "squad"),
    BossSet("qa", "advqa"),
    BossSet("qa", "newsqa"),
    BossSet("qa", "searchqa"),
    BossSet("sentiment", "amazon"),
    BossSet("sentiment", "dynasent"),
    BossSet("sentiment", "semeval"),
    BossSet("sentiment", "sst5"),
    BossSet("sentiment", "amazon_marc", "not in the suite: the multilingual Amazon corpus, balanced"),
    BossSet("nli", "mnli"),
    BossSet("nli", "anli"),
    BossSet("nli", "wanli"),
    BossSet("nli", "contract_nli", stock=("Hypothesis",)),  # one of 17 sentences
    BossSet("toxic", "civil_comments"),
    BossSet("toxic", "adv_civil"),
    BossSet("toxic", "implicit_hate"),
    BossSet("toxic", "toxigen"),
    BossSet("ner", "fewnerd"),
    BossSet("ner", "fewnerd_inter", "not in the suite: Few-NERD with 36 of its 66 types labelled"),
    BossSet("ner", "conll"),
    BossSet("ner", "ener"),
    BossSet("ner", "wnut"),
)
