"""What a checkpoint's ``quantization_config`` declares, field by field: honoured, harmless, or refused.

A field that changes what is computed and is skipped gives a verdict about another model than the one that will be run.
So every layout has one table here that accounts for all of its fields, and what is in no table is refused by name.
Fields that are set to nothing (null, an empty list or object) say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from quantgate.checkpoints.agreement import check_modules
from quantgate.checkpoints.declared_further import AUTO_ROUND, LAYOUTS, check_auto_round, of_cache, quanto
from quantgate.checkpoints.fields import Declared, account, check_pattern, flag, integer, names
from quantgate.checkpoints.formats import FORMATS
from quantgate.checkpoints.guests import declaring
from quantgate.checkpoints.lone import OLDER, declaring_config, in_usual_words, lone, places_of
from quantgate.checkpoints.mixed import dynamic_rule, is_mixed
from quantgate.core.errors import ModelError
from quantgate.models.files import read_json
from quantgate.models.quantized import CACHE, INPUTS, MAIN, QMAP
from quantgate.models.tensors import stored
from quantgate.quantize.algorithms.floats import is_plain
from quantgate.quantize.settings import (
    QUANT_METHOD,
    ActivationSettings,
    CacheSettings,
    EasyQuantSettings,
    FloatSettings,
    HqqSettings,
    QuipSettings,
    SlimSettings,
    SpqrSettings,
)

_WORDS: Final = (  # must not differ between two places
    "bits", "group_size", "sym", "desc_act", "checkpoint_format", "zero_point", "version", "quant_algo",
)  # fmt: skip


def read_declared(path: Path, who: str) -> Declared:
    """What the checkpoint in ``path`` declares.

    Raises:
        ModelError: a field that nothing here computes, a layout that nothing here reads, or two declarations that
            contradict each other.
    """
    config = read_json(path / "config.json", who)
    places = places_of(path, config)
    if ours := [name for name in (INPUTS, CACHE) if name in config]:
        raise ModelError(
            who, f"{ours[0]} in config.json: files that were unpacked here, out of their store",
            expected="the checkpoint itself", hint="give the one that they were made of",
        )  # fmt: skip
    if (path / QMAP).is_file() and not places:
        return quanto(read_json(path / QMAP, who), f"{who}: {QMAP}")
    found = places.pop(f"{MAIN} in config.json", None)
    if found is None:
        return _beside(path, config, places, who)
    if not isinstance(found, Mapping):
        raise ModelError(who, f"{MAIN} holds a {type(found).__name__}", expected="an object")
    _agree(path, found, places, who)
    return _by_layout(found, f"{who}: {MAIN}")


def _beside(path: Path, config: Mapping[str, Any], places: Mapping[str, Any], who: str) -> Declared:
    """Without ``quantization_config``: nothing is quantized, or a file beside config.json says how."""
    if not places:
        return Declared("transformers", lambda name: False)
    if alone := lone(path, config):
        name, content = alone
        found = _by_layout(content, f"{who}: {name}")
        kept = name == OLDER and found.reader == "transformers"  # it computes inputs and cache, once it is told
        return replace(found, reader="transformers" if kept else "unfolded", beside=name)
    raise ModelError(
        who,
        f"{next(iter(places))} declares a quantization, config.json's {MAIN} does not",
        expected=f"{MAIN} in config.json, or one file beside it that says how its codes become weights",
        hint="copy it there, or delete it if the weights are plain 16 bit",
    )


def _by_layout(config: Mapping[str, Any], who: str) -> Declared:
    method = config.get("quant_method")
    declares = _LAYOUTS.get(str(method)) or declaring().get(str(method))
    if declares is None:
        raise ModelError(
            who,
            f"quant_method {method!r}",
            expected=f"one of {', '.join(_LAYOUTS)}: no other layout is computed here as it declares",
            hint="export the checkpoint in one of these layouts with the tool that made it",
        )
    return declares(config, who)


def _agree(path: Path, config: Mapping[str, Any], places: Mapping[str, Any], who: str) -> None:
    """Refuse a second declaration that says something else: other runtimes read that one."""
    for place, other in places.items():
        inner = in_usual_words(place, other) if isinstance(other, Mapping) else {}
        said = [(word, config[word], inner[word]) for word in _WORDS if None not in (inner.get(word), config.get(word))]
        if inner.get("quant_algo"):  # ModelOpt's two files call the cache by two names, and always speak of it
            said.append(("the cache of keys and values", of_cache(config), of_cache(inner)))
        for word, ours, theirs in said:
            if str(ours).casefold() != str(theirs).casefold():
                raise ModelError(
                    who, f"{word} is {ours!r} in config.json and {theirs!r} in {place}",
                    expected="one declaration, or two that agree", hint="correct the one that is wrong",
                )  # fmt: skip
        check_modules(
            config, inner, lambda each: _by_layout(each, f"{who}: {MAIN}"), lambda: stored(path, who), place, who
        )


# --- GPTQ -----------------------------------------------------------------------------------------------------------

_GPTQ_HARMLESS: Final = (
    "static_groups", "true_sequential", "damp_percent", "damp_auto_increment", "model_name_or_path",
    "model_file_base_name", "meta", "dataset", "tokenizer", "model_seqlen", "block_name_to_quantize",
    "module_name_preceding_first_block", "batch_size", "pad_token_id", "max_input_length", "cache_block_outputs",
    "use_cuda_fp16", "use_exllama", "disable_exllama", "exllama_config", "backend", "mse", "act_group_aware",
    "parallel_packing", "modules_to_not_convert", "hyb_act", *AUTO_ROUND,
)  # fmt: skip
_FORMATS: Final = ("gptq", "gptq_v2")
_GROUPS: Final = "a group size above 0, or -1 for one group a column"


def _gptq(config: Mapping[str, Any], who: str) -> Declared:
    honoured = (
        *("quant_method", "bits", "group_size", "sym", "desc_act", "dynamic", "lm_head"),
        "modules_in_block_to_quantize",
    )
    only = {
        "checkpoint_format": _FORMATS, "format": _FORMATS, "pack_dtype": ("int32",), "is_marlin_format": (False,),
        "method": ("gptq",), "data_type": ("int",),
    }  # fmt: skip
    check_auto_round(config, who)
    account(config, who, honoured=honoured, harmless=_GPTQ_HARMLESS, only=only)
    bits = integer(config, "bits", lambda n: n in (2, 3, 4, 8), who, "2, 3, 4 or 8")
    integer(config, "group_size", lambda n: n == -1 or n > 0, who, _GROUPS)
    for name in ("sym", "desc_act", "lm_head"):
        flag(config, name, who)
    rules = config.get("dynamic") or {}
    if not isinstance(rules, Mapping):
        raise ModelError(who, f"dynamic holds a {type(rules).__name__}", expected="an object of patterns")
    for pattern, changes in rules.items():
        check_pattern(pattern.removeprefix("-:").removeprefix("+:"), f"{who}.dynamic")
        account(changes or {}, f"{who}.dynamic[{pattern!r}]", honoured=honoured[1:5], harmless=_GPTQ_HARMLESS)
    inner = [name for stage in config.get("modules_in_block_to_quantize") or [] for name in names(stage, who)]
    skipped = names(config.get("modules_to_not_convert") or [], who)

    def kept(name: str) -> bool:
        if name == "lm_head":
            return not config.get("lm_head")
        if dynamic_rule(config, name) is None or any(name == each or name.endswith(f".{each}") for each in skipped):
            return True
        return bool(inner) and not any(name.endswith(f".{each}") for each in inner)

    return Declared("own", kept, bits)


# --- bitsandbytes ---------------------------------------------------------------------------------------------------

_BNB_DTYPES: Final = ("float32", "float16", "bfloat16")


def _bitsandbytes(config: Mapping[str, Any], who: str) -> Declared:
    account(
        config,
        who,
        honoured=(
            *("quant_method", "load_in_8bit", "load_in_4bit", "_load_in_8bit", "_load_in_4bit"),
            *("llm_int8_threshold", "llm_int8_skip_modules", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"),
        ),
        harmless=("llm_int8_enable_fp32_cpu_offload", "bnb_4bit_quant_storage"),
        only={"llm_int8_has_fp16_weight": (False,), "bnb_4bit_compute_dtype": _BNB_DTYPES},
    )
    eight, four = (any(flag(config, f"{p}load_in_{n}bit", who) for p in ("", "_")) for n in (8, 4))
    if eight == four:
        raise ModelError(who, f"load_in_8bit is {eight}, load_in_4bit is {four}", expected="one of them true")
    if four and config.get("bnb_4bit_quant_type", "fp4") not in ("nf4", "fp4"):
        raise ModelError(who, f"bnb_4bit_quant_type {config['bnb_4bit_quant_type']!r}", expected="nf4 or fp4")
    threshold = config.get("llm_int8_threshold", 6.0)
    if eight and (not isinstance(threshold, int | float) or isinstance(threshold, bool) or threshold < 0):
        raise ModelError(who, f"llm_int8_threshold is {threshold!r}", expected="a number from 0")
    patterns = config.get("llm_int8_skip_modules")
    patterns = ["lm_head"] if patterns is None else names(patterns, who)
    for pattern in patterns:
        check_pattern(pattern, f"{who}.llm_int8_skip_modules")

    def kept(name: str) -> bool:
        from transformers.quantizers.quantizers_utils import should_convert_module

        return not should_convert_module(name, patterns)

    if eight:
        return Declared("own", kept, 8, activation_bits=8, execution="int8")
    # a checkpoint that says nothing is computed in transformers' default
    return Declared("own", kept, 4, compute_dtype=config.get("bnb_4bit_compute_dtype") or "float32")


# --- compressed-tensors ---------------------------------------------------------------------------------------------

_ARGUMENTS: Final = (
    "num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic", "actorder", "scale_dtype",
    "zp_dtype",
)  # fmt: skip
_OBSERVERS: Final = ("observer", "observer_kwargs")
COMPRESSED: Final = "compressed"
_COMPRESSED: Final = (
    "int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "mixed-precision",
    "nvfp4-pack-quantized", "mxfp4-pack-quantized",
)  # fmt: skip


def _compressed(config: Mapping[str, Any], who: str) -> Declared:
    sparsity = config.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format") == "dense":
        config = {**config, "sparsity_config": None}  # how many weights are zero: they are stored like all others
    account(
        config,
        who,
        honoured=("quant_method", "config_groups", "ignore", "kv_cache_scheme"),
        harmless=(
            *("global_compression_ratio", "version", "run_compressed", "dequantize", "use_optimized_inference"),
            "provider",
        ),
        only={"quantization_status": (COMPRESSED, "frozen"), "format": _COMPRESSED},
    )
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups or not all(isinstance(each, Mapping) for each in groups.values()):
        raise ModelError(who, f"config_groups is {groups!r}", expected="an object of groups with targets and weights")
    ignored = names(config.get("ignore") or [], who)
    targets: list[str] = []
    bits: list[int] = []
    inputs: list[int] = []
    for name, group in groups.items():
        where = f"{who}.config_groups.{name}"
        parts = ("weights", "input_activations", "output_activations")
        account(group, where, honoured=("targets", *parts), only={"format": _COMPRESSED})
        found = {part: _arguments(group[part], f"{where}.{part}") for part in parts if group.get(part)}
        targets += _targets(names(group.get("targets") or [], where), where)
        bits += [found["weights"]] if "weights" in found else []
        inputs += [found[part] for part in parts[1:] if part in found]
    for pattern in (*targets, *ignored):
        if pattern.startswith("re:"):
            check_pattern(pattern.removeprefix("re:"), who)

    def kept(name: str) -> bool:
        return _matches(name, ignored) or not _matches(name, targets)

    cache = config.get("kv_cache_scheme")
    cache_bits = _static_cache(cache, f"{who}.kv_cache_scheme") if cache else 16
    own = not inputs and not cache and is_plain(config)
    return Declared(
        "own" if own else "transformers", kept, min(bits, default=16), min(inputs, default=16), cache_bits,
        execution="simulated" if inputs or cache else "dequantized",
    )  # fmt: skip


def loadable(path: Path, who: str) -> dict[str, Any] | None:
    """The ``quantization_config`` of a directory as transformers has to be given it; None where its own will do.

    compressed-tensors of 2024 call whatever has been calibrated ``frozen``, and some writers nothing at all, also where
    codes are stored; transformers then takes the codes for weights. That codes are stored is seen where they are read.
    ``compression_config`` it does not read at all.

    Raises:
        ModelError: a file that is no JSON object.
    """
    found = declaring_config(path, who).get(MAIN)
    if not isinstance(found, Mapping) or found.get("quant_method") != "compressed-tensors":
        return None
    there = read_json(path / "config.json", who).get(MAIN) is not None
    return (
        None
        if there and found.get("quantization_status") == COMPRESSED
        else {**found, "quantization_status": COMPRESSED}
    )


def _arguments(value: Any, who: str) -> int:
    """Bits of what is quantized so."""
    if not isinstance(value, Mapping):
        raise ModelError(who, f"holds a {type(value).__name__}", expected="an object")
    account(value, who, honoured=_ARGUMENTS, harmless=_OBSERVERS)
    return integer(value, "num_bits", lambda n: 1 <= n <= 16, who, "1 to 16")


def _static_cache(value: Any, who: str) -> int:
    """Bits of keys and values. Ranges taken from what is asked at a time would make answers depend on company."""
    bits = _arguments(value, who)
    if value.get("dynamic"):
        raise ModelError(who, f"dynamic is {value['dynamic']!r}", expected="false: scales that are stored")
    return bits


def _targets(names: list[str], who: str) -> list[str]:
    classes = [name for name in names if not name.startswith("re:") and "." not in name and name != "Linear"]
    if classes or not names:
        raise ModelError(
            who, f"targets {classes or names}", expected="Linear, names of modules, or patterns (re:...)"
        )  # fmt: skip
    return names


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether compressed-tensors would match a linear layer of this name."""
    return any(
        re.match(each.removeprefix("re:"), name) is not None if each.startswith("re:") else each in (name, "Linear")
        for each in patterns
    )


