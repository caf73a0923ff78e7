"""The formats of the ``quantgate`` layout: which reader a layer's tensors are given to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor

from quantgate.core.errors import ModelError
from quantgate.core.registry import with_packages
from quantgate.quantize.algorithms import easyquant, floats, hqq, quip, slim, spqr
from quantgate.quantize.base import StoredWeight
from quantgate.quantize.catalogue.plugins import installed_plugins, merged

Reader = Callable[[Mapping[str, Tensor], Mapping[str, Any], str], StoredWeight]
_OWN: Final[dict[str, Reader]] = {
    "spqr": spqr.from_tensors,
    "slim": slim.from_tensors,
    "easyquant": easyquant.from_tensors,
    "float8": floats.from_tensors,
    "quip": quip.from_tensors,
    "hqq": hqq.from_tensors,
}
FORMATS: Final[dict[str, Reader]] = with_packages(
    lambda: merged(_OWN, [plugin.formats for plugin in installed_plugins()], "format"), lambda: dict(_OWN)
)


def from_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], who: str) -> StoredWeight:
    """Read one layer; ``config`` is the checkpoint's ``quantization_config``.

    Raises:
        ModelError: an unknown format. What a setting or a tensor that is missing raises, the caller translates.
    """
    name = config.get("format")
    if name not in FORMATS:
        raise ModelError(who, f"format {name!r}", expected=f"one of {', '.join(FORMATS)}")
    return FORMATS[name](tensors, config, who)
