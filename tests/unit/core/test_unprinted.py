"""A line that C code prints must not stand in a command's output."""

import subprocess
import sys

import pytest

C = "import ctypes; puts = ctypes.CDLL(None).puts"


@pytest.mark.skipif(sys.platform == "win32", reason="its C library is not found this way")
@pytest.mark.parametrize("buffered", ["", "-u"])
def test_what_c_code_prints_within_the_block_goes_nowhere(buffered):
    code = f"""
from quantgate.core.unprinted import unprinted
{C}
print("before", end=" "); puts(b"c before")
with unprinted():
    puts(b"noise"); print("python's noise")
try:
    with unprinted():
        puts(b"noise"); raise KeyError
except KeyError:
    pass
puts(b"c after"); print("after")
"""
    command = [sys.executable, *buffered.split(), "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sorted(told.stdout.split()) == ["after", "after", "before", "before", "c", "c"]
    assert "noise" not in told.stderr


def test_without_an_output_nothing_is_done():
    code = "import os; os.close(1)\nfrom quantgate.core.unprinted import unprinted\nwith unprinted():\n    pass"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode in (0, 120)  # 120: Python's own flush
