"""Each row of the package in examples/ by itself: what to copy beside the row when one of its kind is added."""

import ast
import importlib
import importlib.metadata
import math
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from quantgate.checkpoints import guests
from quantgate.checkpoints.fields import Declared
from quantgate.checkpoints.layouts import table as readers
from quantgate.checkpoints.layouts.protocol import Layout
from quantgate.core.errors import ModelError
from quantgate.core.metrics import ACCURACY
from quantgate.core.progress import Silent
from quantgate.core.registry import check_row
from quantgate.core.requests import Likelihood, LikelihoodResponse
from quantgate.engines.protocol import EngineRow, Job, Setting
from quantgate.fixtures.executors.protocol import Executor, Work
from quantgate.quantize.calibration.protocol import CalibrationSource, Desk
from quantgate.quantize.calibration.samples import Want
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.catalogue.plugins import MethodPlugin, table_of
from quantgate.reports.reporters import Reporter
from quantgate.studies.protocol import Study
from quantgate.tasks.base import Selection, Task
from quantgate.tasks.prompts import Prompts
from quantgate.verdict.comparators.protocol import Comparator
from quantgate.verdict.paired import compare
from tests.unit.verdict.samples import outcomes

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "examples" / "quantgate-example"
SETTINGS = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
POINTS = SETTINGS["project"]["entry-points"]


