"""A quantized checkpoint: safetensors and json files only, in layouts that other runtimes read.

``model.safetensors`` (sharded above 4 GB) holds the packed linear layers and everything else in 16 bit;
``config.json`` carries ``quantization_config``, repeated as ``quantize_config.json`` for AutoGPTQ; tokenizer files are
copied; ``quantgate.json`` is the record. An output head that is tied to the embedding is not stored a second time.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from quantgate.checkpoints import formats
from quantgate.checkpoints.mixed import layer_config
from quantgate.checkpoints.record import LAYOUTS, check_layout, layers_of, write_json
from quantgate.core import reading
from quantgate.core.errors import ModelError, translated
from quantgate.models.accounting import REPORTING, check_loaded, check_placed
from quantgate.models.digest import HEAD, is_tied
from quantgate.models.files import read_json, weight_files
from quantgate.models.loading import moved, read_config
from quantgate.models.spill import Spill
from quantgate.models.tensors import reading_weights, stored
from quantgate.quantize.algorithms import bnb, floats
from quantgate.quantize.base import StoredWeight
from quantgate.quantize.numerics import uniform
from quantgate.quantize.settings import QUANT_METHOD
from quantgate.quantize.transforms import activations

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHARD_BYTES: Final = 4 * 1000**3
_REWRITE: Final = "compare quantization_config with the tensors, or write the checkpoint again"
# What settings that others wrote may raise where they are read
_MALFORMED: Final = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    re.error,
)
TEXTS: Final = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
)


def stored_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in the weights that the loader reads, one at a time; see `files.weight_files`."""
    stored(directory)  # whole files, and every name once
    for path in weight_files(directory).files:
        with reading_weights(path):
            file: Any = safe_open(path, framework="pt")
        with file:
            for name in file.keys():  # noqa: SIM118  # safe_open is no mapping
                with reading_weights(path):
                    tensor = file.get_tensor(name)
                yield name, tensor


