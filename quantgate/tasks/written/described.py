"""Read a task from TOML, strictly: what is misspelt, missing or of the wrong type is refused by its key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.errors import UsageError
from quantgate.core.naming import suggestion
from quantgate.core.reading import Unreadable
from quantgate.tasks.base import Task
from quantgate.tasks.corpora import CORPORA, Corpus
from quantgate.tasks.data import DataSource
from quantgate.tasks.written.answers import EXTRACTORS, Filter, Scorer
from quantgate.tasks.written.form import Form
from quantgate.tasks.written.rows import KINDS, Place, digest_of, read_text
from quantgate.tasks.written.tasks import Origin, WrittenAnswer, WrittenChoice, WrittenText
from quantgate.tasks.written.templates import check_template, pattern_of

SCHEMA: Final = 1
_COMMON: Final = ("schema", "name", "kind", "dimension", "quote", "rows", "dataset", "config", "split")
_ASKING: Final = ("question", "group", "shots", "examples", "before", "between", "behind")
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "multiple-choice": (*_COMMON, *_ASKING, "options", "right", "compare"),
    "answer": (
        *(*_COMMON, *_ASKING, "answer", "extractor", "pattern", "max_new_tokens", "stop", "chat"),
        *("ignore_case", "ignore_punctuation"),
    ),
    "perplexity": (*_COMMON, "text", "field", "joint", "segment", "segments"),
}
_COMPARE: Final = ("sum", "per-character", "both")
_NAMED: Final = ("whole", "first_line", "last_number", "pattern")


class Described:
    """One TOML file; ``tasks`` makes its rows of the table. Every fault is a UsageError that names file and key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = reading.read_text(path, reading.MOST_TOML)
            self.table = reading.parse_toml(text)
        except (OSError, Unreadable) as error:
            raise UsageError(f"task file {path}", f"cannot be read ({error})", expected="a task in TOML") from error
        self.digest = sha256(text.encode()).hexdigest()[:16]
        if self.table.get("schema") != SCHEMA or isinstance(self.table["schema"], bool):
            raise self.error("schema", repr(self.table.get("schema")), f"schema = {SCHEMA}")
        self.kind = self._one_of("kind", _KEYS)
        for key in self.table:
            if key not in _KEYS[self.kind]:
                raise UsageError(self._who(key), f"unknown key {key!r}", hint=suggestion(key, _KEYS[self.kind]))

    def tasks(self) -> list[Task]:
        """The task, and further ones that read the same answers."""
        if self.kind == "perplexity":
            return self._rolling()
        return self._choices() if self.kind == "multiple-choice" else [self._answer()]

    def error(self, key: str, found: str, expected: str) -> UsageError:
        """What to raise for a value that cannot be meant."""
        return UsageError(self._who(key), f"found {found}", expected=expected, hint="see docs/task-files.md")

    def _who(self, key: str) -> str:
        return f"task file {self.path.name}, {key}"

    # --- the kinds --------------------------------------------------------------------------------------------------

    def _choices(self) -> list[Task]:
        options = self.table.get("options")
        listed = isinstance(options, list) and all(isinstance(each, str) for each in options)
        if not listed and not isinstance(options, str):
            raise self.error("options", repr(options), "a field, a template of a list, or a list of texts")
        form = self._form("right", options=tuple(options) if isinstance(options, list) else options)
        compare = self._one_of("compare", _COMPARE, "sum")
        shots, name = self._count("shots", 0, 0), self._text("name", "")
        summed = WrittenChoice(name, form, self._origin(), shots, self._dimension())
        normed = replace(summed, id=f"{summed.id}_norm" if compare == "both" else summed.id, norm="characters")
        return [*([summed] if compare != "per-character" else []), *([normed] if compare != "sum" else [])]

    def _answer(self) -> Task:
        extractor = self._one_of("extractor", _NAMED, "whole")
        pattern = self.table.get("pattern")
        if (extractor == "pattern") != (pattern is not None):
            raise self.error(
                "pattern", repr(pattern), "a regular expression where extractor = 'pattern', and only there"
            )
        scorer = Scorer(
            extractor if extractor != "pattern" else "filters",
            self._filters(pattern),
            ignore_case=self._flag("ignore_case", True),
            ignore_punctuation=self._flag("ignore_punctuation", False),
        )
        chat = self._flag("chat", False)
        shots = self._count("shots", 0, 0)
        if chat and shots:
            raise self.error("shots", str(shots), "no examples in a chat turn")
        stop = self.table.get("stop", [])
        if not isinstance(stop, list) or not all(isinstance(each, str) and each for each in stop):
            raise self.error("stop", repr(stop), "a list of texts")
        return WrittenAnswer(
            self._text("name", ""), self._form("answer"), self._origin(), None if chat else shots, self._dimension(),
            scorer, self._count("max_new_tokens", 64, 1), tuple(stop), chat,
        )  # fmt: skip

    def _filters(self, pattern: Any) -> tuple[Filter, ...]:
        if pattern is None:
            return ()
        try:
            pattern_of(pattern)
        except (TypeError, ValueError) as error:
            raise self.error("pattern", str(error), "a regular expression") from error
        return (Filter("regex", pattern, -1, ""),)

    def _rolling(self) -> list[Task]:
        name = self._text("name", "")
        corpus = self._corpus(name)
        CORPORA[name] = corpus
        measured = WrittenText(name, name, "ppl", corpus.length, corpus.segments, origin=self._origin())
        return [measured, replace(measured, id=f"kld_{name}", measure="kld")]

    def _corpus(self, name: str) -> Corpus:
        length, segments = self._count("segment", 256, 2), self._count("segments", 140, 1)
        if (text := self.table.get("text")) is not None:
            path = self._file("text", text)
            described = f"the text {path.name}"
            return Corpus(name, described, described, lambda _: read_text(path), None, length, segments)
        place, field, joint = self._place(), self._text("field", "text"), self._text("joint", "\n\n")
        described = f"{place.described}, field {field}"

        def read(data: DataSource) -> str:
            rows = place.rows(data)
            if any(not isinstance(row.get(field), str) for row in rows):
                raise self.error("field", f"rows without a text in {field!r}", "a text in every row")
            return joint.join(row[field] for row in rows)

        return Corpus(name, described, described, read, None, length, segments)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _form(self, target: str, options: Any = None) -> Form:
        for key in ("question", target):
            if key not in self.table:
                raise self.error(key, "nothing", "a field's name or a template")
        for key, value in (("question", self.table["question"]), (target, self.table[target]), ("options", options)):
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str):
                    check_template(text, self._who(key))
                elif text is not None and not (key == target and type(text) is int):
                    raise self.error(key, repr(text), "a field's name or a template")
        before = self._text("before", "", empty=True)
        check_template(before, self._who("before"))
        return Form(
            self._place(), self.table["question"], self.table[target], options, each=True, lettered=True,
            before=before, between=self._text("between", " ", empty=True), behind=self._text("behind", "\n\n"),
            group=self._text("group", "", empty=True), examples=self._examples(),
        )  # fmt: skip

    def _place(self) -> Place:
        rows, dataset = self.table.get("rows"), self.table.get("dataset")
        if (rows is None) == (dataset is None):
            raise self.error(
                "rows", f"{rows!r} beside dataset {dataset!r}", f"a file ({', '.join(KINDS)}) or a dataset"
            )
        if dataset is not None:
            return Place(
                None, self._text("dataset", ""), self._text("config", "", empty=True), self._text("split", "test")
            )
        return Place(self._rows_file("rows", rows))

    def _examples(self) -> Place | None:
        found = self.table.get("examples")
        if found is None:
            return None
        if self.table.get("dataset") is not None and isinstance(found, str) and not found.endswith(KINDS):
            place = self._place()
            if found == place.split:
                raise self.error("examples", repr(found), "another split than the tested one")
            return Place(None, place.dataset, place.config, found)
        place = Place(self._rows_file("examples", found))
        if place == self._place():
            raise self.error("examples", repr(found), "another file than the tested one")
        return place

    def _rows_file(self, key: str, value: Any) -> Path:
        path = self._file(key, value)
        if path.suffix not in KINDS:
            raise self.error(key, repr(value), f"a file that ends in {' or '.join(KINDS)}")
        return path

    def _file(self, key: str, value: Any) -> Path:
        path = self.path.parent / value if isinstance(value, str) else None
        try:
            there = path is not None and path.is_file()
        except (OSError, ValueError):
            there = False
        if path is None or not there:
            raise self.error(key, f"{value!r}, which is no file", "a file beside the task file")
        if not path.resolve().is_relative_to(self.path.parent.resolve()):
            expected = "a file in the task file's folder or below it"
            raise self.error(key, f"{value!r}, which lies outside of the task file's folder", expected)
        return path

    def _origin(self) -> Origin:
        source = next((self.path.parent / self.table[key] for key in ("rows", "text") if key in self.table), None)
        carried = f"{source.name}, sha256 {digest_of(source)}" if source else ""
        return Origin(self.path.name, self.digest, carried, self._flag("quote", False))

    def _dimension(self) -> str:
        return self._one_of("dimension", ("knowledge", "alignment"), "knowledge")

    def _one_of(self, key: str, known: Any, default: str = "") -> str:
        found = self.table.get(key, default)
        if found not in list(known):
            raise self.error(key, repr(found), " or ".join(map(repr, known)))
        return str(found)

    def _text(self, key: str, default: str, *, empty: bool = False) -> str:
        found = self.table.get(key, default)
        if not isinstance(found, str) or (not found and not empty):
            raise self.error(key, repr(found), "a text")
        return found

    def _count(self, key: str, default: int, at_least: int) -> int:
        found = self.table.get(key, default)
        if type(found) is not int or found < at_least:
            raise self.error(key, repr(found), f"a whole number of at least {at_least}")
        return found

    def _flag(self, key: str, default: bool) -> bool:
        found = self.table.get(key, default)
        if not isinstance(found, bool):
            raise self.error(key, repr(found), "true or false")
        return found


assert set(_NAMED) <= set(EXTRACTORS)
