"""A checkpoint of any layout as one GGUF file for llama.cpp: weights, fields, vocabulary, chat template.

Matrices are written in a type that the gguf library writes (`TYPES`), everything else in float32; names, fields and the
order of rows are those of llama.cpp's own converter for the architectures in `_ARCHITECTURES`. In F16, BF16 and F32 the
file holds the values that were judged, rounded to that type. Any other type rounds them a second time: what it
holds is another model, to be judged as a candidate. Tensors are read and written one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.errors import ModelError, UsageError
from quantgate.models.files import read_json

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter
    from torch import Tensor

    from quantgate.checkpoints.layouts.protocol import Checkpoint

TYPES: Final = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""What the gguf library both writes and reads; K types and smaller ones only llama.cpp's own tools write."""
FLOATS: Final = ("F32", "F16", "BF16")
_ARCHITECTURES: Final = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # model_type: theirs
_REORDERED: Final = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}  # rows of llama's, by heads
_FIELDS: Final[Mapping[str, str]] = {  # of config.json: the writer's method
    "num_hidden_layers": "add_block_count",
    "hidden_size": "add_embedding_length",
    "intermediate_size": "add_feed_forward_length",
    "num_attention_heads": "add_head_count",
    "num_key_value_heads": "add_head_count_kv",
    "rms_norm_eps": "add_layer_norm_rms_eps",
    "max_position_embeddings": "add_context_length",
    "vocab_size": "add_vocab_size",
}
# how llama.cpp calls the ways to split text before merges, by the patterns and kinds of the tokenizer's steps
_SPLITS: Final = {
    "Digits ByteLevel": "smollm",
    "ByteLevel": "gpt-2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    " ByteLevel": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+ ByteLevel": "llama-bpe",
}
_NORMAL: Final = 1  # types of tokens
_CONTROL: Final = 3
_USER: Final = 4
_UNUSED: Final = 5


