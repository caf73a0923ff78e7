"""Where and with what a run was made: enough to repeat it, nothing that identifies a person."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from quantgate.core import reading
from quantgate.core.places import CLONE, suite_arguments
from quantgate.core.reading import Unreadable

_LIBRARIES: Final = ("quantgate", "torch", "transformers", "tokenizers", "bitsandbytes", "numpy", "scipy", "pytest")


CONFIGURED: Final = pytest.StashKey[Mapping[str, Any]]()
"""What the configuration file says (`quantgate.core.configuration.Configuration.as_record`)."""
_SECRET: Final = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH|COOKIE", re.IGNORECASE)
_CHANGES_RESULTS: Final = re.compile(
    r"(OMP|KMP|GOMP|MKL|OPENBLAS|BLIS|NUMEXPR|ATEN|ONEDNN|DNNL|TORCH|TORCHINDUCTOR|PYTORCH|CUDA|CUBLAS|CUDNN|ROCR|HIP"
    r"|HF|TRANSFORMERS|TOKENIZERS|DATASETS|BNB|BITSANDBYTES|QUANTGATE)_"
    r"|NVIDIA_(TF32_OVERRIDE|VISIBLE_DEVICES)$|PYTHON(OPTIMIZE|HASHSEED|PATH|WARNINGS|UTF8|DEVMODE)"
    r"|PYTEST_(ADDOPTS|PLUGINS|DISABLE_PLUGIN_AUTOLOAD|THEME)|CI$"
)


def environment(config: pytest.Config) -> dict[str, Any]:
    """Versions, processor, commit of the suite, seed and the command with everything that was added to it."""
    file = config.stash.get(CONFIGURED, {})
    found = facts(
        CLONE,
        config.invocation_params.args,
        config.option.seed,
        ini=[*(str(word) for word in config.getini("addopts")), *file.get("words", ())],
        variables=os.environ,
    )
    return found | ({"configuration": {"file": file["file"], "sha256": file["sha256"]}} if file else {})


def otherwise_here(then: Mapping[str, Any]) -> list[str]:
    """What of the suite and the libraries is another one here than in ``then``, an environment of a report: one phrase
    each; a commit or a version that one side does not know says nothing."""
    found, (commit, _) = [], _commit(CLONE)
    if commit and then.get("commit") and commit != then["commit"]:
        found.append(f"the suite at commit {str(then['commit'])[:12]} (here {commit[:12]})")
    versions = then.get("versions")
    for name, version in versions.items() if isinstance(versions, Mapping) else ():
        if (ours := _version(str(name))) and version and ours != version:
            found.append(f"{name} {version} (here {ours})")
    return found


def command(arguments: Sequence[str], ini: Sequence[str], variables: Mapping[str, str]) -> str:
    """The command as it could be typed: the environment variables that can change a result, pytest's own options from
    the ini file and the suite's from the configuration file, and the arguments. Secrets are left out, and so are
    passwords in addresses.
    """
    chosen = [f"{name}={shlex.quote(value)}" for name, value in sorted(variables.items()) if _told(name)]
    ours = suite_arguments()
    if list(arguments[: len(ours)]) == ours:
        typed = ["quantgate", "run", *ini, *arguments[len(ours) :]]
    else:
        typed = ["pytest", *ini, *arguments]
    return re.sub(r"(://)[^/@\s]+@", r"\1***@", " ".join([*chosen, shlex.join(typed)]))


def _told(name: str) -> bool:
    return bool(_CHANGES_RESULTS.match(name)) and not _SECRET.search(name)


def facts(
    root: Path | None,
    arguments: Sequence[str],
    seed: int,
    *,
    ini: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """See :func:`environment`.

    ``root``: top level of the clone, None where the suite is installed; ``ini``: the ini file's addopts; ``variables``:
    the process's environment.
    """
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
        "optimized": not __debug__,
        "command": command(arguments, ini, variables or {}),
    }


@cache
def _version(name: str) -> str:
    """Read once: it means going through the files of all that is installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    try:
        for line in reading.read_text(Path("/proc/cpuinfo")).split("\n"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, Unreadable):
        pass
    return platform.processor() or platform.machine()


def _gpu_name() -> str:
    torch = sys.modules.get("torch")  # never imported for its sake: with xdist the controller does not need it
    if torch is None or not torch.cuda.is_available():
        return ""
    return str(torch.cuda.get_device_name())


def _commit(root: Path | None) -> tuple[str, bool | None]:
    """Commit and whether files differ from it; ('', None) outside a git checkout."""
    if root is None:  # the folder where the user stands may be a checkout, but of something else
        return "", None

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip(), bool(git("status", "--porcelain").strip())
    except (OSError, subprocess.CalledProcessError):
        return "", None
