"""What a run may take, counted by hand."""

import json

import pytest
import torch

from quantgate import cli, forecast
from quantgate.core.requests import Generate, Likelihood, Rolling
from quantgate.forecast import Work, work_of, work_of_task
from tests.conftest import make_model_dir


def test_beginnings_in_common_are_read_once():
    requests = [
        Likelihood((1, 2, 3), (4,)), Likelihood((1, 2, 3), (5, 6)), Likelihood((1, 2), (3,)), Rolling((7, 8)),
        Rolling((7, 8)), Generate((1, 9), 20),
    ]  # fmt: skip
    known = set()
    assert work_of(requests, known) == Work(read=3 + 1 + 2 + 1 + 2, written=20)
    assert work_of(requests[:5], known) == Work()


def test_a_task_of_many_items_is_judged_by_some():
    class Task:
        def items(self, data, selection, prompts):
            return list(range(1000))

        def requests(self, item, prompts):
            return [Rolling((item, item)), Generate((item,), 3)]

    found = work_of_task(Task(), None, None, None, set())
    assert found == Work(2000, 3000)


def test_seconds_are_operations_at_a_share_of_the_rate(monkeypatch):
    monkeypatch.setattr(forecast, "_SHARE", {torch.float32: 0.5})
    assert forecast.seconds(Work(90, 20), 10**9, 1e12, torch.float32) == pytest.approx(100 * 2e9 / 5e11)


def test_the_rate_is_measured():
    assert 1e8 < forecast.matmul_rate(torch.float32) < 1e15


def test_doctor_tells_memory_and_time(tmp_path, capsys, monkeypatch):
    model = make_model_dir(tmp_path / "model")
    data = tmp_path / "data/truthfulqa__truthful_qa/multiple_choice"
    data.mkdir(parents=True)
    rows = [
        {
            "question": f"Is {n} a number?",
            "mc1_targets": {"choices": ["Yes.", "No."], "labels": [1, 0]},
            "mc2_targets": {"choices": ["Yes.", "No."], "labels": [1, 0]},
        }
        for n in range(8)
    ]
    (data / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["doctor", "--model", str(model), "--data", str(tmp_path / "data"), "--store", str(tmp_path / "store")]
    cli.main([*words, "--json"])
    assert "time for" not in capsys.readouterr().out
    assert cli.main([*words, "--estimate", "--json"]) in (0, 1)
    found = {each["what"]: each for each in json.loads(capsys.readouterr().out)}
    assert found[f"memory for {model}"]["found"].startswith("weights take about 0.0 GiB")
    assert "tokens to read and at most 0 to write" in found[f"time for {model}"]["found"]
    monkeypatch.setattr("quantgate.doctor._free_memory", lambda: 1e-9)
    cli.main([*words, "--estimate", "--json"])
    found = {each["what"]: each for each in json.loads(capsys.readouterr().out)}
    assert found[f"memory for {model}"]["level"] == "warning"


def test_doctor_takes_tasks_and_limit_from_the_configuration(tmp_path, capsys, monkeypatch):
    model = make_model_dir(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    words = ["doctor", "--model", str(model), "--store", str(tmp_path / "store"), "--estimate", "--json"]

    def told(configuration):
        (tmp_path / "quantgate.toml").write_text(configuration)
        cli.main(words)
        return {each["what"]: each for each in json.loads(capsys.readouterr().out)}

    def tokens(found):
        return int(
            found[f"time for {model}"]["found"].partition("counted: ")[2].partition(" tokens")[0].replace(",", "")
        )

    whole, few = told('tasks = ["truthfulqa", "weight_bytes"]'), told('tasks = ["truthfulqa"]\nlimit = 10')
    assert whole["data bundled"]["found"] == "tasks of the configuration: truthfulqa"
    assert 0 < tokens(few) < tokens(whole) / 5
    assert told('tasks = ["weight_bytes"]')["data bundled"]["found"] == "tasks of the configuration: none with items"
    assert told('tasks = ["nonsense"]')["data bundled"]["level"] == "error"


def test_of_the_hub_nothing_is_estimated(capsys):
    cli.main(["doctor", "--model", "org/A", "--estimate"])
    assert "estimate for org/A: of the hub" in capsys.readouterr().out


@pytest.mark.parametrize("lies", [True, False])
def test_doctor_says_that_temporary_files_lie_in_memory(tmp_path, capsys, monkeypatch, lies):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("quantgate.core.memory.in_memory", lambda place: lies)
    cli.main(["doctor", "--model", "org/A"])
    assert (f"warning  temporary directory {tmp_path}: lies in memory" in capsys.readouterr().out) == lies
