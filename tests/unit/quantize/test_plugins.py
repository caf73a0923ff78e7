import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from quantgate.core import registry
from quantgate.core.errors import UsageError
from quantgate.quantize.base import NoSettings
from quantgate.quantize.catalogue.methods import ALGORITHMS, METHODS, NO_WEIGHTS, TRANSFORMATIONS, _Tables, get_methods
from quantgate.quantize.catalogue.plugins import MethodPlugin, check_rows, installed_plugins, merged, table_of
from quantgate.quantize.settings import RtnSettings

PACKAGE = """
from dataclasses import dataclass, replace
from quantgate.quantize.base import Method
from quantgate.quantize.catalogue.plugins import MethodPlugin
from quantgate.quantize.algorithms.rtn import Rtn
from quantgate.quantize.settings import RtnSettings

@dataclass(frozen=True)
class Coarse(Rtn):
    pass

ROW = Method("coarse-w4", "coarse", RtnSettings(4, -1), 4, False, "packed", 1, "by channel", "a package")
PLUGIN = MethodPlugin((ROW,), {"coarse": Coarse})
"""
USE = """
import sys, pathlib
from quantgate.core.progress import Silent
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.subjects.make import quantize_checkpoint
record = quantize_checkpoint(pathlib.Path(sys.argv[1]), METHODS["coarse-w4"], None, pathlib.Path(sys.argv[2]),
                             progress=Silent())
print(record.method["algorithm"], len(record.quantized_modules))
"""


def test_an_installed_package_adds_rows(tmp_path, model_dir):
    (tmp_path / "coarse.py").write_text(PACKAGE)
    info = tmp_path / "coarse-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coarse\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantgate.methods]\ncoarse = coarse:PLUGIN\n")
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", USE, str(model_dir), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert shown.stdout.split() == ["coarse", "14"], shown.stderr[-2000:]


class Entry:
    name, value = "broken", "broken:PLUGIN"

    def __init__(self, load):
        self.load = load


def fail():
    raise ImportError("no module named broken")


@pytest.mark.parametrize(
    ("load", "message"), [(fail, "cannot be imported"), (lambda: 3, "a int; expected a quantgate")]
)
def test_broken_plugins_are_named(load, message, monkeypatch):
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [Entry(load)])
    with pytest.raises(UsageError, match=f"plugin 'broken'.*{message}"):
        installed_plugins()


ROW = METHODS["rtn4"]
FAULTS = {
    "its rows are a NoneType": MethodPlugin(None),
    "a int; expected a quantgate.quantize.base.Method": MethodPlugin((5,)),
    "its algorithms are [": MethodPlugin((), [len]),
    "its formats are {'a': 3}": MethodPlugin((), formats={"a": 3}),
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_plugin_of_other_parts_is_named(words, monkeypatch):
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [Entry(lambda: FAULTS[words])])
    with pytest.raises(UsageError) as error:
        installed_plugins()
    assert words in str(error.value)


ROWS = {
    "its algorithm 'nowhere' is none of": {"algorithm": "nowhere"},
    "nothing is called for its transformation": {"transformation": NoSettings()},
    "its storage is 'imaginary'": {"storage": "imaginary"},
    "its bits is 'four'": {"bits": "four"},
    "its bits is 0": {"bits": 0},
    "its activation_bits is True": {"activation_bits": True},
    "its code_version is None": {"code_version": None},
    "its summary or source": {"summary": None},
    "its summary or source is": {"source": "a\n| pass |"},
    "needs_calibration and standard": {"needs_calibration": "yes"},
    "its settings cannot be recorded": {"settings": None},
    "its settings cannot be recorded (": {"settings": RtnSettings(4, sym=object())},
}


@pytest.mark.parametrize("words", ROWS)
def test_a_row_that_no_run_could_use_is_named(words):
    row = replace(ROW, id="theirs-w4", **ROWS[words])
    with pytest.raises(UsageError) as error:
        check_rows([MethodPlugin((row,))], ALGORITHMS, TRANSFORMATIONS)
    assert str(error.value).startswith(f"method 'theirs-w4': {words}")


def test_our_own_rows_are_such_that_a_package_could_bring_them():
    ours = MethodPlugin(tuple(METHODS.values()))
    assert check_rows([ours], [*ALGORITHMS, NO_WEIGHTS], TRANSFORMATIONS) is None


def test_a_row_called_like_ours_leaves_ours_alone(monkeypatch):
    monkeypatch.setattr(registry, "_FAULTS", [])
    plugin = MethodPlugin((replace(ROW, summary="better"),))
    found = registry.with_packages(lambda: _Tables.of([plugin]), lambda: _Tables(()))
    assert found.methods == METHODS
    with pytest.raises(UsageError, match="'rtn4' and 'rtn4'"):
        get_methods(["rtn4"])


@pytest.mark.parametrize("raised", [SystemExit(0), pytest.skip.Exception("not today"), BaseException("no")])
def test_a_package_does_not_end_the_process_while_it_is_imported(raised, monkeypatch):
    def load():
        raise raised

    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [Entry(load)])
    with pytest.raises(UsageError, match="it ended the process while it was imported"):
        installed_plugins()


def test_names_are_taken_once():
    with pytest.raises(UsageError, match="algorithm 'gptq' twice"):
        merged(ALGORITHMS, [{"gptq": None}], "algorithm")
    with pytest.raises(UsageError, match="'gptq4' and 'gptq4'"):
        table_of([METHODS["gptq4"], METHODS["gptq4"]])
    assert MethodPlugin(()).algorithms == {}
