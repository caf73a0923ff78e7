"""What a run says of a part of its plan, and what it leaves in the report's directory, whatever becomes of it."""

import json

import pytest

from quantgate.cli import main
from quantgate.reports.directory import ReportDirectory

TASKS = ("--tasks", "kld,perplexity")


def said(result):
    return "\n".join([*result.stdout.lines, *result.stderr.lines])


def test_a_whole_method_may_be_selected_but_no_part_of_it_passes(gate):
    methods = ("--methods", "rtn8,gptq8")
    whole = gate.run(*TASKS, *methods, "-k", "rtn8")
    assert whole.ret == 0
    whole.stdout.fnmatch_lines(
        [
            "judged 2 of 2 selected cases, 2 allowed; 4 were planned, not selected: 1 method (gptq8)",
            "rtn8 may replace the reference: it passes all 2 cases (fidelity: *kld_ptb*)*",
        ]
    )
    part = gate.run(*TASKS, *methods, "-k", "rtn8 and kld")
    assert part.ret == 0
    assert "may replace" not in said(part)
    part.stdout.fnmatch_lines(
        ["rtn8 is not decided: it passes the 1 judged (fidelity: kld_ptb); 1 (perplexity_ptb) of 2 planned cases *"]
    )
    assert gate.report["decisions"][0]["left_out"] == ["perplexity_ptb"]


@pytest.mark.parametrize("way", ["drop", "deselect"])
def test_cases_that_a_plugin_takes_out_are_missed(gate, monkeypatch, way):
    monkeypatch.setenv("QUANTGATE_HOSTILE", way)
    result = gate.run(*TASKS, "-p", "tests.suite.hostile")
    assert "may replace" not in said(result)
    result.stdout.fnmatch_lines(["rtn8 is not decided: *1 (*_ptb) of 2 planned cases were not judged*"])


def test_bytes_alone_replace_nothing(gate, policy):
    policy.write_text(policy.read_text() + "[metrics.weight_bytes]\nmargin = { relative = 0.5 }\n")
    result = gate.run("--tasks", "weight_bytes")
    assert "may replace" not in said(result)
    result.stdout.fnmatch_lines(["rtn8 is not decided: *no answer of the two models*"])


@pytest.fixture
def old_report(gate):
    """A green report of an earlier run."""
    path = gate.base["--report-dir"]
    path.mkdir()
    for name in ("report.json", "report.md", "evidence.jsonl", "roofline.svg"):
        (path / name).write_text('{"status": "finished", "decisions": ["may replace"]}')
    return path


@pytest.mark.parametrize("typo", [("--policy", "nowhere.toml"), ("--methods", "gtpq4")])
def test_a_refused_command_costs_no_report(gate, old_report, typo):
    """Nothing ran: the report says of which run it is, and when that was."""
    before = {path.name: path.read_text() for path in old_report.iterdir()}
    assert gate.run(*typo).ret == 4
    assert {path.name: path.read_text() for path in old_report.iterdir() if path.name[0] != "."} == before


def test_verify_calls_a_run_that_did_not_finish_unfinished(tmp_path, capsys):
    content = {"status": "unfinished", "run": {"started": "2026-01-02T03:04:05+00:00"}}
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert main(["verify", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("unfinished: the run that started 2026-01-02T03:04:05+00:00 did not finish")
    assert "contradicted" not in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"schema": 3, "evidence": []}, "a field holds something of another kind than a run writes there"),
        ({"schema": 3}, "it has no 'evidence'"),
    ],
)
def test_verify_says_in_words_what_is_wrong_with_a_report(tmp_path, capsys, content, words):
    (tmp_path / "report.json").write_text(json.dumps(content))
    (tmp_path / "evidence.jsonl").write_text("")
    assert main(["verify", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "Error" not in said


def test_a_run_that_selects_nothing_leaves_no_old_report(gate, old_report):
    assert gate.run("-k", "no_such_method").ret == 5
    assert gate.report["status"] == "empty"
    assert gate.report["run"]["exit"] == 5
    assert "may replace" not in (old_report / "report.md").read_text()


@pytest.mark.parametrize("option", ["--collect-only", "--co"])
def test_a_list_that_was_asked_for_is_no_report_and_no_failure(gate, old_report, option):
    before = (old_report / "report.json").read_text()
    result = gate.run(option)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["listed * planned cases; nothing was judged"])
    assert (old_report / "report.json").read_text() == before


@pytest.mark.parametrize("where", ["environment", "ini"])
def test_a_list_that_the_command_does_not_ask_for_is_not_green(gate, old_report, monkeypatch, where):
    before = (old_report / "report.json").read_text()
    if where == "environment":
        monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
    result = gate.run(*(["-o", "addopts=--collect-only --import-mode=importlib"] if where == "ini" else []))
    assert result.ret == 1
    result.stdout.fnmatch_lines(["not judged: *--collect-only, which is not on the command line: see PYTEST_ADDOPTS*"])
    assert (old_report / "report.json").read_text() == before


def test_a_typo_in_k_is_answered(gate):
    result = gate.run("--methods", "rtn8", "-k", "rnt8")
    assert result.ret == 5
    result.stdout.fnmatch_lines(
        ["nothing was selected of * planned cases, so nothing was judged; did you mean 'rtn8'[?]"]
    )


def test_two_runs_do_not_share_a_directory(gate):
    other = ReportDirectory(gate.base["--report-dir"])
    other.begin(json.dumps({"status": "unfinished", "run": {"id": other.id, "started": other.started}}))
    result = gate.run()
    other.release()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*another run is writing its report there*--report-dir*"])
    assert gate.report["run"]["id"] == other.id


def test_help_touches_nothing(gate, old_report):
    before = (old_report / "report.json").read_text()
    assert gate.run("--help").ret == 0
    assert gate.run("--fixtures", "-q").ret == 0
    assert (old_report / "report.json").read_text() == before


def test_items_that_cannot_pass_whatever_they_answer_are_told_of_before_anything_is_asked(gate):
    result = gate.run("--tasks", "truthfulqa")
    note = (
        "*truthfulqa: 6 items can show a loss but no pass, not even of a model that lost nothing; 35 could (--limit, *"
    )
    result.stdout.fnmatch_lines([note, "*no baseline of truthfulqa*"])
    assert "can show a loss but no pass" not in said(gate.run(*TASKS))
