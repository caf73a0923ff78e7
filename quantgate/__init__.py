"""quantgate: may this quantized language model replace its 16-bit original? The answer, with evidence."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from quantgate import moved
from quantgate import quantize as quantize

_HERE = Path(__file__).parent
if not (_HERE / "fixtures").is_dir():  # a checkout made without symbolic links: the folders beside the package
    __path__.append(str(_HERE.parent))


class _Callable(ModuleType):
    """``quantgate.quantize("bundled", "gptq4")`` is `quantgate.api.quantize`; modules inside are reached as ever."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from quantgate.api import quantize  # imports torch: not before it is needed

        return quantize(*args, **kwargs)


quantize.__class__ = _Callable
moved.forward()


def __getattr__(name: str) -> Any:
    if name == "load_report":
        from quantgate.reports.stored import load_report

        return load_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
