"""Which option does a free answer mean? The extraction cascades of paper A for MMLU (English) and C-Eval (Chinese).

Both go from strong to weak evidence and stop at the first step that finds a letter (spec of the steps: paper A's
repository, evaluation of the chat models):

0. option texts in the answer are replaced by their letters, the longest first;
1. "the answer is B", "choose B" (``答案是B``, ``选B``);
2. "B is correct" (``B选项正确``);
3. the answer begins with a letter;
4. the first letter that stands by itself;
5. the option whose text is most similar to the answer (rapidfuzz's WRatio, which is what thefuzz uses).

There is always a letter: an answer that says nothing is a guess, and step 5 says so. The cascades are kept with their
known errors, because figures are compared with the paper's: step 4 takes the article in "A cell ..." for an option, and
step 0 replaces the option "1" inside "12".
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Final

LETTERS: Final = "ABCD"
SIMILAR: Final = 5
"""The last step: nothing in the answer names an option."""

_GAP: Final = "[^ABCD]"

_ENGLISH: Final = tuple(
    re.compile(pattern, re.VERBOSE)
    for pattern in (
        rf"""(?: [Cc]hoose
               | (?:[Aa]nswer|[Cc]hoice) (?! {_GAP}{{0,20}}? (?:n't|not) )   # "the answer is not ..." tells nothing
                 {_GAP}{{0,10}}? \b (?:|is|:|be) \b )
             {_GAP}{{0,20}}? \b([ABCD])\b""",
        rf"""\b([ABCD])\b
             (?! {_GAP}{{0,8}}? (?:n't|not) {_GAP}{{0,5}}? (?:correct|right) )
             {_GAP}{{0,10}}? \b(?:correct|right)\b""",
        r"^([ABCD]) (?: [.,:] | $ )",
        r"(?<![a-zA-Z]) ([ABCD]) (?![a-zA-Z=])",
    )
)

_SAYS: Final = "(?:是|选|为|：|:|】)"
_RIGHT: Final = "(?:正确|对[的，。：]|符合)"
_CHINESE: Final = tuple(
    re.compile(pattern, re.VERBOSE)
    for pattern in (
        rf"""(?: (?:选|选择|选定) [：:]? \s*
               | (?:答案|选项) (?! {_GAP}{{0,10}}? (?:不|非) {_GAP}{{0,10}}? {_SAYS} )
                 {_GAP}{{0,10}}? {_SAYS} {_GAP}{{0,10}}? )
             ([ABCD]) (?:选项)? (?: [)）。．.，,、：:ABCD] | $ )""",
        rf"""([ABCD]) (?:选?项)?
             (?! {_GAP}{{0,4}}? (?:不|非) {_GAP}{{0,4}}? {_RIGHT} )
             {_GAP}{{0,4}}? {_RIGHT}""",
        r"^[(（]? ([ABCD]) (?: [。)）．.，,：:] | $ )",
        r"(?<![a-zA-Z]) ([ABCD]) (?![a-zA-Z=])",
    )
)


def stands_alone(text: str, word: str) -> bool:
    """Paper A's rule for SNLI and GSM8K: the first place where ``word`` occurs lies between edges.

    Edges are both ends of the text, whitespace, ASCII signs and Unicode punctuation (so a curly quotation mark is one,
    a pound sign is none), as in BERT's basic tokenizer.
    """
    start = text.find(word)
    if start < 0:
        return False
    around = (text[:start][-1:], text[start + len(word) :][:1])
    return all(not char or _is_edge(char) for char in around)


def _is_edge(char: str) -> bool:
    kind = unicodedata.category(char)
    return char in "\t\n\r" or kind == "Zs" or char in string.punctuation or kind.startswith("P")


def english_choice(response: str, question: str, options: Sequence[str]) -> tuple[str, int]:
    """The letter that ``response`` means, and the step that found it.

    ``question`` is not looked at; it is there so that both cascades are called alike. ``options``: four texts.
    """
    replaced = response
    for letter, text in _longest_first(options, "."):
        # through a function: a backslash in the replacement would be read as an escape
        replaced = re.sub(re.escape(text), lambda _, letter=letter: letter, replaced, flags=re.IGNORECASE)  # type: ignore[misc]
    return _cascade(_ENGLISH, replaced, options)


def chinese_choice(response: str, question: str, options: Sequence[str]) -> tuple[str, int]:
    """The letter that ``response`` means, and the step that found it.

    Models like to repeat the question as a sentence with the option in its blank: what stands before the blank becomes
    ``答案是`` (the answer is), what stands behind it goes.
    """
    pieces = question.rstrip("。").split("。")[-1].split("_")
    replaced = response
    if len(pieces[0].strip()) > 4:
        replaced = replaced.replace(pieces[0], "答案是")
    if len(pieces[-1].strip()) > 4:
        replaced = replaced.replace(pieces[-1], "")
    for letter, text in _longest_first(options, "。"):
        replaced = replaced.replace(text, letter)
    return _cascade(_CHINESE, replaced, options)


def _longest_first(options: Sequence[str], stop: str) -> list[tuple[str, str]]:
    texts = [(letter, text.rstrip(stop)) for letter, text in zip(LETTERS, options, strict=True)]
    return sorted(((letter, text) for letter, text in texts if text), key=lambda pair: -len(pair[1]))


def _cascade(patterns: Sequence[re.Pattern[str]], text: str, options: Sequence[str]) -> tuple[str, int]:
    for step, pattern in enumerate(patterns, start=1):
        found = pattern.search(text)
        if found:
            return found[1], step
    return LETTERS[_most_similar(text, options)], SIMILAR


def _most_similar(text: str, options: Sequence[str]) -> int:
    from rapidfuzz import fuzz, process, utils

    best = process.extractOne(text, options, scorer=fuzz.WRatio, processor=utils.default_process)
    return int(best[2])
