"""What a model is, as digests: weights, configuration and tokenizer apart, so that a refusal can name what differs.

Weights and configuration are digested by content, not by file: the same tensors in one file or in shards, a tied head
stored once or twice, a README more or less are the same model. Whatever the loader reads counts.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.errors import ModelError
from quantgate.models.files import config_files, tokenizer_files
from quantgate.models.tensors import digest_tensors, stored
from quantgate.store.store import sha256_file

LOADER_VERSION: Final = 2
"""Counts up when the same files are loaded as another model: it is part of the key of every answer."""

HEAD: Final = "lm_head.weight"
_EMBEDDING: Final = "embed_tokens.weight"
_LIBRARIES: Final = ("bitsandbytes", "compressed-tensors")  # they unpack weights while a checkpoint is loaded


@dataclass(frozen=True)
class ModelDigest:
    """sha256 over names and content of each part; ``unpacked_by``: libraries with a say in how weights are unpacked."""

    weights: str
    config: str
    tokenizer: str
    unpacked_by: str = ""

    @property
    def whole(self) -> str:
        """One digest of all three parts."""
        return hashlib.sha256("|".join([self.weights, self.config, self.tokenizer]).encode()).hexdigest()

    @property
    def loaded(self) -> str:
        """Digest of what computes once the model is loaded, wherever it came from; the tokenizer is not part of it."""
        parts = [str(LOADER_VERSION), self.weights, self.config, self.unpacked_by]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def as_record(self) -> dict[str, str]:
        """The parts and the whole, for reports and provenance."""
        parts = {name: value for name, value in asdict(self).items() if name != "unpacked_by"}
        return {**parts, "whole": self.whole}


def digest_model(path: Path, who: str = "") -> ModelDigest:
    """Digest of the model directory ``path``; reads every weight once.

    Raises:
        ModelError: weights are missing or damaged, or a head that is tied by the configuration is stored otherwise.
    """
    config = _config(path)
    digests = without_copy(digest_tensors(stored(path, who)), config, who or str(path))
    weights = hashlib.sha256("".join(f"{name}:{digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()
    return ModelDigest(weights, _digest_configs(path), _digest_tokenizer(path), _unpacked_by(config))


def digest_without_weights(path: Path, weights: str) -> ModelDigest:
    """Of the small files in ``path``, for a model whose weights are elsewhere; ``weights``: what stands for them."""
    return ModelDigest(weights, _digest_configs(path), _digest_tokenizer(path))


def without_copy(digests: Mapping[str, str], config: Mapping[str, Any], who: str) -> dict[str, str]:
    """The digests by name without an output head that is stored although it is tied to the embedding.

    Raises:
        ModelError: the stored head is not the embedding: which of them computes would depend on the reader.
    """
    if HEAD not in digests or not is_tied(config):
        return dict(digests)
    embeddings = [name for name in digests if name.endswith(_EMBEDDING)]
    if embeddings and digests[HEAD] not in {digests[name] for name in embeddings}:
        raise ModelError(
            who,
            f"tie_word_embeddings is set, but {HEAD} is not {embeddings[0]}",
            expected="one matrix for both",
            hint="set tie_word_embeddings to false, or store the embedding once",
        )
    return {name: digest for name, digest in digests.items() if name != HEAD or not embeddings}


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether config.json says in so many words that head and embedding are one matrix."""
    return config.get("tie_word_embeddings") is True


def _config(path: Path) -> dict[str, Any]:
    try:
        content = reading.read_json(path / "config.json")
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _unpacked_by(config: Mapping[str, Any]) -> str:
    if not config.get("quantization_config"):
        return ""
    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _digest_configs(path: Path) -> str:
    digest = hashlib.sha256()
    for file in config_files(path):
        digest.update(f"{file.name}:{_content(file)}\n".encode())
    return digest.hexdigest()


def _content(file: Path) -> str:
    """sha256 of what a JSON file says, however it is laid out; of its bytes if it is none."""
    try:
        content = reading.read_json(file)
    except (OSError, ValueError):
        return sha256_file(file)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_tokenizer(path: Path) -> str:
    digest = hashlib.sha256()
    for file in tokenizer_files(path):
        digest.update(f"{file.relative_to(path).as_posix()}:{sha256_file(file)}\n".encode())
    return digest.hexdigest()
