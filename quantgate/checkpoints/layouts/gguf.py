"""GGUF: one file, a folder with one, or files split by llama.cpp; unpacked by the gguf library.

Names of tensors are mapped by that library's own tables from those of the reference. llama.cpp keeps the rows of query
and key matrices of llama-like models in another order, and Gemma's norms with 1 added: both are undone. Vocabulary,
merges, special tokens and chat template lie in the file as well; they are compared with the reference's, and the
reference's are used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.findings import ERROR, FACT, WARNING, Finding
from quantgate.checkpoints.layouts.gguf_header import GgufTensor, read_header
from quantgate.checkpoints.layouts.protocol import StoredModule
from quantgate.core import reading
from quantgate.core.errors import ModelError, translated
from quantgate.models.files import read_json
from quantgate.models.tensors import stored

if TYPE_CHECKING:
    from torch import Tensor

_MAGIC: Final = b"GGUF"
_SPLIT: Final = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_TURNED: Final = ("llama", "granite", "granitemoe", "minicpm", "deci", "smollm3", "mistral3")  # q and k rows reordered
_ONE_ADDED: Final = ("gemma", "gemma2", "gemma3")  # to the weights of norms
_PLAIN: Final = {"F64": "F64", "F32": "F32", "F16": "F16", "BF16": "BF16"}
_SIGNED: Final = ("Q4_0", "Q5_0", "Q8_0", "Q3_K", "Q6_K")  # without a minimum of each block
_MALFORMED: Final = (
    KeyError, ValueError, IndexError, TypeError, AttributeError, ArithmeticError, AssertionError, RuntimeError,
)  # fmt: skip
_FIELDS: Final = {  # of the file, and of config.json
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "context_length": "max_position_embeddings",
}
_SHOWN: Final = 3
_NEAR: Final = 1e-5  # relative: fields are float32


@dataclass(frozen=True)
class Gguf:
    """The row; see `Layout`."""

    name: str = "gguf"

    def recognises(self, place: Path, config: Mapping[str, Any]) -> bool:
        """A file that begins as GGUF files do, or a folder of such files without a config.json."""
        if place.is_dir():
            return not config and any(place.glob("*.gguf"))
        with place.open("rb") as file:
            return file.read(4) == _MAGIC

    def open(self, place: Path, reference: Path | None, who: str) -> GgufCheckpoint:
        """See `Layout.open`; without a reference tensors keep the names that they have in the file."""
        return GgufCheckpoint(files_of(place, who), reference, who)


LAYOUT: Final = Gguf()


def files_of(place: Path, who: str) -> list[Path]:
    """The file, or all files that it was split into.

    Raises:
        ModelError: a folder with several models, or a part that is missing.
    """
    files = sorted(place.glob("*.gguf")) if place.is_dir() else [place]
    first = _SPLIT.fullmatch(files[0].name)
    if first is not None:
        names = [f"{first[1]}-{number:05d}-of-{first[3]}.gguf" for number in range(1, int(first[3]) + 1)]
        files = [files[0].parent / name for name in names]
    elif len(files) > 1:
        raise ModelError(who, f"{len(files)} GGUF files", expected="one model", hint="name the file that is meant")
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(who, f"{missing[0]} is missing", expected="all parts", hint="finish the download")
    return files


@dataclass
class GgufCheckpoint:
    """An opened file; see `Checkpoint`."""

    files: list[Path]
    reference: Path | None
    who: str
    layout: str = "gguf"
    fields: dict[str, Any] = field(default_factory=dict)
    found: dict[str, GgufTensor] = field(default_factory=dict)  # by their names in the file

    def __post_init__(self) -> None:
        for path in self.files:
            header = read_header(path, self.who)
            self.fields = header.fields | self.fields
            for tensor in header.tensors:
                if tensor.name in self.found:
                    raise ModelError(self.who, f"{tensor.name} is there twice", expected="every tensor once")
                self.found[tensor.name] = tensor

    def value(self, name: str) -> Any:
        """A field of the file; None where there is none."""
        return self.fields.get(name)

    @property
    def architecture(self) -> str:
        """As llama.cpp names it."""
        return str(self.value("general.architecture"))

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The reference's config.json: what the file says otherwise, `suspicions` names."""
        return read_json(self.reference / "config.json", self.who) if self.reference else {}

    @cached_property
    def names(self) -> dict[str, str]:
        """Name in the reference's architecture -> name in the file."""
        if self.reference is None:
            return {name: name for name in self.found}
        import gguf

        arch = next((key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture), None)
        if arch is None:
            raise ModelError(
                self.who, f"architecture {self.architecture!r}", expected="one that the gguf library knows"
            )
        table = gguf.get_tensor_name_map(arch, self._blocks())
        pairs = ((name, table.get_name(name, try_suffixes=(".weight", ".bias"))) for name in stored(self.reference))
        return {ours: theirs for ours, theirs in pairs if theirs in self.found}

    def _blocks(self) -> int:
        count = self.value(f"{self.architecture}.block_count") or 0
        if not isinstance(count, int) or not 0 <= count <= len(self.found):
            raise ModelError(
                self.who, f"block_count {count!r}", expected=f"a number up to {len(self.found)}, of tensors"
            )
        return count

    @cached_property
    def modules(self) -> Mapping[str, StoredModule]:
        """Matrices of any type but floats."""
        chosen = {name: self.found[theirs] for name, theirs in self.names.items()}
        return {
            name.removesuffix(".weight"): _described(tensor)
            for name, tensor in chosen.items()
            if tensor.kind.name not in _PLAIN
        }

    @cached_property
    def plain(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Tensors of floats."""
        chosen = {name: self.found[theirs] for name, theirs in self.names.items()}
        return {
            name: (_PLAIN[tensor.kind.name], tensor.shape)
            for name, tensor in chosen.items()
            if tensor.kind.name in _PLAIN
        }

    def weight(self, module: str) -> Tensor:
        """See `Checkpoint.weight`."""
        return self.tensor(f"{module}.weight" if f"{module}.weight" in self.names else module).float()

    def tensor(self, name: str) -> Tensor:
        """See `Checkpoint.tensor`; float32, in the reference's order of rows."""
        import torch

        source = self.found[self.names[name]]
        with translated(f"{self.who}: {name}", "cannot be unpacked", expected="a whole tensor", also=_MALFORMED):
            from gguf.quants import dequantize

            values = torch.from_numpy(dequantize(source.data(), source.kind).copy()).reshape(source.shape)
            return self._as_reference(name, values)

    def scales(self, module: str) -> Mapping[str, Tensor]:
        """None by themselves: they lie between the codes."""
        return {}

    def suspicions(self) -> list[Finding]:
        """Tensors without a place, and what the file says otherwise than the reference."""
        if self.reference is None:
            return []
        with translated(
            self.who, "fields that cannot be read", expected="numbers, texts and lists as llama.cpp writes them",
            hint="convert the model anew", also=_MALFORMED,
        ):  # fmt: skip
            return [*self._unplaced(), *self._fields(), *self._vocabulary()]

    def _as_reference(self, name: str, values: Tensor) -> Tensor:
        if self.architecture in _ONE_ADDED and name.endswith("norm.weight"):
            return values - 1
        kind = name.rpartition(".")[0].rpartition(".")[2]
        if self.architecture not in _TURNED or kind not in ("q_proj", "k_proj"):
            return values
        key = "head_count" if kind == "q_proj" else "head_count_kv"
        heads = int(self.value(f"{self.architecture}.attention.{key}"))
        return values.reshape(heads, values.shape[0] // heads // 2, 2, -1).transpose(1, 2).reshape(values.shape)

    def _unplaced(self) -> Iterator[Finding]:
        rest = sorted(set(self.found) - set(self.names.values()) - {"rope_freqs.weight"})
        tied = self.config.get("tie_word_embeddings") and "output.weight" in rest
        if tied:
            rest.remove("output.weight")
            yield Finding("untied_head", FACT, "an output head of its own, where the reference's is tied", ("lm_head",))
        if rest:
            yield Finding("unplaced", WARNING, f"tensors without a place: {', '.join(rest[:_SHOWN])}", tuple(rest))

    def _fields(self) -> Iterator[Finding]:
        rope = self.config.get("rope_parameters")
        ours = {**self.config, **(rope if isinstance(rope, Mapping) else {})}
        for theirs, name in _FIELDS.items():
            value, wanted = self.value(f"{self.architecture}.{theirs}"), ours.get(name)
            if value is None or wanted is None or isinstance(value, list):
                continue
            if not math.isclose(float(value), float(wanted), rel_tol=_NEAR):
                sentence = f"{theirs} is {value:g} in the file, and {name} {wanted:g} in the reference"
                yield Finding("config", ERROR, sentence, (), {"theirs": float(value), "ours": float(wanted)})
        yield from self._end()

    def _end(self) -> Iterator[Finding]:
        """The file's end token, against all that the reference's files name."""
        assert self.reference is not None
        eos = self.value("tokenizer.ggml.eos_token_id")
        places = [self.config, *(read_json(file, self.who) for file in self.reference.glob("generation_config.json"))]
        named = [place["eos_token_id"] for place in places if place.get("eos_token_id") is not None]
        ends = {number for each in named for number in (each if isinstance(each, list) else [each])}
        if eos is not None and ends and eos not in ends:
            shown = ", ".join(map(str, sorted(ends)))
            yield Finding("end_token", ERROR, f"texts end with token {eos} in the file, with {shown} in the reference")

    def _vocabulary(self) -> Iterator[Finding]:
        """The file's own tokenizer by what it holds."""
        assert self.reference is not None
        tokens = self.value("tokenizer.ggml.tokens")
        if not tokens or not (self.reference / "tokenizer.json").is_file():
            return
        content = reading.read_json(self.reference / "tokenizer.json")
        vocabulary = content["model"].get("vocab", {})
        if isinstance(vocabulary, dict):
            added = {each["content"]: each["id"] for each in content.get("added_tokens", [])}
            wrong = [
                token for token, number in {**vocabulary, **added}.items() if _at(tokens, number) not in (token, None)
            ]
            if wrong:
                shown = ", ".join(map(repr, wrong[:_SHOWN]))
                yield Finding("tokens", ERROR, f"the file's tokenizer numbers {len(wrong)} tokens otherwise ({shown})")
        merges = [" ".join(each) if isinstance(each, list) else each for each in content["model"].get("merges", [])]
        theirs = self.value("tokenizer.ggml.merges")
        if merges and theirs and merges != theirs:
            yield Finding("merges", ERROR, "the file's tokenizer merges otherwise than the reference's")
        template = self.reference / "chat_template.jinja"
        own = self.value("tokenizer.chat_template")
        if own and template.is_file() and own.strip() != reading.read_text(template).strip():
            yield Finding("template", ERROR, "the file's chat template is not the reference's")


def _at(tokens: list[str], number: int) -> str | None:
    return tokens[number] if number < len(tokens) else None


def _described(tensor: GgufTensor) -> StoredModule:
    import gguf

    kind = tensor.kind.name
    block, nbytes = gguf.GGML_QUANT_SIZES[tensor.kind]
    digits = re.search(r"\d", kind)
    bits = float(digits[0]) if digits else 8 * nbytes / block
    shape = tensor.shape
    uniform = kind.startswith("Q")
    group = block if block <= 32 else (32 if kind in ("Q4_K", "Q5_K") else 16)
    height, width = (shape[0], shape[1]) if len(shape) == 2 else (math.prod(shape[:-1]), shape[-1])
    return StoredModule(
        "int" if uniform else "levels", bits, group, kind in _SIGNED if uniform else None, kind, tensor.nbytes,
        (height, width),
    )  # fmt: skip
