"""Which files a model directory consists of: one rule, that of transformers' loader, for all who ask.

Digest, audit, loaders, sizes and the check for completeness go through `weight_files` and `model_files`, so that what
is judged is what is loaded. The rule (``transformers.modeling_utils._get_resolved_checkpoint_files``, 5.17): the file
that ``transformers_weights`` in config.json names; otherwise ``model.safetensors``; otherwise the shards that
``model.safetensors.index.json`` names. Other weights in the directory are leftovers: nobody reads them, and they are
named.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.errors import ModelError
from quantgate.core.reading import Unreadable

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
SIDE_FILES: Final = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", "quantization_config.json")
"""Where quantizations are declared beside config.json."""
CONFIGS: Final = ("config.json", "generation_config.json", *SIDE_FILES)
PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_WEIGHTS: Final = ("*.safetensors", "*.safetensors.index.json", "*.gguf", *PICKLES)
VOCABULARIES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""One of them is in every directory that brings a tokenizer."""
# every name that a tokenizer class of transformers reads, and the forms in which chat templates come
TOKENIZERS: Final = (
    "*token*.json", "*vocab*.json", "*vocab*.txt", "merges*.txt", "dict.txt", "*.model", "*.bpe", "*.tiktoken",
    "*.tokenizer", "*.vocab", "*.codes", "tekken.json", "special_tokens_map.json", "normalizer.json",
    "byte_maps.json", "emoji.json", "word_*.json", "tokenization_*.json", "chat_template*.json", "*.jinja",
)  # fmt: skip
_TEMPLATES: Final = "additional_chat_templates"


@dataclass(frozen=True)
class WeightFiles:
    """``files``: what the loader opens, in its order; ``index``: the index it follows, or None.

    ``leftovers``: names (relative to the directory) of weights that lie beside them and are not read.
    """

    files: tuple[Path, ...]
    index: Path | None
    leftovers: tuple[str, ...]

    def note(self) -> str:
        """What to tell the user about the leftovers; empty when there are none."""
        if not self.leftovers:
            return ""
        named = ", ".join(self.leftovers[:3]) + (f" and {len(self.leftovers) - 3} more" if self.leftovers[3:] else "")
        read = self.index.name if self.index else self.files[0].name
        return f"{named} beside the weights are not read, counted or judged (the model is {read})"


def weight_files(directory: Path, who: str = "") -> WeightFiles:
    """The weights of the model in ``directory``, as transformers chooses them.

    Raises:
        ModelError: there are none, some are missing, or a name leads out of the directory.
    """
    who = who or str(directory)
    chosen = _explicit(directory, who)
    if not chosen and not (directory / SINGLE).is_file() and (directory / INDEX).is_file():
        chosen = INDEX
    if chosen.endswith(".index.json"):
        index: Path | None = directory / chosen
        names = shard_names(directory / chosen, who)
        _check_shards(directory, names, chosen, who)
    else:
        index, names = None, [chosen or SINGLE]
        if not (directory / names[0]).is_file():
            raise _no_weights(directory, names[0], who)
    read = {*names, *([chosen] if index else [])}
    leftovers = sorted(name for name in _relative(directory) if _is_weight(name) and name not in read)
    return WeightFiles(tuple(directory / name for name in names), index, tuple(leftovers))


def model_files(directory: Path) -> list[Path]:
    """All files that make up the model: weights with their index, configuration, tokenizer, chat templates."""
    weights = weight_files(directory)
    index = [weights.index] if weights.index else []
    return [*weights.files, *index, *config_files(directory), *tokenizer_files(directory)]


def config_files(directory: Path) -> list[Path]:
    """The configuration files that are there."""
    return [directory / name for name in CONFIGS if (directory / name).is_file()]


def tokenizer_files(directory: Path) -> list[Path]:
    """Whatever a tokenizer of transformers reads, sorted by name: vocabulary, merges, templates in every form."""
    config = _json(directory / "tokenizer_config.json")
    named = {value for value in _strings(config) if (directory / value).is_file()} if config else set()
    found = {
        name
        for name in _relative(directory, depth=2)
        if name in named or any(fnmatch.fnmatchcase(name, pattern) for pattern in TOKENIZERS)
    }
    # transformers looks into this folder even where it is a link
    found |= {f"{_TEMPLATES}/{path.name}" for path in (directory / _TEMPLATES).glob("*.jinja") if path.is_file()}
    return [directory / name for name in sorted(found - {INDEX, *CONFIGS})]


def shard_names(index: Path, who: str) -> list[str]:
    """The files that an index names, sorted, which is the order of the loader: of equal names the last one counts.

    Raises:
        ModelError: no index, or names that are no plain names inside the directory.
    """
    content = _json(index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(each, str) for each in named.values()):
        raise ModelError(who, f"{index.name} holds no weight_map", expected="an index of tensors and their files")
    return sorted(set(named.values()))