def check_gguf(config: Mapping[str, Any], kind: str, who: str) -> None:
    """Check, before anything is computed, that a model of this config.json can be written in the type ``kind``.

    Raises:
        UsageError: another architecture, a scaled rope, or rows that the type's blocks do not divide.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    found = config.get("model_type")
    if found not in _ARCHITECTURES:
        raise UsageError(who, f"model_type {found!r}", expected=f"one of {', '.join(_ARCHITECTURES)} for a GGUF file")
    if (scaling := _rope(config).get("rope_type", "default")) != "default":
        raise UsageError(who, f"rope_type {scaling!r}", expected="default: others are not written here")
    block = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]
    if odd := [name for name in ("hidden_size", "intermediate_size") if int(config[name]) % block]:
        raise UsageError(who, f"{odd[0]} {config[odd[0]]} in blocks of {block}", expected="whole blocks, or F16")


def write_gguf(checkpoint: Checkpoint, texts: Path, kind: str, target: Path, who: str) -> None:
    """Write ``checkpoint`` with the tokenizer in ``texts`` into the new file ``target``, its matrices in ``kind``.

    Raises:
        UsageError: see `check_gguf`.
        ModelError: a tokenizer that llama.cpp has no name for, or a tensor that has no place in its architecture.
    """
    import gguf

    config = checkpoint.config
    check_gguf(config, kind, who)
    arch = _ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(str(target), arch)
    _add_fields(writer, config)
    _add_tokens(writer, config, texts, who)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}" if kind != "F32" else "ALL_F32"])
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    table = gguf.get_tensor_name_map(architecture, int(config["num_hidden_layers"]))
    values = _values(checkpoint, table.get_name, who)
    planned = {name: (own, shape) for name, own, shape in values}
    for name, (_, shape) in planned.items():
        raw = _type(kind, shape)
        writer.add_tensor_info(name, *_described(shape, raw), raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for own, shape in planned.values():
        writer.write_tensor_data(gguf.quants.quantize(_data(checkpoint, own, arch), _type(kind, shape)))
    writer.close()


def _values(
    checkpoint: Checkpoint, name_of: Callable[..., str | None], who: str
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """``(name in the file, name in the architecture, shape)`` of every tensor that is written."""
    tied = bool(checkpoint.config.get("tie_word_embeddings"))
    shapes = {name: shape for name, (_, shape) in checkpoint.plain.items() if not (tied and name == "lm_head.weight")}
    shapes |= {f"{module}.weight": stored.shape for module, stored in checkpoint.modules.items()}
    for own, shape in shapes.items():
        name = name_of(own, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(who, f"{own} has no place in a GGUF file", expected="tensors of its architecture")
        yield name, own, shape


def _type(kind: str, shape: tuple[int, ...]) -> Any:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[kind if len(shape) == 2 else "F32"]


def _described(shape: tuple[int, ...], raw: Any) -> tuple[tuple[int, ...], Any, int]:
    """Shape as the writer wants it (in bytes for blocks), dtype, and bytes."""
    import numpy as np
    from gguf.quants import quant_shape_to_byte_shape

    if raw.name in ("F32", "F16"):
        dtype = np.dtype(np.float32 if raw.name == "F32" else np.float16)
        return shape, dtype, int(np.prod(shape)) * dtype.itemsize
    packed = quant_shape_to_byte_shape(shape, raw)
    return packed, np.dtype(np.uint8), int(np.prod(packed))


def _data(checkpoint: Checkpoint, name: str, arch: str) -> np.ndarray[Any, Any]:
    module = name.removesuffix(".weight")
    values = checkpoint.weight(module) if module in checkpoint.modules else checkpoint.tensor(name).float()
    kind = module.rpartition(".")[2].removesuffix(".bias")
    if arch == "llama" and kind in _REORDERED:
        heads = checkpoint.config.get(_REORDERED[kind]) or checkpoint.config["num_attention_heads"]
        values = reordered(values, int(heads))
    found: np.ndarray[Any, Any] = values.contiguous().numpy()
    return found


def reordered(values: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix (``[heads * size, in]``) as llama.cpp keeps llama's: pairs side by side."""
    return values.reshape(heads, 2, len(values) // heads // 2, -1).transpose(1, 2).reshape(values.shape)


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return found if isinstance(found, Mapping) else {}


def _add_fields(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    for name, method in _FIELDS.items():
        value = config.get(name) or (config["num_attention_heads"] if name == "num_key_value_heads" else None)
        if value is not None:
            getattr(writer, method)(value)
    size = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_dimension_count(size)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_freq_base(float(_rope(config).get("rope_theta", config.get("rope_theta", 10000.0))))


def _add_tokens(writer: GGUFWriter, config: Mapping[str, Any], texts: Path, who: str) -> None:
    """Vocabulary, merges and special tokens of a byte-level BPE tokenizer, and the chat template."""
    from quantgate.models.loading import load_tokenizer

    content = read_json(texts / "tokenizer.json", who)
    split = _split(content.get("pre_tokenizer") or {})
    if content["model"].get("type") != "BPE" or split not in _SPLITS:
        raise ModelError(
            who, f"a {content['model'].get('type')} tokenizer that splits text by {split[:80]!r}",
            expected="a byte-level BPE one that llama.cpp has a name for",
            hint="convert the 16-bit export with llama.cpp's convert_hf_to_gguf.py",
        )  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_SPLITS[split])
    tokens, kinds = _vocabulary(content, int(config["vocab_size"]))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in content["model"]["merges"]])
    tokenizer = load_tokenizer(texts, who)
    for name in ("bos", "eos", "unk", "pad"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(tokenizer.encode("a")[0] == tokenizer.bos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _vocabulary(content: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """All tokens by number, those that no entry has as unused ones, and what kind each is."""
    numbers: dict[int, str] = {number: token for token, number in content["model"]["vocab"].items()}
    added = {each["id"]: each for each in content.get("added_tokens", [])}
    numbers |= {number: each["content"] for number, each in added.items()}
    kinds = [_UNUSED if number not in numbers else _NORMAL for number in range(size)]
    for number, each in added.items():
        if number < size:
            kinds[number] = _CONTROL if each.get("special") else _USER
    return [numbers.get(number, f"[PAD{number}]") for number in range(size)], kinds


def _split(step: Mapping[str, Any]) -> str:
    """The steps of a pre-tokenizer in words: kinds, and patterns in place of ``Split``."""
    if step.get("type") == "Sequence":
        return " ".join(_split(each) for each in step.get("pretokenizers", []))
    if step.get("type") == "Split":
        return str((step.get("pattern") or {}).get("Regex", ""))
    return str(step.get("type", ""))
