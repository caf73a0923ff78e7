"""Where and with what a run was made: enough to repeat it, nothing that identifies a person."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_LIBRARIES: Final = ("quantgate", "torch", "transformers", "tokenizers", "bitsandbytes", "numpy", "scipy", "pytest")


def environment(root: Path, arguments: Sequence[str], seed: int) -> dict[str, Any]:
    """Versions, processor, commit of the suite, seed and command line."""
    commit, dirty = _commit(root)
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": _gpu_name(),
        "versions": {name: version for name in _LIBRARIES if (version := _version(name))},
        "commit": commit,
        "dirty": dirty,
        "seed": seed,
        "command": shlex.join(["pytest", *arguments]),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu_name() -> str:
    torch = sys.modules.get("torch")  # never imported for its sake: with xdist the controller does not need it
    if torch is None or not torch.cuda.is_available():
        return ""
    return str(torch.cuda.get_device_name())


def _commit(root: Path) -> tuple[str, bool | None]:
    """Commit and whether files differ from it; ('', None) outside a git checkout."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip(), bool(git("status", "--porcelain").strip())
    except (OSError, subprocess.CalledProcessError):
        return "", None
