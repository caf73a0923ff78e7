"""The package in examples/, installed beside quantgate, adds a row behind each seam, and pytest runs them."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.core import registry
from quantgate.core.errors import UsageError
from quantgate.core.metrics import Metric
from quantgate.reports.reporters import Reporter, reporters
from quantgate.tasks import table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example in a directory of packages of its own, built from a copy: a build leaves files behind."""
    target, copy = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("copy") / "example"
    shutil.copytree(ROOT / "examples" / "quantgate-example", copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--target", str(target), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def rows_checkpoint(tiny_model, tmp_path):
    """The tiny model in the layout of the example's reader: 8-bit codes, one scale a row."""
    path = shutil.copytree(tiny_model, tmp_path / "rows")
    state = load_file(path / "model.safetensors")
    for name in [name for name in state if name.endswith("_proj.weight")]:
        weight, layer = state.pop(name).float(), name.removesuffix(".weight")
        state[f"{layer}.scale"] = weight.abs().amax(1) / 127
        state[f"{layer}.codes"] = (weight / state[f"{layer}.scale"].unsqueeze(1)).round().to(torch.int8)
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "example-rows"}}))
    return path


def test_the_example_adds_a_row_behind_each_seam(gate, installed, policy, rows_checkpoint):
    margin = "[metrics.sureness]\nmargin = { absolute = 0.9 }\nmin_items = 4\nfloor = 'none'\n"
    policy.write_text(policy.read_text() + margin)
    del gate.base["--calibration"]  # the study names its sets
    words = ["--methods", "coarse-w4,gptq4", "--tasks", "parity,sureness", "--engine", "counted", "--limit", "16"]
    words += ["--study", "arithmetic", "--candidate", f"mine={rows_checkpoint}", "--executor", "timed"]
    paths = os.pathsep.join((str(installed), str(ROOT)))

    def python(*arguments):
        command = [sys.executable, "-m", *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": paths}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    shown = python("pytest", *gate.arguments(*words))
    assert shown.returncode in (0, 1), shown.stdout + shown.stderr
    results = {(each["method"], each["calibration"], each["task"]): each for each in gate.report["results"]}
    gptq = [("gptq4", name) for name in ("sums", "dialogues")]
    assert [key[:2] for key in results if key[2] == "parity"] == [("coarse-w4", ""), *gptq, ("mine", "")]
    sureness = results["coarse-w4", "", "sureness"]
    assert sureness["verdict"] == "pass", sureness["reason"]
    half = math.sqrt(2 * math.log(2 / 0.05) / 16)  # the example's comparator
    assert sureness["ci_high"] - sureness["delta"] == pytest.approx(half)
    assert {each["verdict"] for key, each in results.items() if key[2] == "sureness"} == {"pass"}
    mine = results["mine", "", "sureness"]
    assert (mine["n_items"], mine["verdict"]) == (16, "pass"), mine["reason"]
    assert 0 < abs(mine["delta"]) < 0.01  # 8 bit: near the reference, and not the reference
    assert gate.report["model"]["engine"] == "counted"
    assert "reference on parity: 32 requests" in shown.stdout
    assert "coarse-w4 on parity: 32 requests" in shown.stdout
    assert re.search(r"coarse-w4-parity: judged in \d+\.\d s", shown.stdout)  # the example's executor
    assert "arithmetic" in json.dumps(gate.report["studies"])
    red = any(each["verdict"] in ("regressed", "invalid") for each in results.values())
    assert shown.returncode == int(red)
    lines = (Path(gate.base["--report-dir"]) / "results.csv").read_text().splitlines()
    assert lines[0].startswith("method,task,metric")
    assert lines[1].startswith(f"coarse-w4,parity,acc,16,{results['coarse-w4', '', 'parity']['reference']}")
    audit = python("quantgate", "audit", rows_checkpoint, "--model", gate.base["--model"])
    assert (audit.returncode, "8-bit int, by row, symmetric" in audit.stdout) == (0, True), audit.stdout + audit.stderr
    assert python("quantgate", "verify", gate.base["--report-dir"]).returncode == 0
    (Path(gate.base["--report-dir"]) / "results.csv").write_text("changed\n")
    broken = python("quantgate", "verify", gate.base["--report-dir"])
    assert broken.returncode == 1
    assert "results.csv was changed after it was written" in broken.stdout


@pytest.mark.parametrize(
    ("option", "typed", "meant"), [("--engine", "trch", "torch"), ("--executor", "proces", "process")]
)
def test_an_unknown_row_ends_the_command(gate, option, typed, meant):
    result = gate.run(option, typed)
    assert result.ret == 4
    what = option.removeprefix("--")
    result.stderr.fnmatch_lines([f"*{option}: unknown {what} '{typed}'; did you mean '{meant}'?*"])


def test_a_benchmark_that_cannot_be_used_ends_the_command_and_not_pytest(monkeypatch, gate):
    """It is found while pytest loads its plugins, where every error would be a traceback."""
    bad = SimpleNamespace(
        **dict.fromkeys(("protocol", "version", "metric", "items", "requests", "score"), 1), id="a", dimension="speed"
    )
    monkeypatch.setattr(registry, "_FAULTS", [])
    monkeypatch.setattr(registry, "installed", lambda group: [("plugin 'theirs'", bad)])
    assert registry.with_packages(table._table, lambda: "ours alone") == "ours alone"
    monkeypatch.setattr(registry, "installed", lambda group: [])
    result = gate.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: task 'a': dimension 'speed'; expected knowledge or alignment or fidelity*"])
    with pytest.raises(UsageError, match="dimension 'speed'"):
        table.select_tasks(["mmlu"], None)


@pytest.mark.parametrize("file", ["report.json", "../elsewhere.txt"])
def test_a_reporter_writes_under_a_name_of_its_own(monkeypatch, gate, file):
    reporters.cache_clear()
    found = {"quantgate.reporters": [("theirs", Reporter("theirs", file, str))]}
    monkeypatch.setattr("quantgate.core.registry.installed", lambda group: found.get(group, []))
    result = gate.run()
    reporters.cache_clear()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*reporter 'theirs': its file is called *expected a name of its own*"])


def test_a_metric_of_a_kind_that_nobody_compares_ends_the_command(monkeypatch, gate):
    odd = Metric("oddness", True, "odd")
    task = table.TASKS["truthfulqa"]
    monkeypatch.setattr(type(task), "metric", odd)
    result = gate.run("--tasks", "truthfulqa")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*metric oddness: nothing compares the kind 'odd'; expected binary or mean or *"])
