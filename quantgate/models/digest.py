"""What a model is, as digests: weights, configuration and tokenizer apart, so that a refusal can name what differs."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from quantgate.store.store import sha256_file

_CONFIG_FILES: Final = ("config.json", "generation_config.json", "quantize_config.json")
_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
)


@dataclass(frozen=True)
class ModelDigest:
    """sha256 over names and bytes of the files of each part."""

    weights: str
    config: str
    tokenizer: str

    @property
    def whole(self) -> str:
        """One digest of all three parts."""
        return hashlib.sha256("|".join([self.weights, self.config, self.tokenizer]).encode()).hexdigest()

    def as_record(self) -> dict[str, str]:
        """The parts and the whole, for reports and provenance."""
        return {**asdict(self), "whole": self.whole}


def digest_model(path: Path) -> ModelDigest:
    """Digest of the model directory ``path``; reads every weight file once."""
    weights = sorted(file.name for file in path.glob("*.safetensors"))
    return ModelDigest(_digest(path, weights), _digest(path, _CONFIG_FILES), _digest(path, _TOKENIZER_FILES))


def _digest(path: Path, names: list[str] | tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in names:
        if (path / name).is_file():
            digest.update(f"{name}:{sha256_file(path / name)}\n".encode())
    return digest.hexdigest()
