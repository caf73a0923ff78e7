"""What an adapter_config.json says, held against the tensors beside it: a runtime goes by both.

peft makes its layers by the fields (which modules, of which rank, scaled how) and then fills in the tensors; what has
no layer is passed over with a warning. Here a contradiction is refused: it would be judged otherwise than it runs.
Fields are those of peft 0.21.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from quantgate.checkpoints.fields import check_pattern
from quantgate.core.errors import ModelError

REFUSED: Final = (
    "use_dora", "modules_to_save", "layer_replication", "use_qalora", "use_bdlora", "trainable_token_indices",
    "alora_invocation_tokens", "arrow_config", "lora_bias", "fan_in_fan_out", "target_parameters", "velora_config",
)  # fmt: skip
"""What is more than a low-rank term beside a matrix."""
_HARMLESS: Final = (
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "kasa_config", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config",
    "megatron_core", "monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "target_modules", "task_type", "use_rslora",
)  # fmt: skip
_CHANGES_BASE: Final = ("pissa", "olora", "corda", "loftq")  # take a part of the base's weights out before training
_ALL: Final = "all-linear"


def check_settings(config: Mapping[str, Any], who: str) -> None:
    """Raise ModelError for fields that are none, or that say more than a low-rank term."""
    refused = [name for name in REFUSED if config.get(name)]
    if config.get("peft_type") != "LORA" or refused or config.get("bias", "none") != "none":
        found = ", ".join(f"{name} {config[name]!r}" for name in refused) or f"{config.get('peft_type')} adapter"
        raise ModelError(who, found, expected="a plain LoRA adapter", hint="merge it into the weights with peft")
    if str(start := config.get("init_lora_weights")).startswith(_CHANGES_BASE):
        raise ModelError(
            who, f"init_lora_weights {start!r}: it began by changing the weights below it",
            expected="a plain LoRA adapter",
            hint="save it with peft's path_initial_model_for_weight_conversion, or merge it",
        )  # fmt: skip
    patterns = _patterns(config, "alpha_pattern", who)
    for value in (config.get("lora_alpha", 1), *patterns.values()):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ModelError(who, f"lora_alpha {value!r}", expected="a number")
    ranks = (config.get("r", 1), *_patterns(config, "rank_pattern", who).values())
    for value in ranks:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(who, f"r {value!r}", expected="a whole number above 0")
    if not isinstance(config.get("use_rslora", False), bool | None):
        raise ModelError(who, f"use_rslora {config['use_rslora']!r}", expected="true or false")
    for name in ("target_modules", "exclude_modules"):
        if isinstance(pattern := config.get(name), str):
            check_pattern(pattern, f"{who}.{name}")


def _patterns(config: Mapping[str, Any], name: str, who: str) -> Mapping[str, Any]:
    found = config.get(name) or {}
    if not isinstance(found, Mapping):
        raise ModelError(who, f"{name} holds a {type(found).__name__}", expected="an object of patterns")
    for pattern in found:
        check_pattern(pattern, f"{who}.{name}")
    return found


def unknown_fields(config: Mapping[str, Any]) -> list[str]:
    """Fields that say something and that nobody here knows."""
    return [name for name, value in config.items() if value and name not in (*REFUSED, *_HARMLESS)]


def check_layers(config: Mapping[str, Any], ranks: Mapping[str, int], who: str) -> None:
    """Raise ModelError for tensors that peft would not load; ``ranks``: of the tensors, by layer."""
    if not ranks:
        raise ModelError(who, "no parts at all", expected="lora_A and lora_B of at least one matrix")
    for layer, rank in ranks.items():
        if (said := rank_of(config, layer)) not in (None, rank):
            raise ModelError(who, f"{layer} has rank {rank}", expected=f"{said}, as adapter_config.json says")
        for why in _left_out(config, layer):
            raise ModelError(who, f"{layer} has parts, and {why}", expected="tensors of the modules that it names",
                             hint="runtimes leave them out; correct adapter_config.json")  # fmt: skip


def rank_of(config: Mapping[str, Any], layer: str) -> int | None:
    """The declared rank of a layer; None where nothing is said."""
    return of_layer(config.get("rank_pattern"), layer, config.get("r"))  # type: ignore[no-any-return]


def of_layer(patterns: Any, layer: str, otherwise: Any) -> Any:
    """The value of the first of peft's patterns that the end of the layer's name matches."""
    own = (value for pattern, value in (patterns or {}).items() if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", layer))
    return next(own, otherwise)


def _left_out(config: Mapping[str, Any], layer: str) -> Iterator[str]:
    wanted, spared = config.get("target_modules"), config.get("exclude_modules")
    if wanted and wanted != _ALL and not _named(wanted, layer):
        yield "target_modules does not name it"
    if spared and _named(spared, layer):
        yield "exclude_modules names it"
    blocks = config.get("layers_to_transform")
    by_end = isinstance(wanted, list) and layer not in wanted  # whole names and patterns know no numbers beside them
    if by_end and blocks is not None and (number := re.search(r"\.(\d+)\.", layer)):
        chosen = blocks if isinstance(blocks, list) else [blocks]
        if chosen and int(number[1]) not in chosen:
            yield "layers_to_transform leaves its block out"


def _named(names: Any, layer: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, layer) is not None
    return isinstance(names, list) and any(layer == each or layer.endswith(f".{each}") for each in names)
