"""Runs the mutants of ``mutants.py``, each in a forked process and in a copy of the project."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.mutants import MUTANTS, ROOT, Mutant

COPIED = ("quantgate", "fixtures", "reports", "evals", "tests", "docs", "benchmarks", "baselines")
FILES = (
    *("conftest.py", "pytest.ini", "pyproject.toml", "requirements.txt"),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"),
)
SLOW = (
    "torch",
    "scipy.stats",
    "bitsandbytes",
    "hypothesis",
    "safetensors.torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.tokenization_auto",
)


def survivors(words: str = "") -> tuple[int, list[Mutant]]:
    """Runs every mutant whose name holds ``words``, in a copy of the project: their number, and those that no test saw.

    Libraries are imported once; each mutant is a forked process, which alone imports the project.
    """
    chosen = [mutant for mutant in MUTANTS if words in mutant.name]
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__", "out")
            shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=ignored)
        for name in FILES:
            shutil.copyfile(ROOT / name, root / name)
        green = dict.fromkeys(mutant.tests for mutant in chosen)
        for tests in green:
            assert run(root, tests) == 0, f"{' '.join(tests)} must be green before anything is broken"
        return len(chosen), [mutant for mutant in chosen if not _seen(root, mutant)]


def _seen(root: Path, mutant: Mutant) -> bool:
    path, begun = root / mutant.file, time.monotonic()
    whole = path.read_text(encoding="utf-8")
    path.write_text(mutant.text(root), encoding="utf-8")
    try:
        code = run(root, mutant.tests)
    finally:
        path.write_text(whole, encoding="utf-8")
    word = {1: "caught", 0: "SURVIVED"}.get(code, f"broke the tests (exit {code})")
    print(f"| {mutant.name} | {word} | {time.monotonic() - begun:.0f} s |", flush=True)
    return code == 1


def run(root: Path, tests: tuple[str, ...]) -> int:
    """Exit code of pytest over ``tests`` in the copy, up to the first failure."""
    import pytest

    for library in SLOW:  # to import, so once for all
        importlib.import_module(library)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.stdout.flush()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.chdir(root)
    sys.path.insert(0, str(root))
    code = int(pytest.main([*tests, "-x", "-q", "-p", "no:cacheprovider"]))
    copied = Path(sys.modules["quantgate"].__file__ or "").is_relative_to(root) if "quantgate" in sys.modules else False
    os._exit(code if copied else 99)
