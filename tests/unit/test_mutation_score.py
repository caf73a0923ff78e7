"""The random mutants of benchmarks/mutation_score.py meet tests, wherever they are."""

import argparse
import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks import mutation_score
from benchmarks.mutation_score import ROOT, Change, Runner, files_of_rooms, near_tests


@pytest.fixture(scope="module")
def runner():
    made = Runner(argparse.Namespace(), set(), ROOT)
    made.items = [SimpleNamespace(path=path, nodeid=path.name) for path in near_tests()]
    made.texts = {item.path: item.path.read_text(encoding="utf-8") for item in made.items}
    return made


def test_files_meet_tests(runner):
    files = [file for file in files_of_rooms() if "/comparators/" in file] + files_of_rooms()[::9]
    files = [file for file in files if not file.endswith("__init__.py")]
    assert len(files) > 8
    assert [file for file in files if not runner.near(file)] == []


def test_the_nearest_tests_come_first(runner):
    assert runner.near("quantgate/verdict/guided.py")[0].nodeid == "test_guided.py"
    near = {item.nodeid for item in runner.near("quantgate/verdict/comparators/means.py")}  # nobody imports it directly
    assert {"test_paired.py", "test_judge.py"} <= near


def test_a_mutant_that_meets_no_test_is_untested_and_not_broken(runner, monkeypatch):
    monkeypatch.setattr(Runner, "near", lambda self, file: [])
    monkeypatch.setattr(Runner, "_apply", lambda self, file, new: True)
    told, left = [], []
    monkeypatch.setattr(mutation_score.os, "write", lambda pipe, text: told.append(text))
    monkeypatch.setattr(mutation_score.os, "_exit", left.append)
    runner._meet(Change("a.py", "operator", 0, 1), {}, 0)
    assert (told, left) == ([b"0 of 0 tests"], [mutation_score.LEFT])


def test_what_was_tried_again_counts_once(tmp_path, monkeypatch, capsys):
    row = {"file": "quantgate/verdict/judge.py", "operator": "o", "occurrence": 0, "line": 1, "was": "", "now": ""}
    ends = [row | {"end": "broken", "by": "Traceback"}, row | {"end": "noticed", "by": "a test"}]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ends))
    monkeypatch.setattr(sys, "argv", ["mutation_score.py", "--out", str(tmp_path), "--table"])
    assert mutation_score.main() == 0
    assert "| all | 1 | 1 | 0 | 100.0 |" in capsys.readouterr().out
