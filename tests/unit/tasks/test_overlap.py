"""Calibration text apart from tested text."""

import pytest

from quantgate.errors import DataError
from quantgate.tasks.overlap import check_disjoint, texts_of, windows

WORDS = [f"word{index}" for index in range(30)]


def test_thirteen_shared_words_are_found():
    shared = " ".join(WORDS[5:18])
    with pytest.raises(DataError, match=r"'mine'.*text 1 shares 13 words in a row with the test item q/7"):
        check_disjoint(["nothing here", " ".join(WORDS)], "mine", [("q/7", f"Before. {shared.upper()}, after")])


def test_twelve_are_not():
    check_disjoint([" ".join(WORDS)], "mine", [("q/7", "before " + " ".join(WORDS[5:17]) + " after")])


def test_short_texts_have_no_window():
    assert windows("a b c") == set()
    assert len(windows(" ".join(WORDS))) == 18


def test_texts_of_nested_rows():
    assert list(texts_of({"a": "x", "b": ["y", {"c": "z"}], "n": 1})) == ["x", "y", "z"]
