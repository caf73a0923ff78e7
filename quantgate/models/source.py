"""Where a model comes from: the bundled one, a hub id with a revision, or a local directory.

Whatever the source, the result is a directory with ``config.json``, safetensors and a tokenizer, checked to be whole
before anything is computed. Pickled weights are refused, remote code is never run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from quantgate.errors import ModelError
from quantgate.models import bundled
from quantgate.models.digest import ModelDigest, digest_model
from quantgate.models.files import weight_files
from quantgate.models.quantized import refuse_quantized
from quantgate.store.keys import ConvertedModelKey
from quantgate.store.store import Store, sha256_file

BUNDLED: Final = "bundled"
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED: Final = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.tokenizer", "*.vocab"]


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk. ``id``: as the user named it; ``revision``: resolved commit of a hub model, else empty.

    ``leftovers``: weights in the directory that are not read.
    """

    id: str
    revision: str
    path: Path
    digest: ModelDigest
    leftovers: tuple[str, ...] = ()

    def as_record(self) -> dict[str, Any]:
        """What a report says about the model."""
        record = {"id": self.id, "revision": self.revision, "digest": self.digest.as_record()}
        return record | ({"weights_not_read": list(self.leftovers)} if self.leftovers else {})


def resolve_model(name: str, revision: str | None, store: Store, *, offline: bool = False) -> ModelFiles:
    """Find (or fetch, or convert) the model ``name`` and check that it is whole.

    Args:
        name: ``bundled``, a directory, or a hub id ``org/name``.
        revision: branch, tag or commit of a hub model; refused for the other two.
        store: keeps the converted bundled model.
        offline: never ask the hub; use what its cache holds.

    Raises:
        ModelError: missing, incomplete, pickled, or not a causal language model.
    """
    if name == BUNDLED:
        _refuse_revision(name, revision)
        path = _bundled(store)
    elif Path(name).is_dir():
        _refuse_revision(name, revision)
        path = Path(name).resolve()
    elif _HUB_ID.fullmatch(name):
        path = _from_hub(name, revision, offline)
        revision = path.name
    else:
        raise ModelError(
            f"model {name!r}",
            "no such directory",
            expected="'bundled', a model directory, or a hub id like org/name",
            hint="check --model",
        )
    check_model_directory(path, name)
    refuse_quantized(path, read_json(path / "config.json", f"model {name!r}"), f"model {name!r}")
    weights = weight_files(path, f"model {name!r}")
    if weights.leftovers:
        store.progress.note(f"model {name!r}: {weights.note()}")
    return ModelFiles(name, revision or "", path, digest_model(path, f"model {name!r}"), weights.leftovers)


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision:
        raise ModelError(f"model {name!r}", f"--revision {revision} was given", expected="a hub id with --revision")


def _bundled(store: Store) -> Path:
    gguf = bundled.locate_gguf()
    key = ConvertedModelKey(sha256_file(gguf), bundled.CONVERTER_VERSION)
    return store.fetch(key, lambda target: bundled.convert(gguf, target), what="the bundled model").path


def _from_hub(name: str, revision: str | None, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    offline = offline or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED, local_files_only=offline))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        where = "the hub's local cache" if offline else "the hub or its local cache"
        raise ModelError(
            f"model {name!r}",
            f"not found in {where} ({type(error).__name__})",
            expected="a public model id, or one your token may read",
            hint="check the spelling and --revision, log in, or give a directory with --model",
        ) from error


def check_model_directory(path: Path, name: str) -> None:
    """Check that ``path`` holds a whole causal language model in safetensors, with a tokenizer.

    Raises:
        ModelError: names the missing or wrong file.
    """
    who = f"model {name!r}"
    config = read_json(path / "config.json", who)
    architectures = config.get("architectures") or []
    if not any(str(each).endswith(("ForCausalLM", "LMHeadModel")) for each in architectures):
        raise ModelError(
            who, f"architecture {architectures or 'unnamed'}", expected="a causal language model (…ForCausalLM)"
        )
    _refuse_detours(path, config, who)
    weight_files(path, who)
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(who, "no tokenizer", expected="tokenizer.json", hint="save the tokenizer beside the weights")


def _refuse_detours(path: Path, config: Mapping[str, Any], who: str) -> None:
    """Refuse what makes transformers load something else than the files that are judged."""
    if "configuration_files" in config:
        raise ModelError(who, "config.json hands over to configuration_files", expected="one configuration")
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            who, "an adapter (adapter_config.json)", expected="a model by itself",
            hint="merge the adapter into the weights, or remove its files",
        )  # fmt: skip


def read_json(path: Path, who: str) -> dict[str, Any]:
    """The JSON object in ``path``. Raises ModelError when it is missing or is no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            who, f"{path.name} is missing", expected=f"a model directory with {path.name}", hint="finish the download"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(who, f"{path.name} is unreadable ({error})", expected="a JSON file") from error
    if not isinstance(content, dict):
        raise ModelError(who, f"{path.name} holds a {type(content).__name__}", expected="a JSON object")
    return content
