"""Quantization methods, the layer-by-layer driver, checkpoints.

The package is callable: ``quantgate.quantize("bundled", "gptq4")`` is `quantgate.api.quantize`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from quantgate.api import quantize  # imports torch: not before it is needed

        return quantize(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
