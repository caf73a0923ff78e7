"""Fields of layouts whose matrices are unpacked into 16-bit files before they are run; see `declared`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from quantgate.checkpoints.fields import Declared, account, check_pattern, integer, names, torchao_type
from quantgate.checkpoints.static_cache import BITS
from quantgate.core.errors import ModelError

_HARMLESS: Final = (
    "modules_to_fuse", "do_fuse", "fuse_max_seq_len", "exllama_config", "backend", "meta", "desc_act", "pack_dtype",
    "damp_percent", "true_sequential", "static_groups", "model_name_or_path", "tokenizer", "dataset", "lm_head",
)  # fmt: skip
AUTO_ROUND: Final = (
    "amp", "autoround_version", "enable_minmax_tuning", "enable_quanted_input", "gradient_accumulate_steps", "iters",
    "low_gpu_mem_usage", "lr", "minmax_lr", "nsamples", "seqlen", "provider", "block_name_to_quantize", "batch_size",
    "train_bs", "dataset", "scale_dtype", "enable_norm_bias_tuning", "to_quant_block_names", "quant_block_list",
    "super_bits", "super_group_size", "enable_adam", "model_free", "supported_types",
    "act_bits", "act_dynamic", "act_sym", "act_data_type", "act_group_size",
)  # fmt: skip
"""How AutoRound looked for the weights, in whatever layout it wrote them; `check_auto_round` reads the last five."""


def _kept(patterns: list[str]) -> Callable[[str], bool]:
    """``lm_head``, and every module in whose name one of ``patterns`` appears: as transformers reads such lists."""
    return lambda name: name == "lm_head" or any(each in name for each in patterns)


_PACKINGS: Final = ("gemm", "gemv")


def awq(config: Mapping[str, Any], who: str) -> Declared:
    """AWQ in the packings ``gemm`` and ``gemv``. Raises ModelError."""
    synonyms = {"w_bit": "bits", "q_group_size": "group_size"}
    for short, name in synonyms.items():
        if short in config and name in config and config[short] != config[name]:
            raise ModelError(
                who, f"{short} is {config[short]!r}, {name} is {config[name]!r}", expected="one of them, or both alike"
            )
    config = {synonyms.get(name, name): value for name, value in config.items()}
    check_auto_round(config, who)
    account(
        config, who, honoured=("quant_method", "bits", "group_size", "zero_point", "sym", "modules_to_not_convert"),
        harmless=(*_HARMLESS, *AUTO_ROUND),
        only={
            "version": (*_PACKINGS, *map(str.upper, _PACKINGS)), "format": _PACKINGS, "method": ("awq",),
            "checkpoint_format": _PACKINGS,
            "data_type": ("int",), "ignore": (config.get("modules_to_not_convert"),),
        },
    )  # fmt: skip
    bits = integer(config, "bits", lambda n: n == 4, who, "4")
    return Declared("unfolded", _kept(names(config.get("modules_to_not_convert") or [], who)), bits)


def check_auto_round(config: Mapping[str, Any], who: str) -> None:
    """Raise ModelError where AutoRound quantized activations too."""
    if config.get("act_bits") not in (None, 16, 32):
        raise ModelError(
            who, f"act_bits is {config['act_bits']!r}", expected="16: quantized activations are not computed here"
        )


def auto_round(config: Mapping[str, Any], who: str) -> Declared:
    """AutoRound's own ``quant_method``. Raises ModelError for quantized activations, or another packing."""
    check_auto_round(config, who)
    account(
        config, who,
        honoured=("quant_method", "bits", "group_size", "sym", "extra_config", "packing_format"),
        harmless=(*AUTO_ROUND, *_HARMLESS), only={"data_type": ("int",)},
    )  # fmt: skip
    bits = integer(config, "bits", lambda n: n in (2, 3, 4, 8), who, "2, 3, 4 or 8")
    extra = config.get("extra_config") or {}
    if not isinstance(extra, Mapping):
        raise ModelError(who, f"extra_config holds a {type(extra).__name__}", expected="an object of layers")
    for pattern in extra:
        check_pattern(pattern, f"{who}.extra_config")
    sixteen = {name for name, each in extra.items() if isinstance(each, Mapping) and each.get("bits", bits) >= 16}
    return Declared("unfolded", lambda name: name == "lm_head" or name in sixteen, bits)


