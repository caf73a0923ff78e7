import subprocess
import sys

import pytest

from quantgate import cli
from quantgate.core.errors import (
    DataError,
    EngineError,
    MethodError,
    ModelError,
    PolicyError,
    ProvenanceError,
    StoreError,
    UsageError,
)
from quantgate.core.places import EVALS


def command(run):
    return cli.Command("greet", "say something", lambda parser: parser.add_argument("name"), run)


def test_a_command_is_a_row(monkeypatch, capsys):
    monkeypatch.setattr(cli, "COMMANDS", (command(lambda args, progress: print(f"hello {args.name}") or 7),))
    assert cli.main(["greet", "reader"]) == 7
    assert capsys.readouterr().out == "hello reader\n"


@pytest.mark.parametrize(("kind", "code"), [
    (UsageError, 4), (DataError, 4), (ModelError, 4), (MethodError, 4), (PolicyError, 4), (ProvenanceError, 4),
    (StoreError, 1), (EngineError, 1),
])  # fmt: skip
def test_errors_are_one_line_and_a_code(kind, code, monkeypatch, capsys):
    def fail(args, progress):
        raise kind("the file", "empty", expected="rows")

    monkeypatch.setattr(cli, "COMMANDS", (command(fail),))
    assert cli.main(["greet", "reader"]) == code
    assert capsys.readouterr().err == "quantgate greet: the file: empty; expected rows\n"


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["export"], ["export", "gptq4", "a", "--no-such"]])
def test_wrong_usage_is_4(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 4
    assert "usage: quantgate" in capsys.readouterr().err


def test_run_hands_what_is_typed_to_pytest_as_it_stands(monkeypatch):
    given = []
    monkeypatch.setattr(pytest, "main", lambda arguments: given.extend(arguments) or pytest.ExitCode.NO_TESTS_COLLECTED)
    typed = ["-k", "gptq4 and mmlu", "-n", "2", "--strict", "--model=mine"]
    assert cli.main(["run", *typed]) == 5
    assert given[-len(typed) :] == typed
    assert given[-len(typed) - 1] == str(EVALS)


def test_the_help_of_run_has_an_example_and_the_options_of_the_suite(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", "-k", "gptq4", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert 'example: quantgate run -k "gptq4 and mmlu" --strict' in shown
    for option in ("--model", "--strict, --no-strict, --strict-verdicts", "--report-dir"):
        assert f"  {option}" in shown


def test_help_needs_no_torch():
    see = "import sys; from quantgate import cli; cli.build_parser(); print({'torch', 'transformers'} & {*sys.modules})"
    shown = subprocess.run([sys.executable, "-c", see], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


def test_runs_as_a_module():
    shown = subprocess.run([sys.executable, "-m", "quantgate", "--help"], capture_output=True, text=True, check=True)
    assert "export" in shown.stdout


def test_a_log_gets_one_line_a_step(capsys):
    progress = cli.StderrProgress()
    for index in range(5):
        progress.step("gptq4: quantizing blocks", index, 4)
    progress.step("gptq4: writing", 0, 1)
    progress.step("gptq4: writing", 1, 1)
    captured = capsys.readouterr()
    assert captured.err == "quantgate: gptq4: quantizing blocks\nquantgate: gptq4: writing\n"
    assert captured.out == ""


def test_a_missing_report_and_an_unknown_method_are_said_in_words(tmp_path, capsys):
    assert cli.main(["verify", str(tmp_path / "nowhere")]) == 4
    assert "no such file or directory; expected report.json of a run, or its directory" in capsys.readouterr().err
    assert cli.main(["export", "gptq9", str(tmp_path / "out")]) == 4
    assert "quantgate export: method: unknown method 'gptq9'; did you mean" in capsys.readouterr().err