def _explicit(directory: Path, who: str) -> str:
    """The file that config.json chooses; empty when it leaves that to the rule."""
    config = _json(directory / "config.json")
    chosen = config.get("transformers_weights") if isinstance(config, dict) else None
    if chosen is None:
        return ""
    if not isinstance(chosen, str) or not chosen.endswith((".safetensors", ".safetensors.index.json")):
        raise ModelError(who, f"transformers_weights {chosen!r} in config.json", expected="a safetensors file or index")
    _check_inside(directory, chosen, "config.json", who)
    if not (directory / chosen).is_file():
        raise ModelError(who, f"{chosen} is missing", expected="the file that config.json names")
    return chosen


def _check_shards(directory: Path, names: list[str], index: str, who: str) -> None:
    for name in names:
        _check_inside(directory, name, index, who)
        if not name.endswith(".safetensors"):
            raise ModelError(who, f"{index} names {name!r}", expected="safetensors files: pickles are never loaded")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ModelError(
            who,
            f"{len(missing)} of {len(names)} weight files are missing ({', '.join(missing[:3])})",
            expected=f"all files that {index} names",
            hint="finish the download",
        )


def _check_inside(directory: Path, name: str, where: str, who: str) -> None:
    """Refuse names and links that lead out of the directory; a hub cache's links into its blobs are inside."""
    parts = PurePosixPath(name).parts
    plain = not (name.startswith("/") or PureWindowsPath(name).drive or "\\" in name or ".." in parts)
    try:
        real, root = (directory / name).resolve(), directory.resolve()
    except (OSError, RuntimeError) as error:  # Python before 3.13 raises the latter
        raise ModelError(
            who, f"{where} names {name!r}, a link that comes back to itself", expected="a file", hint="copy the file"
        ) from error
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    if not plain or not any(real.is_relative_to(each) for each in roots):
        raise ModelError(
            who, f"{where} names {name!r}, which leads out of the model's directory", expected="files inside it",
            hint="copy the file into the directory",
        )  # fmt: skip


def check_links(directory: Path, who: str) -> None:
    """Refuse a directory in which a link leads out of it; a hub cache's links into its blobs are inside.

    Raises:
        ModelError: names the link.
    """
    for name in _relative(directory):
        if (directory / name).is_symlink():
            _check_inside(directory, name, "the directory", who)


def _no_weights(directory: Path, name: str, who: str) -> ModelError:
    others = [other for other in sorted(_relative(directory)) if other.endswith(".safetensors")]
    if others:
        return ModelError(
            who,
            f"neither {name} nor {INDEX}, but {', '.join(others[:3])}",
            expected="one of them: other names are not loaded",
            hint=f"rename the file to {SINGLE}, or write an index",
        )
    pickled = [other for other in sorted(_relative(directory)) if any(fnmatch.fnmatch(other, p) for p in PICKLES)]
    return ModelError(
        who,
        f"only pickled weights ({pickled[0]})" if pickled else "no weights",
        expected="safetensors files",
        hint="convert the weights to safetensors; pickles are never loaded" if pickled else "finish the download",
    )


def _is_weight(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _WEIGHTS)


def _relative(directory: Path, depth: int = 3) -> Iterator[str]:
    """Names of the files in ``directory``, down to ``depth`` levels, hidden ones left out; links are not followed."""
    for path in directory.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if depth > 1 and not path.is_symlink():
                yield from (f"{path.name}/{name}" for name in _relative(path, depth - 1))
        else:
            yield path.name


def _strings(content: Any) -> Iterator[str]:
    """Short strings among the values of a JSON object: candidates for file names."""
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    for value in values:
        if isinstance(value, str) and 0 < len(value) < 100 and "/" not in value and "\0" not in value:
            yield value
        elif isinstance(value, list):
            yield from _strings(value)


def _json(path: Path) -> Any:
    """The content of a JSON file; None when it cannot be read: whoever needs it says so in its own words."""
    try:
        return reading.read_json(path)
    except (OSError, ValueError):
        return None


def read_json(path: Path, who: str) -> dict[str, Any]:
    """The JSON object in ``path``. Raises ModelError when it is missing, no object, or names something twice."""
    try:
        content = reading.parse_unique(reading.read_text(path))
    except FileNotFoundError as error:
        raise ModelError(
            who, f"{path.name} is missing", expected=f"a model directory with {path.name}", hint="finish the download"
        ) from error
    except (OSError, Unreadable) as error:
        raise ModelError(who, f"{path.name} is unreadable ({error})", expected="a JSON file") from error
    if not isinstance(content, dict):
        raise ModelError(who, f"{path.name} holds a {type(content).__name__}", expected="a JSON object")
    return content
