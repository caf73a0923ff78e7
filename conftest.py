"""Registers the two plugins; everything else lives in fixtures/ and reports/."""

import os

# Read by OpenMP when torch is loaded: idle threads sleep instead of spinning. On a busy or shared machine spinning
# made quantizing by gptq4 four times slower (137 s against 32 s).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

pytest_plugins = ["quantgate.fixtures.plugin", "quantgate.reports.plugin"]
