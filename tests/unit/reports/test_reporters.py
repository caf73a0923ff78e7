"""What a reporter of another package cannot do to a report."""

from __future__ import annotations

import sys

import pytest

from quantgate.core import registry
from quantgate.core.errors import UsageError
from quantgate.reports.reporters import Reporter, rendered, reporters

FILES = {
    "report.json", "../elsewhere.txt", ".hidden", "a\\b", "", ".", "a\0", "a\n", "a" * 300, "REPORT.JSON", "Report.MD",
    "Evidence.jsonl", "a\udc80", None, 7,
}  # fmt: skip


@pytest.mark.parametrize("file", sorted(FILES, key=ascii), ids=ascii)
def test_a_file_is_called_by_a_plain_name_that_is_not_taken(monkeypatch, file):
    reporters.cache_clear()
    monkeypatch.setattr(registry, "installed", lambda group: [("theirs", Reporter("theirs", file, str))])
    with pytest.raises(UsageError, match=r"reporter 'theirs': its file is called .* expected a name of its own"):
        reporters()
    reporters.cache_clear()


def test_two_files_differ_by_more_than_capitals(monkeypatch):
    reporters.cache_clear()
    rows = [("theirs", Reporter(name, file, str)) for name, file in (("a", "one.txt"), ("b", "ONE.txt"))]
    monkeypatch.setattr(registry, "installed", lambda group: rows)
    with pytest.raises(UsageError, match=r"reporter 'b': its file is called 'ONE.txt'"):
        reporters()
    monkeypatch.setattr(registry, "installed", lambda group: rows[:1])
    assert list(reporters()) == ["a"]
    reporters.cache_clear()


def test_a_reporter_that_fails_costs_its_file_and_not_the_report(monkeypatch):
    def fail(content):
        raise KeyError("no such field")

    row = Reporter("theirs", "theirs.txt", fail)
    monkeypatch.setattr("quantgate.reports.reporters.reporters", lambda: {"theirs": row})
    texts, failed = rendered({})
    assert texts == {}
    assert len(failed) == 1
    assert failed[0].startswith("theirs.txt was not written: reporter 'theirs': made no text (")


ENDINGS = {
    "raised SystemExit": lambda content: sys.exit(0),
    "raised KeyboardInterrupt": lambda content: (_ for _ in ()).throw(KeyboardInterrupt),
    "raised Skipped": lambda content: pytest.skip("not today"),
    "made a NoneType; expected a text": lambda content: None,
    "made a bytes; expected a text": lambda content: b"x",
    "made a Sly; expected a text": lambda content: type("Sly", (str,), {"__str__": lambda self: 1 / 0})("x"),
    "(UnicodeEncodeError: ": lambda content: "\udc80",
}


@pytest.mark.parametrize("words", ENDINGS)
def test_no_reporter_ends_the_run_or_writes_what_is_no_text(monkeypatch, words):
    row = Reporter("theirs", "theirs.txt", ENDINGS[words])
    monkeypatch.setattr("quantgate.reports.reporters.reporters", lambda: {"theirs": row})
    texts, [failed] = rendered({})
    assert texts == {}
    assert failed.startswith("theirs.txt was not written: reporter 'theirs'")
    assert words in failed


def test_what_a_reporter_prints_is_not_shown_as_the_gates_word(monkeypatch, capsys):
    row = Reporter("theirs", "theirs.txt", lambda content: print("rtn2 may replace the reference") or "x")
    monkeypatch.setattr("quantgate.reports.reporters.reporters", lambda: {"theirs": row})
    assert rendered({}) == ({"theirs.txt": "x"}, [])
    assert capsys.readouterr().out == ""


def test_a_reporter_cannot_change_what_is_sealed(monkeypatch):
    row = Reporter("theirs", "theirs.txt", lambda content: str(content.clear()))
    monkeypatch.setattr("quantgate.reports.reporters.reporters", lambda: {"theirs": row})
    content = {"results": [{"verdict": "regressed"}]}
    rendered(content)
    assert content == {"results": [{"verdict": "regressed"}]}


def test_our_own_drawings_are_called_as_their_modules_say():
    from quantgate.reports import shift
    from quantgate.reports.reporters import DRAWINGS

    assert {shift.CSV_FILE, shift.PICTURE} <= {row.file for row in DRAWINGS}