_CACHE: Final = ("kv_cache_scheme", "kv_cache_quant_algo")
_FP8_CACHE: Final = ("FP8", "static", {"num_bits": 8, "type": "float", "dynamic": False})


def of_cache(config: Mapping[str, Any]) -> Any:
    """In which form keys and values are kept: ``FP8`` in whichever words, None for 16 bit, or what it says."""
    said = [config[name] for name in _CACHE if config.get(name)]
    return "FP8" if said and all(any(value == each for each in _FP8_CACHE) for value in said) else (said or None)


def _keeps_fp8(config: Mapping[str, Any], who: str) -> int:
    """Bits of keys and values: 8 where they are FP8 by stored scales, in whichever words. Raises ModelError."""
    said = {name: config[name] for name in _CACHE if config.get(name)}
    for name, value in said.items():
        if not any(value == each for each in _FP8_CACHE):
            raise ModelError(
                who, f"{name} {value!r}",
                expected="keys and values in 16 bit, or in FP8 by stored scales: others are not computed here",
                hint="look into it with quantgate audit; to judge it, ask the server that runs it",
            )  # fmt: skip
    return BITS if said else 16


def fp8(config: Mapping[str, Any], who: str) -> Declared:
    """FP8 in blocks, as DeepSeek and Qwen publish it, or with one scale a matrix. Raises ModelError.

    Its runtimes quantize inputs too: by token and block of the weight, by token, or by a scale stored for each matrix.
    """
    cached = _keeps_fp8(config, who)
    account(
        config, who,
        honoured=("quant_method", "weight_block_size", "modules_to_not_convert", "ignored_layers", *_CACHE),
        harmless=("dequantize", "scale_fmt"), only={"activation_scheme": ("dynamic", "static"), "fmt": ("e4m3",)},
    )  # fmt: skip
    skipped = [*names(config.get("modules_to_not_convert") or [], who), *names(config.get("ignored_layers") or [], who)]
    block = config.get("weight_block_size")
    if block and not (isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)):
        raise ModelError(who, f"weight_block_size is {block!r}", expected="two sizes, rows and columns")
    dynamic = config.get("activation_scheme", "dynamic") == "dynamic"
    if block and not dynamic:
        raise ModelError(who, "activation_scheme is 'static' with blocks", expected="dynamic: no runtime computes that")
    shape = {"granularity": "group", "group_size": block[1]} if block else {"granularity": "token"}
    inputs = {"bits": 8, "kind": "e4m3", **(shape if dynamic else {"granularity": "tensor", "dynamic": False})}
    return Declared("unfolded", _kept(skipped), 8, 8, cached, execution="simulated", inputs=inputs)


_MODELOPT: Final[dict[str, dict[str, Any]]] = {
    "FP8": {"bits": 8, "kind": "e4m3", "granularity": "tensor", "dynamic": False},
    "NVFP4": {"bits": 4, "kind": "nvfp4", "granularity": "group", "group_size": 16},
}


def modelopt(config: Mapping[str, Any], who: str) -> Declared:
    """ModelOpt's FP8 and NVFP4, whose inputs are quantized by stored scales. Raises ModelError."""
    algorithm = config.get("quant_algo")
    if not isinstance(algorithm, str) or algorithm not in _MODELOPT:
        raise ModelError(who, f"quant_algo {algorithm!r}", expected=" or ".join(_MODELOPT))
    cached = _keeps_fp8(config, who)
    account(
        config, who, honoured=("quant_method", "quant_algo", "ignore", "exclude_modules", *_CACHE),
        harmless=("producer", "config_groups", "quantization_status", *(["group_size"] if algorithm == "FP8" else [])),
        only={"group_size": (16,)},
    )  # fmt: skip
    patterns = [each for name in ("ignore", "exclude_modules") for each in names(config.get(name) or [], who)]
    inputs = _MODELOPT[algorithm]
    return Declared(
        "unfolded", lambda name: name == "lm_head" or any(fnmatchcase(name, each) for each in patterns),
        inputs["bits"], inputs["bits"], cached, execution="simulated", inputs=inputs,
    )  # fmt: skip