def write(
    source: Path,
    target: Path,
    quantized: Mapping[str, StoredWeight],
    config: Mapping[str, Any],
    dtype: torch.dtype,
    others: Mapping[str, Tensor] | None = None,
) -> int:
    """Write weights, configuration and tokenizer of ``source`` with its ``quantized`` layers into ``target``.

    ``others`` are written as they are, instead of those of ``source`` or beside them: norms with a scale folded in, the
    grids of static activations.

    Returns:
        Bytes of the tensors that represent the quantized layers (biases, which stay 16 bit, are not counted).

    Raises:
        ModelError: ``source`` does not hold the weight of a quantized layer.
    """
    target.mkdir(parents=True, exist_ok=True)
    state: dict[str, Tensor] = {}
    waiting = {f"{name}.weight" for name in quantized}
    for name, tensor in stored_tensors(source):
        if name in waiting:
            waiting.discard(name)
        else:
            state[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    source_config = reading.read_json(source / "config.json")
    if HEAD in waiting and is_tied(source_config):
        waiting.discard(HEAD)  # quantized apart from the embedding it was tied to
        source_config["tie_word_embeddings"] = False
    if waiting:
        raise ModelError(str(source), f"no tensor {min(waiting)}", expected="names as in the model's modules")
    if HEAD in (others or {}):
        source_config["tie_word_embeddings"] = False  # it differs from the embedding now
    if HEAD in state and is_tied(source_config):
        _tie(state)
    state |= {name: tensor.cpu() for name, tensor in (others or {}).items()}
    packed = {f"{name}.{key}": t.cpu() for name, weight in quantized.items() for key, t in weight.tensors().items()}
    save(state | packed, target)
    _write_configs(source_config, config, dtype, target)
    for name in TEXTS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    return sum(tensor.nbytes for tensor in packed.values())


def _tie(state: dict[str, Tensor]) -> None:
    """Drop an output head that is stored beside the embedding it is tied to."""
    if any(name.endswith("embed_tokens.weight") and torch.equal(state[name], state[HEAD]) for name in state):
        del state[HEAD]


def untie(source: Path, target: Path) -> None:
    """Store the output head of ``source``, a checkpoint of ours with tied embeddings, in ``target`` (a copy) too.

    For auto-gptq, whose loader otherwise leaves the head at zero.
    """
    state = dict(stored_tensors(source))
    embeddings = [name for name in state if name.endswith("embed_tokens.weight")]
    if len(embeddings) == 1:
        replace_weights(state | {HEAD: state[embeddings[0]].clone()}, target)


def ties_its_head(directory: Path) -> bool:
    """Whether the checkpoint's output head is its embedding, stored once."""
    return is_tied(read_json(directory / "config.json", str(directory))) and HEAD not in stored(directory)


def save(state: Mapping[str, Tensor], target: Path) -> None:
    """Write tensors as ``model.safetensors``, or as shards with an index when they are large."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if shards[-1] and size + tensor.nbytes > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.contiguous()
        size += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], target / "model.safetensors", metadata={"format": "pt"})
        return
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, target / name, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in state.values())
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    write_json(target / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def replace_weights(state: Mapping[str, Tensor], target: Path) -> None:
    """Put ``state`` in the place of all tensors that the checkpoint ``target`` holds."""
    for path in (*target.glob("*.safetensors"), target / "model.safetensors.index.json"):
        path.unlink(missing_ok=True)
    save(state, target)


def _write_configs(
    source: Mapping[str, Any], quantization: Mapping[str, Any], dtype: torch.dtype, target: Path
) -> None:
    config = dict(source) | {"quantization_config": dict(quantization), "dtype": str(dtype).removeprefix("torch.")}
    config.setdefault("torch_dtype", config["dtype"])  # the key of transformers 4
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])  # older loaders look at the top level only
    write_json(target / "config.json", config)
    if quantization.get("quant_method") == "gptq":
        write_json(target / "quantize_config.json", quantization)


def load_quantized(directory: Path, dtype: torch.dtype, device: str | torch.device = "cpu") -> PreTrainedModel:
    """The model of a checkpoint that `write` made, in eval mode.

    Grids, NF4 and FP4 are dequantized to ``dtype``: the weights equal, bit for bit, those the algorithm computed with.
    LLM.int8 layers stay int8 and quantize their activations; other quantized activations and caches are simulated.

    Raises:
        ModelError: files or tensors are missing, left over or do not fit, or the layout is not one of ours.
    """
    who = str(directory)
    config = read_config(directory, who)
    quantization: Any = getattr(config, "quantization_config", None)
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method not in LAYOUTS:
        raise ModelError(who, f"quant_method {method!r}", expected=f"one of {', '.join(LAYOUTS)}")
    del config.quantization_config
    state, layers = read_layers(directory, quantization)
    grids = {name: state.pop(name) for name in list(state) if name.rpartition(".")[2] in activations.PARTS}
    plain = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    spill, weights = Spill(who), dict[str, Tensor]()
    replaced: dict[str, bnb.Int8Weight] = {}
    with translated(who, "its packed weights cannot be unpacked", hint="write the checkpoint again"):
        for name, layer in layers.items():
            weights[f"{name}.weight"] = spill.keep(layer.dequantize(dtype))
            if isinstance(layer, bnb.Int8Weight):
                replaced[name] = layer
    tensors = plain | weights
    with translated(who, "cannot be loaded", expected="a model that transformers loads", hint="check the files"):
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        model, info = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
            None, config=config, state_dict=dict(tensors), dtype=dtype, **REPORTING
        )
    check_loaded(model, info, who, tensors.__getitem__)
    check_placed((name for name in grids if name.rpartition(".")[0] not in layers), who)
    for name in layers:
        _install(model, name, replaced.get(name), layer_config(quantization, name), grids)
    if (directory / "generation_config.json").is_file():  # for whoever lets the model generate by itself
        with translated(who, "generation_config.json cannot be read", hint="check the file, or remove it"):
            from transformers import GenerationConfig

            model.generation_config = GenerationConfig.from_pretrained(directory)
    if "kv_cache" in quantization:
        activations.install_cache(model, quantization["kv_cache"], who)
    return moved(model, device, who).eval()


def _install(
    model: Any, name: str, layer: bnb.Int8Weight | None, config: Mapping[str, Any], grids: Mapping[str, Tensor]
) -> None:
    """Put in what computes differently from a plain linear layer."""
    if layer is not None:
        bias = model.get_submodule(name).bias
        model.set_submodule(name, bnb.int8_linear(layer, bias, config["llm_int8_threshold"]))
    if "activations" in config:
        mine = {part: grids[f"{name}.{part}"] for part in activations.PARTS if f"{name}.{part}" in grids}
        activations.install(model, name, config["activations"], mine)


def is_known_layout(config: Mapping[str, Any]) -> bool:
    """Whether ``load_quantized`` reads a checkpoint with this config.json."""
    return (config.get("quantization_config") or {}).get("quant_method") in LAYOUTS


class Layers(Mapping[str, StoredWeight]):
    """The quantized layers of a checkpoint by name. Each is read whenever it is asked for, and kept by nobody.

    Raises:
        ModelError: a layer that is asked for is not complete, or has no configuration.
    """

    def __init__(self, parts: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any], directory: Path) -> None:
        self._parts, self._config, self._directory = parts, config, directory

    def __getitem__(self, name: str) -> StoredWeight:
        parts = self._parts[name]  # a KeyError, as of any mapping
        with translated(
            f"{self._directory}: {name}",
            "incomplete layer or wrong settings",
            expected="the tensors and settings of its layout",
            hint=_REWRITE,
            also=_MALFORMED,
        ):
            mine = layer_config(self._config, name)
            return _reader(mine)(parts, mine, f"{self._directory}: {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts  # Mapping's own would read the layer


def read_layers(directory: Path, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], Layers]:
    """All tensors that are stored as they are, and the quantized layers by name.

    Args:
        directory: the checkpoint.
        config: its ``quantization_config``.

    Raises:
        ModelError: the weights cannot be read, or one of fewer than 16 bits is no layer's; see `Layers`.
    """
    state = dict(stored_tensors(directory))
    found = layers_of(state, config)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensors in found.items():
        parts[name] = {key: state.pop(tensor) for key, tensor in tensors.items()}
    for name in found:
        if f"{name}.weight" in state:  # bitsandbytes keeps its codes under the name of an ordinary weight
            parts[name]["weight"] = state.pop(f"{name}.weight")
    for name, tensor in state.items():
        if name.endswith(".weight") and (tensor.itemsize < 2 or not tensor.is_floating_point()):
            raise ModelError(
                f"{directory}: {name}",
                f"{tensor.dtype} numbers and nothing that says what they stand for",
                expected="the scale of a quantized layer beside it",
                hint=_REWRITE,
            )
    return state, Layers(parts, config, directory)


def _reader(config: Mapping[str, Any]) -> _Reader:
    """What reads a layer."""
    check_layout(config)
    return _READERS[config["quant_method"]]


_Reader = Callable[[Mapping[str, Tensor], Mapping[str, Any], str], StoredWeight]
_READERS: Final[dict[str, _Reader]] = {
    "gptq": uniform.from_tensors,
    QUANT_METHOD: formats.from_tensors,
    "compressed-tensors": floats.from_compressed,
    "bitsandbytes": bnb.from_tensors,
}