@pytest.fixture
def row(monkeypatch):
    """The row behind an entry point group, and its name among the package's files."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(group):
        module, _, name = POINTS[f"quantgate.{group}"]["example"].partition(":")
        return getattr(importlib.import_module(module), name)

    yield load
    for name in [name for name in sys.modules if name.startswith("quantgate_example")]:
        del sys.modules[name]


def groups():
    """Every entry point group that the library asks for."""
    found = set()
    for room in ("quantgate", "fixtures", "reports"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "GROUP" and node.value is not None:
                    found.add(ast.literal_eval(node.value))
    return {name for name in found if name.startswith("quantgate.")}


def test_there_is_a_row_behind_every_seam_and_the_pages_say_so():
    assert set(POINTS) == groups()
    named = re.findall(r"(?m)^\|.*`(quantgate\.\w+)` \|$", (ROOT / "CONTRIBUTING.md").read_text())
    assert set(named) == groups()
    files = set(re.findall(r"(?m)^\| .*? \| `(\w+)\.py` \|", (PACKAGE / "README.md").read_text()))
    assert files == {target["example"].partition(":")[0].rpartition(".")[2] for target in POINTS.values()}


def test_the_method(row):
    plugin = row("methods")
    check_row("example", plugin, MethodPlugin)
    [method] = plugin.rows
    assert table_of([*METHODS.values(), method])[method.id] is method
    assert plugin.algorithms[method.algorithm](method.settings).checkpoint_config()["group_size"] == -1


def test_the_benchmarks(row, tokenizer):
    prompts = Prompts(tokenizer, 512, "tiny")
    parity, sureness = row("tasks")
    for task in (parity, sureness):
        check_row("example", task, Task)
    items = parity.items(None, Selection(limit=3), prompts)
    assert [[prompts.decode(each.continuation) for each in parity.requests(item, prompts)] for item in items] == [
        [" even", " odd"]
    ] * 3
    told = [LikelihoodResponse(-1.0, 1, False), LikelihoodResponse(-3.0, 1, True)]
    assert [parity.score(item, told).score for item in items] == [1.0, 0.0, 1.0]
    assert sureness.score(items[0], told).score == pytest.approx(math.exp(-1) / (math.exp(-1) + math.exp(-3)))


def test_the_engine(row, monkeypatch):
    engine = row("engines")
    check_row("example", engine, EngineRow)
    answered = SimpleNamespace(run=lambda requests, sink, job: {"seconds": 1.0})
    monkeypatch.setattr("quantgate.engines.torch.row.TorchRow.open", lambda *given: answered)
    monkeypatch.setattr("quantgate.engines.torch.row.TorchRow.identity", lambda *given: {"name": "torch"})
    setting, progress = Setting("float32", "cpu"), Silent()
    assert engine.identity(Path(), "who", setting) == {"name": "torch", "counting": 1}
    opened = engine.open(None, None, setting)
    assert opened.run([Likelihood((1,), (2,))], print, Job("a model on parity", progress)) == {"seconds": 1.0}
    assert progress.notes == ["a model on parity: 1 requests"]


def test_the_reader(row, tmp_path, monkeypatch):
    layout = row("readers")
    check_row("example", layout, Layout)
    codes, scale = torch.tensor([[127, -64], [1, 0]], dtype=torch.int8), torch.tensor([0.5, 2.0])
    save_file({"model.up.codes": codes, "model.up.scale": scale}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "example-rows"}}')
    entry = SimpleNamespace(name="example", value="quantgate_example.reader:ROWS", load=lambda: layout)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == guests.GROUP else [])
    readers.layouts.cache_clear()
    try:
        opened = readers.open_checkpoint(tmp_path, None, "mine")
        assert opened.modules["model.up"].in_words() == "8-bit int, by row, symmetric, F32 scales"
        assert torch.equal(opened.weight("model.up"), torch.tensor([[63.5, -32.0], [2.0, 0.0]]))
        declares = guests.declaring()["example-rows"]
    finally:
        readers.layouts.cache_clear()
    declared = declares({"quant_method": "example-rows", "kept": ["model.down"]}, "mine")
    assert isinstance(declared, Declared)
    assert [declared.kept(name) for name in ("lm_head", "model.down", "model.up")] == [True, True, False]
    with pytest.raises(ModelError, match="zero_point is 3"):
        declares({"quant_method": "example-rows", "zero_point": 3}, "mine")


def test_the_calibration_source(row, tokenizer):
    source, prompts = row("calibrations"), Prompts(tokenizer, 512, "tiny")
    check_row("example", source, CalibrationSource)
    desk = Desk(None, None, prompts)
    drawn = source.samples(desk, Want(3, 40, seed=1))
    assert [len(sample) for sample in drawn.samples] == [40] * 3
    assert re.search(r"\d+ \+ \d+ = \d+\n", prompts.decode(drawn.samples[0]))
    assert drawn == source.samples(desk, Want(3, 40, seed=1))
    assert source.capacity(desk, 40) == drawn.pool // 40
    assert source.lacking(None) == ""


def test_the_study(row):
    study = row("studies")
    check_row("example", study, Study)
    [part] = study.parts(None)
    assert (part.sets, part.tests) == (("sums", "dialogues"), ("parity", "sureness"))
    assert {task.id for task in row("tasks")} == set(part.tests)
    assert row("calibrations").name in part.sets


def test_the_comparator(row, monkeypatch):
    comparator, metric = row("comparators"), row("tasks")[1].metric
    check_row("example", comparator, Comparator)
    monkeypatch.setitem(sys.modules["quantgate.verdict.comparators.table"].COMPARATORS, comparator.kind, comparator)
    before, after = outcomes([0.5, 0.75] * 8), outcomes([0.5, 0.25] * 8)
    found = compare(before, after, metric, 0.95)
    half = math.sqrt(2 * math.log(2 / 0.05) / 16)
    assert (found.ci_low, found.ci_high) == (pytest.approx(-0.25 - half), pytest.approx(-0.25 + half))
    assert "outside 0 to 1" in compare(before, outcomes([2.0] * 16), metric, 0.95).undefined
    assert compare(before, after, ACCURACY, 0.95).undefined  # other kinds keep their own


def test_the_reporter(row):
    reporter = row("reporters")
    check_row("example", reporter, Reporter)
    case = {"method": "gptq4", "task": "mmlu", "metric": "acc", "verdict": "pass", "more": 1}
    assert reporter.render({"results": [case]}).splitlines()[1] == "gptq4,mmlu,acc,,,,,,,pass"


def test_the_executor(row):
    executor, notes = row("executors"), []
    check_row("example", executor, Executor)
    executor.check({})
    running = executor.begin(Work({}, [], [], lambda case: f"judged {case.id}", notes.append))
    assert running.payload(SimpleNamespace(id="a-b")) == "judged a-b"
    assert re.fullmatch(r"a-b: judged in \d+\.\d s", notes[0])
    running.close()
