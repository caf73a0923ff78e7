"""``quantization_config`` of a checkpoint whose layers differ, or that quantizes more than weights.

``quant_method: "quantgate"`` with ``format: "mixed"``: ``configs`` holds the different configurations of layers, each
as a checkpoint of that kind would have it (plus ``activations``, see `ActivationSettings`), ``layers`` the number of
its configuration for every quantized layer, ``kv_cache`` the settings of a quantized cache. The ``quant_method`` is
ours alone, so that no other runtime takes such a checkpoint for a weight-only one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from quantgate.core.errors import ModelError
from quantgate.quantize.settings import QUANT_METHOD

FORMAT: Final = "mixed"


def mixed_config(layers: Mapping[str, Mapping[str, Any]], kv_cache: Mapping[str, Any] | None) -> dict[str, Any]:
    """The configuration of a checkpoint with these configurations by layer name."""
    configs: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}
    for name, config in layers.items():
        if dict(config) not in configs:
            configs.append(dict(config))
        numbers[name] = configs.index(dict(config))
    found = {"quant_method": QUANT_METHOD, "format": FORMAT, "configs": configs, "layers": numbers}
    return found | ({"kv_cache": dict(kv_cache)} if kv_cache else {})


def is_mixed(config: Mapping[str, Any]) -> bool:
    """Whether layers have configurations of their own."""
    return config.get("quant_method") == QUANT_METHOD and config.get("format") == FORMAT


def dynamic_rule(config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What GPTQModel's ``dynamic`` changes for the layer ``name``; None: it stays in 16 bit.

    Patterns are tried in order, from the start of the name: ``-:`` leaves a layer alone, ``+:`` or nothing changes it.
    """
    for pattern, changes in (config.get("dynamic") or {}).items():
        if re.match(pattern.removeprefix("-:").removeprefix("+:"), name):
            return None if pattern.startswith("-:") else dict(changes or {})
    return {}


def layer_config(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The configuration of one layer.

    Raises:
        ModelError: the checkpoint's configuration does not list it.
    """
    if not is_mixed(config):
        changes = dynamic_rule(config, name) if config.get("dynamic") else {}
        if changes is None:
            raise ModelError(name, "stored quantized", expected="16 bit, as dynamic in quantization_config says")
        return {**config, **changes} if changes else config
    try:
        found: Mapping[str, Any] = config["configs"][config["layers"][name]]
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(name, "no configuration", expected="every quantized layer in quantization_config") from error
    return found
