"""The kinds of calibration sources: dialogues, running text, rows of a data set, files, mixtures, random tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from quantgate.core import reading
from quantgate.core.errors import DataError, UsageError
from quantgate.core.reading import Unreadable
from quantgate.quantize.calibration.protocol import CalibrationSource, Desk
from quantgate.quantize.calibration.samples import (
    Documents,
    Drawn,
    Want,
    packed,
    segments,
    shares,
    whole,
)
from quantgate.tasks.data import DataSource, Fields
from quantgate.tasks.lessons import Lessons
from quantgate.tasks.prompts import Prompts

_BLANK_LINE: Final = "\n\n"
_MOST_FILE: Final = 1 << 28  # bytes of a text that a user brings along


def _who(name: str) -> str:
    return f"calibration set {name!r}"


def documents_of(texts: list[str], origin: str, prompts: Prompts, joint: str = _BLANK_LINE) -> Documents:
    """Texts as the model reads them; empty ones are left out."""
    kept = [text for text in texts if text.strip()]
    return Documents(
        kept, [prompts.piece(text) for text in kept], origin, prompts.first, prompts.piece(joint) if joint else ()
    )


def _where(dataset: str, config: str, split: str, data: DataSource) -> str:
    return f"{dataset if data.name != 'hub' else data.origin(dataset)} {config}, split {split}"


@dataclass(frozen=True)
class Dialogues:
    """Whole chat dialogues of the bundled data, at native length (paper A), or packed where a budget is asked for."""

    name: str = "dialogues"
    domain: ClassVar[str] = "chat"
    language: ClassVar[str] = "English"
    places: ClassVar[tuple[tuple[str, str], ...]] = ()
    chat: ClassVar[bool] = True
    dataset: ClassVar[str] = "quantgate/dialogues"

    def lacking(self, data: DataSource) -> str:
        """Nothing: they are always at hand."""
        del data
        return ""

    def count(self, bundled: DataSource) -> int:
        """How many dialogues there are to draw from."""
        return len(self._rows(bundled))

    def samples(self, desk: Desk, want: Want) -> Drawn:
        """As many whole dialogues as samples are asked for, or samples cut from dialogues in a seeded order."""
        if want.packed:
            return packed(self._documents(desk), want, _who(self.name), desk.leaking)
        return whole(self._documents(desk), want, _who(self.name), desk.leaking)

    def capacity(self, desk: Desk, length: int) -> int:
        """How many samples the joined dialogues fill."""
        return self._documents(desk).capacity(length)

    def _rows(self, bundled: DataSource) -> list[Any]:
        return [row["messages"] for row in bundled.rows(self.dataset, "default", "train", {"messages": list})]

    def _documents(self, desk: Desk) -> Documents:
        rows = self._rows(desk.bundled)
        tokens = [desk.prompts.dialogue(messages) for messages in rows]
        return Documents([_content(messages) for messages in rows], tokens, f"{self.dataset} default, split train")


def _content(messages: list[Mapping[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)


class _TrainSplit:
    """A source that reads the train split of one data set: the test splits are what is measured on."""

    dataset: str
    config: str
    split: ClassVar[str] = "train"

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """The data set."""
        return ((self.dataset, self.config),)

    def lacking(self, data: DataSource) -> str:
        """The train split, where ``data`` is a directory without it."""
        there = data.name == "hub" or self.split in data.splits(self.dataset, self.config)
        return "" if there else f"data {data.name!r} has no {place_of(self.dataset, self.config, self.split)}"


@dataclass(frozen=True)
class RunningText(_TrainSplit):
    """The train split of a corpus, joined; samples are segments at seeded positions (GPTQ's convention)."""

    name: str
    domain: str
    dataset: str
    config: str
    field: str
    joint: str
    language: ClassVar[str] = "English"
    chat: ClassVar[bool] = False

    def samples(self, desk: Desk, want: Want) -> Drawn:
        """Segments of the joined text, each behind what the tokenizer puts in front of texts."""
        rows = desk.data.rows(self.dataset, self.config, self.split, {self.field: str})
        tokens = desk.prompts.plain(self.joint.join(row[self.field] for row in rows))
        return running(tokens, desk.prompts, want, self.name, _where(self.dataset, self.config, self.split, desk.data))

    def capacity(self, desk: Desk, length: int) -> int:
        """How many segments of that length lie in the text side by side."""
        rows = desk.data.rows(self.dataset, self.config, self.split, {self.field: str})
        tokens = desk.prompts.plain(self.joint.join(row[self.field] for row in rows))
        return len(tokens) // max(1, length - len(desk.prompts.first))


def running(tokens: tuple[int, ...], prompts: Prompts, want: Want, name: str, origin: str) -> Drawn:
    """Segments of a running text at seeded positions."""
    first = prompts.first
    cuts = segments(tokens, want.n_samples, want.length - len(first), want.seed, _who(name))
    samples = tuple((*first, *cut) for cut in cuts)  # as in the perplexity tasks: some models need their first token
    return Drawn(samples, tuple(prompts.decode(cut) for cut in cuts), origin, len(tokens))


def place_of(dataset: str, config: str, split: str) -> str:
    """Where a data directory holds a split, for messages."""
    return f"{dataset.replace('/', '__')}/{config}/{split}.jsonl"


@dataclass(frozen=True)
class LearnedRows:
    """Rows of a benchmark that are never scored, as text (`Lessons`), packed into samples."""

    name: str
    lessons: Lessons
    chat: ClassVar[bool] = False

    @property
    def domain(self) -> str:
        """That of the rows."""
        return self.lessons.domain

    @property
    def language(self) -> str:
        """That of the rows."""
        return self.lessons.language

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Its configurations; an empty name stands for all of the dataset."""
        return tuple((self.lessons.dataset, config) for config in self.lessons.configs or ("",))

    def lacking(self, data: DataSource) -> str:
        """The dataset, or a split that is not tested."""
        return self.lessons.lacking(data)

    def samples(self, desk: Desk, want: Want) -> Drawn:
        """Rows in a seeded order, joined by blank lines and cut."""
        return packed(self._documents(desk), want, _who(self.name), desk.leaking)

    def capacity(self, desk: Desk, length: int) -> int:
        """How many samples all rows fill."""
        return self._documents(desk).capacity(length)

    def _documents(self, desk: Desk) -> Documents:
        texts, origin = self.lessons.texts(desk.data)
        named = origin if desk.data.name != "hub" else f"{desk.data.origin(self.lessons.dataset)}: {origin}"
        return documents_of(texts, named, desk.prompts)


@dataclass(frozen=True)
class Instructions(_TrainSplit):
    """Instruction data rendered as whole ChatML dialogues, as in paper A's code, at native length or packed."""

    name: str
    dataset: str
    config: str = "default"
    domain: ClassVar[str] = "instructions with answers of GPT-4, ChatML"
    language: ClassVar[str] = "English"
    chat: ClassVar[bool] = False  # the markup is written out: a tokenizer without it reads it as plain text
    fields: ClassVar[Fields] = {"instruction": str, "input": str, "output": str}

    def samples(self, desk: Desk, want: Want) -> Drawn:
        """Whole dialogues drawn without replacement; with a budget, cut from dialogues in a seeded order."""
        documents = self._documents(desk)
        if want.packed:
            return packed(documents, want, _who(self.name), desk.leaking)
        return whole(documents, want, _who(self.name), desk.leaking)

    def capacity(self, desk: Desk, length: int) -> int:
        """How many samples the joined dialogues fill."""
        return self._documents(desk).capacity(length)

    def _documents(self, desk: Desk) -> Documents:
        rows = desk.data.rows(self.dataset, self.config, self.split, self.fields)
        origin = _where(self.dataset, self.config, self.split, desk.data)
        return documents_of([chatml(row) for row in rows], origin, desk.prompts, joint="")


def chatml(row: Mapping[str, Any]) -> str:
    """Paper A's dialogue: system, instruction (a blank line and the input behind it), answer, all ended."""
    asked = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
    turns = (("system", "You are a helpful assistant."), ("user", asked), ("assistant", row["output"]))
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


@dataclass(frozen=True)
class OwnText:
    """A text that the user brings: ``FILE.txt`` is running text, ``FILE.jsonl`` (``:FIELD``) holds documents."""

    path: Path
    field: str = ""
    domain: ClassVar[str] = "the user's own text"
    language: ClassVar[str] = "not stated"
    places: ClassVar[tuple[tuple[str, str], ...]] = ()
    chat: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The file's own name, and the beginning of its digest: two files may be called the same."""
        return f"{self.path.name}-{self._digest[:8]}"

    @property
    def _digest(self) -> str:
        return hashlib.sha256(reading.read_bytes(self.path, _MOST_FILE)).hexdigest()

    def lacking(self, data: DataSource) -> str:
        """The file, when it is not there."""
        del data
        return "" if self.path.is_file() else f"{self.path} is no file"

    def samples(self, desk: Desk, want: Want) -> Drawn:
        """Segments of a text, or documents in a seeded order, joined and cut."""
        if not self.field:
            return running(desk.prompts.plain(self._text()), desk.prompts, want, self.name, self.path.name)
        return packed(documents_of(self.texts(), self.path.name, desk.prompts), want, _who(self.name), desk.leaking)

    def capacity(self, desk: Desk, length: int) -> int:
        """How many samples the text fills."""
        if not self.field:
            return len(desk.prompts.plain(self._text())) // max(1, length - len(desk.prompts.first))
        return documents_of(self.texts(), self.path.name, desk.prompts).capacity(length)

    def whole(self, prompts: Prompts, length: int) -> list[tuple[int, ...]]:
        """All of the text in samples of ``length`` tokens, the last one shorter; documents one after the other."""
        texts = self.texts() if self.field else [self._text()]
        body = max(1, length - len(prompts.first))
        rows = [prompts.piece(text) for text in texts]
        return [(*prompts.first, *row[at : at + body]) for row in rows for at in range(0, len(row), body)]

    def texts(self) -> list[str]:
        """The field of every line. Raises DataError naming line and field."""
        found = []
        for number, line in enumerate(self._text().rstrip("\n").split("\n"), start=1):
            where = f"{self.path.name}, line {number}"
            try:
                row = reading.parse_object(line, reading.MOST_LINE)
            except Unreadable as error:
                raise DataError(where, str(error), expected="a JSON object") from error
            if not isinstance(row.get(self.field), str):
                names = ", ".join(sorted(row)[:8])
                hint = f"name the field with the text: --calibration {self.path.name}:FIELD (fields here: {names})"
                raise DataError(where, f"no text in field {self.field!r}", expected="a text in every line", hint=hint)
            found.append(row[self.field])
        return found

    def _text(self) -> str:
        try:
            return reading.read_text(self.path, _MOST_FILE)
        except (OSError, Unreadable) as error:
            raise DataError(f"--calibration {self.path}", f"cannot be read ({error})", expected="UTF-8 text") from error


@dataclass(frozen=True)
class RandomTokens:
    """Tokens of ordinary text, each as likely as any other: the control that every text should beat."""

    name: str = "random"
    domain: ClassVar[str] = "uniformly random tokens (control)"
    language: ClassVar[str] = "none"
    places: ClassVar[tuple[tuple[str, str], ...]] = ()
    chat: ClassVar[bool] = False

    def lacking(self, data: DataSource) -> str:
        """Nothing."""
        del data
        return ""

    def samples(self, desk: Desk, want: Want) -> Drawn:
        """Independent tokens behind what the tokenizer puts in front of texts. They share no text with anything."""
        vocabulary, first = np.asarray(desk.prompts.encoding.plain_tokens), desk.prompts.first
        shape = (want.n_samples, max(1, want.length - len(first)))
        rows = vocabulary[np.random.default_rng(want.seed).integers(0, len(vocabulary), size=shape)]
        return Drawn(tuple((*first, *map(int, row)) for row in rows), (), "drawn from the vocabulary")

    def capacity(self, desk: Desk, length: int) -> int:
        """Without end."""
        del desk, length
        return 1 << 30


@dataclass(frozen=True)
class Mixture:
    """Samples of several sources, by weights that say how many of the samples are whose."""

    parts: tuple[tuple[CalibrationSource, float], ...]

    @property
    def name(self) -> str:
        """``a*0.25+b*0.75``."""
        return "+".join(f"{source.name}*{weight:g}" for source, weight in self.parts)

    @property
    def domain(self) -> str:
        """Of its parts."""
        return " + ".join(source.domain for source, _ in self.parts)

    @property
    def language(self) -> str:
        """Of its parts."""
        return " + ".join(dict.fromkeys(source.language for source, _ in self.parts))

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """None: a mixture is nobody's own distribution."""
        return ()

    @property
    def chat(self) -> bool:
        """Whether one of its parts needs a chat template."""
        return any(source.chat for source, _ in self.parts)

    def lacking(self, data: DataSource) -> str:
        """What the first part lacks that lacks something."""
        return next((lacking for source, _ in self.parts if (lacking := source.lacking(data))), "")

    def samples(self, desk: Desk, want: Want) -> Drawn:
        """The parts' samples, one part after the other."""
        counts = shares([weight for _, weight in self.parts], want.n_samples)
        drawn = [
            source.samples(desk, Want(count, want.length, want.seed, want.packed))
            for (source, _), count in zip(self.parts, counts, strict=True)
            if count
        ]
        samples = tuple(sample for each in drawn for sample in each.samples)
        texts = tuple(text for each in drawn for text in each.texts)
        return Drawn(samples, texts, " + ".join(each.origin for each in drawn), sum(each.pool for each in drawn))

    def capacity(self, desk: Desk, length: int) -> int:
        """As many samples as the scarcest part allows at these weights."""
        total = sum(weight for _, weight in self.parts)
        return min(int(source.capacity(desk, length) * total / weight) for source, weight in self.parts)


def parse_mixture(text: str, source_called: Callable[[str], CalibrationSource]) -> Mixture:
    """``a*0.25+b*0.75``; without weights all parts weigh the same. Raises UsageError."""
    parts = []
    for part in text.split("+"):
        name, _, number = part.partition("*")
        try:
            weight = float(number) if number else 1.0
        except ValueError:
            weight = -1.0
        if not name or not 0 < weight < float("inf"):
            raise UsageError(
                f"--calibration {text}", f"the part {part!r}", expected="NAME or NAME*WEIGHT, the weight above 0"
            )
        parts.append((source_called(name), weight))
    return Mixture(tuple(parts))
