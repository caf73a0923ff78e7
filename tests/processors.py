"""Run the tests as other processors would compute them: every instruction set this machine can act as, 1 and 2 threads.

    python tests/processors.py [--modes avx2,default] [--threads 1,2] [pytest's arguments]

Kernels differ by instruction set: other vector lengths sum in another order, and bf16 products are rounded elsewhere. A
test that rests on one of them is green here and red on the next machine. A mode that this processor cannot run is named
and left out, never taken for a pass. Prints a table; exits 1 if a mode is red or unknown, 4 if none can run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_OURS: Final = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Mode:
    """A way to compute. ``needs``: flags of /proc/cpuinfo without which it would crash."""

    name: str
    settings: dict[str, str]
    needs: tuple[str, ...] = ()


def _mode(name: str, aten: str, onednn: str, *needs: str, mkl: str = "") -> Mode:
    settings = {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn}
    return Mode(name, settings | ({"MKL_ENABLE_INSTRUCTIONS": mkl} if mkl else {}), needs)


MODES: Final = (  # from the narrowest instruction set to the widest
    _mode("default", "default", "SSE41", mkl="SSE4_2"),
    _mode("avx2", "avx2", "AVX2", "avx2", "fma"),
    _mode("avx512", "avx512", "AVX512_CORE", "avx512f", "avx512bw", "avx512vl"),
    _mode("bf16", "avx512", "AVX512_CORE_BF16", "avx512_bf16"),
    _mode("amx", "avx512", "AVX512_CORE_AMX", "amx_bf16", "amx_tile"),
)


def flags_of_this_processor() -> set[str]:
    """What /proc/cpuinfo lists; empty where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def other_mode(flags: set[str]) -> Mode:
    """The widest mode that is not what this processor takes by itself: what one more run in CI shows most by."""
    runnable = [mode for mode in MODES if flags.issuperset(mode.needs)]
    return runnable[-2] if len(runnable) > 1 else runnable[0]


def choose(names: str, flags: set[str]) -> list[Mode]:
    """The modes called ``names`` (comma-separated; ``all``, ``other``) that this processor can run."""
    if names == "other":
        return [other_mode(flags)]
    wanted = [mode.name for mode in MODES] if names == "all" else names.split(",")
    known = {mode.name: mode for mode in MODES}
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"no mode {', '.join(unknown)}: all, other, {', '.join(known)}")
    for name in wanted:
        if missing := set(known[name].needs) - flags:
            print(f"{name}: left out, this processor has no {', '.join(sorted(missing))}", flush=True)
    return [known[name] for name in wanted if flags.issuperset(known[name].needs)]


def run(mode: Mode, threads: str, arguments: list[str]) -> tuple[int, float]:
    """Exit code and seconds of the tests under ``mode``."""
    environment = {name: value for name, value in os.environ.items() if name not in _OURS}
    environment |= mode.settings | {"OMP_NUM_THREADS": threads}
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", *arguments]
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    return code, time.monotonic() - start


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--modes", default="all", help="comma-separated, 'all', or 'other' (default: all)")
    parser.add_argument("--threads", default="1,2", help="comma-separated (default: 1,2)")
    options, arguments = parser.parse_known_args()
    rows = []
    for mode in choose(options.modes, flags_of_this_processor()):
        for threads in options.threads.split(","):
            print(f"== {mode.name}, {threads} thread(s): {mode.settings}", flush=True)
            rows.append((mode.name, threads, *run(mode, threads, arguments or ["tests", "-q", "-n", "auto"])))
    for name, threads, code, seconds in rows:
        print(f"{name:8} {threads} thread(s): {'green' if code == 0 else f'red (exit {code})'} in {seconds:.0f} s")
    if not rows:
        return 4
    return int(any(code for *_, code, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
