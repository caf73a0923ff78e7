import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantgate.core import registry
from quantgate.core.errors import UsageError
from quantgate.quantize.catalogue.methods import ALGORITHMS, METHODS
from quantgate.quantize.catalogue.plugins import MethodPlugin, installed_plugins, merged, table_of

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


def test_names_are_taken_once():
    with pytest.raises(UsageError, match="algorithm 'gptq' twice"):
        merged(ALGORITHMS, [{"gptq": None}], "algorithm")
    with pytest.raises(UsageError, match="'gptq4' and 'gptq4'"):
        table_of([METHODS["gptq4"], METHODS["gptq4"]])
    assert MethodPlugin(()).algorithms == {}