def torchao(config: Mapping[str, Any], who: str) -> Declared:
    """torchao's weight-only configurations. Raises ModelError where activations are quantized too."""
    account(
        config, who, honoured=("quant_method", "quant_type", "modules_to_not_convert"),
        harmless=("quant_type_kwargs", "untie_embedding_weights"), only={"include_input_output_embeddings": (False,)},
    )  # fmt: skip
    kind = config.get("quant_type")
    if "Activation" in str(kind):
        raise ModelError(
            who, "torchao's configuration quantizes activations", expected="a weight-only configuration",
            hint="look into it with quantgate audit; to judge it, ask the server that runs it",
        )  # fmt: skip
    if "WeightOnly" not in torchao_type(config):
        raise ModelError(who, f"quant_type {kind!r}", expected="one of torchao's ...WeightOnlyConfig")
    return Declared("unfolded", _kept(names(config.get("modules_to_not_convert") or [], who)))


def hqq(config: Mapping[str, Any], who: str) -> Declared:
    """HQQ: what a matrix is, the tensors beside it say. Raises ModelError."""
    account(
        config, who, honoured=("quant_method", "quant_config", "skip_modules"), harmless=("dynamic_config",),
    )  # fmt: skip
    inner = config.get("quant_config") or {}
    weights = inner.get("weight_quant_params") if isinstance(inner, Mapping) else None
    if not isinstance(weights, Mapping):
        raise ModelError(who, f"quant_config {inner!r}", expected="an object with weight_quant_params")
    for name in ("scale_quant_params", "zero_quant_params"):
        if inner.get(name):
            raise ModelError(who, f"{name} {inner[name]!r}", expected="scales and zero points in 16 bit")
    bits = integer(weights, "nbits", lambda n: n in (1, 2, 3, 4, 8), who, "1, 2, 3, 4 or 8")
    return Declared("unfolded", _kept(names(config.get("skip_modules") or [], who)), bits)


def quanto(found: Mapping[str, Any], who: str) -> Declared:
    """quanto's map of modules (``quanto_qmap.json``). Raises ModelError where activations are quantized too."""
    for name, how in found.items():
        if not isinstance(how, Mapping) or not isinstance(how.get("weights"), str):
            raise ModelError(who, f"{name}: {how!r}", expected="an object with weights and activations")
        if how.get("activations") not in (None, "none"):
            raise ModelError(
                who, f"{name} quantizes activations to {how['activations']}", expected="weights alone",
                hint="look into it with quantgate audit; activations of quanto are not computed here",
            )  # fmt: skip
    return Declared("unfolded", lambda name: name not in found)


_MLX_FIELDS: Final = ("quant_method", "bits", "group_size")


def mlx(config: Mapping[str, Any], who: str) -> Declared:
    """MLX's affine mode, whose weights alone are quantized; a matrix of its own width, or in 16 bit, is a field.

    Raises:
        ModelError: another mode, bits or groups that it does not have, or a field that nothing here computes.
    """
    own = {name: how for name, how in config.items() if isinstance(how, Mapping | bool)}
    whole = {name: value for name, value in config.items() if name not in own}
    for place, how in [(who, whole), *own.items()]:
        if isinstance(how, Mapping):
            account(how, place, honoured=_MLX_FIELDS, only={"mode": ("affine",)})
            integer(how, "bits", lambda n: n in (2, 3, 4, 5, 6, 8), place, "2, 3, 4, 5, 6 or 8")
            integer(how, "group_size", lambda n: n in (32, 64, 128), place, "32, 64 or 128")
        elif how:
            raise ModelError(
                who, f"{place} is true", expected="false, for a matrix in 16 bit, or its bits and group size"
            )
    return Declared("unfolded", lambda name: own.get(name) is False, config["bits"])


LAYOUTS: Final[dict[str, Callable[[Mapping[str, Any], str], Declared]]] = {
    "awq": awq,
    "auto-round": auto_round,
    "fp8": fp8,
    "modelopt": modelopt,
    "torchao": torchao,
    "hqq": hqq,
    "mlx": mlx,
}
