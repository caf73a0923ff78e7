"""Old names of modules: they lead to the new ones, with a DeprecationWarning, until version 0.3.

Scripts and packages of others import what was documented once; a table is cheaper than their broken mornings.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Final

_MOVED: Final = {  # new room: old room, and the modules that went
    "core": (
        ("", "arguments errors memory naming progress reading words"),
        ("scoring", "requests"),
        ("store", "keys"),
        ("verdict", "records"),
    ),
    "runs": (("", "answers asked evaluation preflight"),),
    "subjects": (("", "candidates"),),
    "studies": (("efficiency", "pareto proxy"), ("verdict", "derived")),
    "checkpoints": (("", "audit"), ("quantize", "checkpoint declared formats mixed nvfp4 readers w8a8")),
    "models": (("quantize", "layers"),),
    "engines.torch": (("scoring", "adapter attention cache engine fidelity generation plan reader rope scored tree"),),
    "quantize.numerics": (("quantize", "columns hessian layout outliers packing ragged statistics uniform"),),
    "quantize.transforms": (("quantize", "activations fold smoothquant"),),
    "quantize.algorithms": (("quantize", "awq bnb easyquant floats gptq hqq int8 quip rtn slim spqr"),),
    "quantize.sweep": (("quantize", "batches driver"),),
    "quantize.catalogue": (("quantize", "docs methods plugins recipe transformed"),),
}
_RENAMED: Final = {
    "scoring": "engines.torch",
    "efficiency.tasks": "tasks.efficiency",
    "quantize.calibration_sets": "quantize.calibration.sources",
    "quantize.run": "subjects.make",
    "verdict.verify": "verify",
}


def _table() -> dict[str, str]:
    found = dict(_RENAMED)
    for room, groups in _MOVED.items():
        for before, names in groups:
            found |= {f"{before}.{name}".lstrip("."): f"{room}.{name}" for name in names.split()}
    return {f"quantgate.{old}": f"quantgate.{new}" for old, new in found.items()}


MOVED: Final = _table()
"""Old name -> new name, both in full."""


class Forwarding(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old name; asked first, or the parts of a package that moved would be loaded again."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for an old name, None for all others."""
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The module under its new name."""
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It was executed under its new name, which stays its name."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def forward() -> None:
    """Let old names lead to new ones, once a process."""
    if not any(isinstance(finder, Forwarding) for finder in sys.meta_path):
        sys.meta_path.insert(0, Forwarding())
