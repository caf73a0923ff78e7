"""How a written task turns a row into text: fields, templates and what they are evaluated to, as lm-eval does."""

from __future__ import annotations

from ast import literal_eval as spelled_out
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from quantgate.core.errors import DataError, translated
from quantgate.tasks.data import Row
from quantgate.tasks.written.rows import Place
from quantgate.tasks.written.templates import MOST, rendered

Template: TypeAlias = "str | int | tuple[str, ...]"
Content: TypeAlias = dict[str, Any]
_LEAST_OPTIONS: Final = 2
_DIGITS: Final = 9
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Form:
    """What a task file says of the question. Strings are a field's name or a template, as `text_of` reads them.

    ``options``: a field, a template of a list, or texts, each a template where ``each``. ``target``: a number, a field
    or a template: the right option's place, letter (only where ``lettered``) or text, or the right answer, or a list of
    them. ``between``: in front of an answer; ``behind``: behind a solved example; ``before``: in front of everything.
    """

    where: Place
    question: Template
    target: Template
    options: Template | None = None
    each: bool = False
    lettered: bool = False
    before: str = ""
    between: str = " "
    behind: str = "\n\n"
    group: str = ""
    examples: Place | None = None

    def choice(self, row: Row, where: str) -> Content:
        """``contexts``, ``options``, ``right`` and ``lengths`` of a row with options. Raises DataError."""
        options = self._options(row, where)
        question = self._number(text_of(self.question, row, where))
        target = target_of(self.target, row, where)
        before = rendered(self.before, row, where) if self.before else ""
        lengths = [len(option) for option in options]
        if isinstance(question, int):  # the options are contexts, and what follows is the same for all of them
            ending = str(target)
            return _checked(
                {"before": before, "contexts": options, "options": [ending] * len(options), "right": question}
                | {"lengths": lengths},
                where,
            )
        right = self._right(target, options)
        return _checked(
            {"before": before, "contexts": [str(question)] * len(options), "options": options, "right": right}
            | {"lengths": lengths},
            where,
        )

    def answer(self, row: Row, where: str) -> Content:
        """``question`` and the right ``answers`` of a row without options. Raises DataError."""
        question = text_of(self.question, row, where)
        target = target_of(self.target, row, where)
        if self.options is not None and isinstance(target, int):
            target = self._options(row, where)[target]
        answers = [str(each) for each in target] if isinstance(target, list) else [str(target)]
        if not isinstance(question, str) or not question or not answers:
            raise DataError(where, "no question, or no right answer", expected="both")
        before = rendered(self.before, row, where) if self.before else ""
        return {"before": before, "question": question, "answers": answers, "several": isinstance(target, list)}

    def _options(self, row: Row, where: str) -> list[str]:
        if isinstance(self.options, tuple):
            return [str(text_of(each, row, where)) for each in self.options] if self.each else list(self.options)
        found: Any = text_of(self.options or "", row, where)
        if isinstance(found, str):
            found = literal(found, where)
        if isinstance(found, dict):
            found = list(found.values())
        if not isinstance(found, list) or not all(isinstance(each, (str, int, float)) for each in found):
            raise DataError(where, f"the options are {str(found)[:80]!r}", expected="a list of texts")
        return [str(each) for each in found]

    def _right(self, target: Any, options: list[str]) -> Any:
        if isinstance(target, bool):
            return int(target)
        if isinstance(target, str):
            if target in options:
                return options.index(target)
            if not self.lettered:
                return target
            place = target.strip().upper()
            if len(place) == 1 and place in LETTERS:
                return LETTERS.index(place)
            return int(place) if place.isdecimal() and len(place) < _DIGITS else target
        return target

    @staticmethod
    def _number(question: Any) -> Any:
        return int(question) if isinstance(question, str) and question.isdecimal() else question


def _checked(content: Content, where: str) -> Content:
    right, options = content["right"], content["options"]
    if len(options) < _LEAST_OPTIONS or type(right) is not int or right not in range(len(options)):
        raise DataError(where, f"the right one of {len(options)} options is {right!r}", expected="one of at least two")
    return content


def text_of(template: Template, row: Mapping[str, Any], where: str) -> Any:
    """The value of the field called so; else what the template makes of the row."""
    if not isinstance(template, str):
        return template
    return row[template] if template in row else rendered(template, row, where)


def target_of(template: Template, row: Mapping[str, Any], where: str) -> Any:
    """As `text_of`; a text of digits is a number, and one in square brackets the list it spells out."""
    found = text_of(template, row, where)
    if isinstance(template, str) and template not in row and isinstance(found, str):
        if found.isdecimal():
            return int(found)
        if found.startswith("[") and found.endswith("]"):
            try:
                return literal(found, where)
            except DataError:
                return found
    return list(found) if isinstance(found, tuple) else found


def literal(text: str, where: str) -> Any:
    """The list, text or number that ``text`` spells out in Python's way. Raises DataError."""
    if len(text) > MOST:
        raise DataError(where, f"a value of {len(text)} letters", expected=f"at most {MOST}")
    with translated(where, f"{text[:80]!r} is no list of texts", kind=DataError, also=(Exception,)):
        return spelled_out(text.lstrip(" \t"))
