"""Sentences are folded for a terminal only, and names and paths in them stay whole."""

import io

import pytest

from quantgate.core.words import folded, for_stream

PATH = "/a/directory/with-hyphens/" + "x" * 60
TEXT = f"the report directory {PATH} is written by another run; choose another one with --report-dir"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [40, 79])
def test_paths_and_options_stay_whole(width):
    lines = folded(TEXT, width)
    assert len(lines) > 1
    assert " ".join(line.strip() for line in lines) == TEXT
    assert all(len(line) <= width or PATH in line for line in lines)
    assert any(PATH in line for line in lines)


def test_lines_that_were_made_stay():
    assert folded("one\n\ntwo", 40) == ["one", "", "two"]


def test_a_log_gets_one_line_and_a_terminal_several():
    assert for_stream(TEXT, io.StringIO()) == TEXT
    words = "word " * 40
    lines = for_stream(words, Terminal(), before=7).split("\n")
    assert 7 + len(lines[0]) <= 79
    assert all(len(line) <= 79 for line in lines)
    assert " ".join(" ".join(lines).split()) == words.strip()
