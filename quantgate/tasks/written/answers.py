"""What of a free answer counts, and when it is right: extractors by name, and the filters of lm-eval."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from quantgate.core.errors import DataError
from quantgate.tasks.gsm8k import last_number
from quantgate.tasks.written.templates import found_in, substituted

EXTRACTORS: Final = ("whole", "first_line", "last_number", "pattern", "filters")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_DIGITS: Final = str.maketrans("", "", string.digits)
_INVALID: Final = "[invalid]"


@dataclass(frozen=True)
class Filter:
    """A step of lm-eval's: ``regex`` (with its pattern, group and fallback), ``remove_whitespace``, ``lowercase``."""

    function: str
    pattern: str = ""
    group: int = 0
    fallback: str = _INVALID

    def __call__(self, text: str) -> str:
        """The text after this step."""
        if self.function == "remove_whitespace":
            return text.strip()
        if self.function in ("lowercase", "uppercase"):
            return text.lower() if self.function == "lowercase" else text.upper()
        found = found_in(self.pattern, text)
        if not found:
            return self.fallback
        match = found[self.group] if -len(found) <= self.group < len(found) else self.fallback
        if isinstance(match, tuple):
            match = next((each for each in match if each), self.fallback)
        return str(match).strip()


@dataclass(frozen=True)
class Scorer:
    """``extractor``: one of `EXTRACTORS`; the rest says which differences from a right answer do not count."""

    extractor: str = "whole"
    filters: tuple[Filter, ...] = ()
    ignore_case: bool = True
    ignore_punctuation: bool = False
    ignore_numbers: bool = False
    ignore: tuple[str, ...] = ()
    strip: bool = True

    def __str__(self) -> str:
        return self.extractor if self.extractor != "filters" else "lm-eval's filters"

    def check(self, answers: Sequence[str], where: str) -> None:
        """Raise DataError where no answer could be right, or any."""
        if empty := [answer for answer in answers if self.extractor != "last_number" and not self.normal(answer)]:
            found = f"nothing is left of the right answer {empty[0][:80]!r} once what is ignored is taken out"
            raise DataError(where, found, expected="a right answer that can be told from others")
        if self.extractor == "last_number":
            for answer in answers:
                try:
                    Decimal(answer.replace(",", ""))
                except InvalidOperation as error:
                    raise DataError(where, f"the right answer is {answer[:80]!r}", expected="a number") from error

    def score(self, text: str, answers: Sequence[str]) -> tuple[str, bool]:
        """What was taken out of ``text``, and whether it is one of ``answers``."""
        if self.extractor == "last_number":
            found = [last_number(text, answer.replace(",", "")) for answer in answers]
            return next((each for each in found if each[1]), found[0])
        taken = self._taken(text)
        return taken, self.normal(taken) in [self.normal(answer) for answer in answers]

    def _taken(self, text: str) -> str:
        if self.extractor == "first_line":
            return text.strip().partition("\n")[0].strip()
        for step in self.filters:
            text = step(text)
        return text.strip() if self.strip else text

    def normal(self, text: str) -> str:
        """The text less what does not count."""
        for pattern in self.ignore:
            text = substituted(pattern, "", text)
        text = text.lower() if self.ignore_case else text
        text = text.translate(_PUNCTUATION) if self.ignore_punctuation else text
        text = text.translate(_DIGITS) if self.ignore_numbers else text
        return " ".join(text.split()) if self.strip else text