# --- our own layout -------------------------------------------------------------------------------------------------

_SETTINGS: Final[dict[str, tuple[str, ...]]] = {
    name: tuple(each.name for each in fields(settings))
    for name, settings in {
        "spqr": SpqrSettings, "slim": SlimSettings, "easyquant": EasyQuantSettings, "float8": FloatSettings,
        "quip": QuipSettings, "hqq": HqqSettings,
    }.items()
}  # fmt: skip


def _own(config: Mapping[str, Any], who: str) -> Declared:
    if not is_mixed(config):
        _one(config, who)
        bits = config.get("bits")
        return Declared("own", lambda name: name == "lm_head", bits if isinstance(bits, int) else None)
    account(config, who, honoured=("quant_method", "format", "configs", "layers", "kv_cache"))
    configs, layers = config.get("configs"), config.get("layers")
    if not isinstance(configs, list) or not isinstance(layers, Mapping):
        raise ModelError(who, "no configs or no layers", expected="a list and an object")
    activations = []
    for number, each in enumerate(configs):
        place = f"{who}.configs[{number}]"
        if not isinstance(each, Mapping):
            raise ModelError(place, f"holds a {type(each).__name__}", expected="an object")
        inputs = each.get("activations") or {}
        account(inputs, f"{place}.activations", honoured=[f.name for f in fields(ActivationSettings)])
        activations += [int(inputs.get("bits", ActivationSettings().bits))] if "activations" in each else []
        rest = {key: value for key, value in each.items() if key != "activations"}
        found = _by_layout(rest, place) if rest.get("quant_method") != QUANT_METHOD else _one(rest, place)
        activations += [found.activation_bits]
    cache = config.get("kv_cache") or {}
    account(cache, f"{who}.kv_cache", honoured=[f.name for f in fields(CacheSettings)])
    simulated = bool(cache) or any(bits < 16 for bits in activations)
    return Declared(
        "own", lambda name: name not in layers, None, min(activations, default=16),
        int(cache.get("bits", CacheSettings().bits)) if cache else 16, "simulated" if simulated else "dequantized",
    )  # fmt: skip


def _one(config: Mapping[str, Any], who: str) -> Declared:
    """One layer's or the whole checkpoint's settings of a single format; formats of plugins read their own."""
    name = config.get("format")
    if not isinstance(name, str) or name not in FORMATS:
        raise ModelError(who, f"format {name!r}", expected=f"one of {', '.join(FORMATS)}, mixed")
    if name in _SETTINGS:
        account(config, who, honoured=("quant_method", "format", *_SETTINGS[name]))
    return Declared("own", lambda name: False)


_LAYOUTS: Final[dict[str, Callable[[Mapping[str, Any], str], Declared]]] = {
    "gptq": _gptq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed,
    QUANT_METHOD: _own,
    **LAYOUTS,
}
