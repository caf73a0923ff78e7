"""Which processor this is, and how libraries were told to use it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantgate.core.machine import processor_digest

pytestmark = pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="only Linux says what processor it is")


def told_by_a_process(**chosen):
    code = "from quantgate.core.machine import processor_digest; print(processor_digest())"
    # whoever runs these tests may have told libraries how to compute already
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("ATEN_", "ONEDNN_"))}
    found = subprocess.check_output([sys.executable, "-c", code], env={**bare, **chosen}, text=True, timeout=60)
    return found.strip()


def test_variables_that_a_process_was_started_with_are_told_apart():
    assert len({told_by_a_process(), told_by_a_process(), told_by_a_process(ATEN_CPU_CAPABILITY="default")}) == 2
    assert told_by_a_process(ATEN_CPU_CAPABILITY="default") != "None"


@pytest.mark.parametrize("name", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"])
def test_of_variables_that_came_later_nobody_knows_who_goes_by_them(name, monkeypatch):
    before = processor_digest()
    monkeypatch.setenv(name, "changed within this process")
    assert processor_digest() is None
    monkeypatch.undo()
    assert processor_digest() == before
