"""The package in examples/, installed beside quantgate, adds a row behind each seam, and pytest runs them."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

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


def test_the_example_adds_a_row_behind_each_seam(gate, installed, policy):
    words = ("--methods", "coarse-w4", "--tasks", "parity,sureness", "--engine", "counted", "--limit", "16")
    margin = "[metrics.sureness]\nmargin = { absolute = 0.9 }\nmin_items = 4\nfloor = 'none'\n"
    policy.write_text(policy.read_text() + margin)
    paths = os.pathsep.join((str(installed), str(ROOT)))
    command = [sys.executable, "-m", "pytest", *map(str, gate.arguments(*words))]
    shown = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert shown.returncode in (0, 1), shown.stdout + shown.stderr
    result, sureness = gate.report["results"]
    half = math.sqrt(2 * math.log(2 / 0.05) / 16)  # the example's comparator
    assert sureness["ci_high"] - sureness["delta"] == pytest.approx(half)
    assert sureness["verdict"] == "pass"
    assert (result["method"], result["task"], result["n_items"]) == ("coarse-w4", "parity", 16), shown.stdout
    assert gate.report["model"]["engine"] == "counted"
    assert "reference on parity: 32 requests" in shown.stdout
    assert "coarse-w4 on parity: 32 requests" in shown.stdout
    assert shown.returncode == int(result["verdict"] in ("regressed", "invalid"))
    lines = (Path(gate.base["--report-dir"]) / "results.csv").read_text().splitlines()
    assert lines[0].startswith("method,task,metric")
    assert lines[1].startswith(f"coarse-w4,parity,acc,16,{result['reference']}")
    verify = [sys.executable, "-m", "quantgate", "verify", str(gate.base["--report-dir"])]
    environment = os.environ | {"PYTHONPATH": paths}
    sound = subprocess.run(verify, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert sound.returncode == 0, sound.stdout
    (Path(gate.base["--report-dir"]) / "results.csv").write_text("changed\n")
    broken = subprocess.run(verify, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert broken.returncode == 1
    assert "results.csv was changed after it was written" in broken.stdout


@pytest.mark.parametrize("name", ["--engine"])
def test_an_unknown_engine_ends_the_command(gate, name):
    result = gate.run(name, "trch")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--engine: unknown engine 'trch'; did you mean 'torch'?*"])


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
