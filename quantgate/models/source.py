"""Where a model comes from: the bundled one, a hub id with a revision, or a local directory.

Whatever the source, the result is a directory with ``config.json``, safetensors and a tokenizer, checked to be whole
before anything is computed. Pickled weights are refused, remote code is never run.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from quantgate.core.errors import ModelError
from quantgate.core.keys import ConvertedModelKey
from quantgate.core.naming import closest
from quantgate.models import bundled
from quantgate.models.digest import ModelDigest, digest_model
from quantgate.models.files import VOCABULARIES, read_json, weight_files
from quantgate.models.loading import load_reference
from quantgate.models.quantized import declarations, refuse_quantized
from quantgate.models.tensors import stamp_of
from quantgate.models.unchanged import Stamps, check_unchanged, stamps
from quantgate.store.facts import Facts, FactsKey, code_digest, remembered
from quantgate.store.store import Store, sha256_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BUNDLED: Final = "bundled"
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PATIENCE_S: Final = 5.0
_CHECK: Final = "check the spelling and --revision, log in, or give a directory with --model"
_SHOWN: Final = 200  # letters of a name in a message
_LOOKED_AT: Final = 1000  # files beside a model that is not there
_WANTED: Final = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.tokenizer", "*.vocab"]


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk. ``id``: as the user named it; ``revision``: resolved commit of a hub model, else empty.

    ``leftovers``: weights in the directory that are not read. ``stamps``: of its files, taken before the digest.
    ``name``: within a run, for progress.
    """

    id: str
    revision: str
    path: Path
    digest: ModelDigest
    leftovers: tuple[str, ...] = ()
    stamps: Stamps = ()
    name: str = "reference"

    @property
    def who(self) -> str:
        """For messages."""
        return f"model {self.id!r}"

    @property
    def digest_loaded(self) -> str:
        """Digest of what is loaded."""
        return self.digest.loaded

    def load(self, dtype: str, device: str) -> PreTrainedModel:
        """The model in evaluation mode. Raises ModelError as `load_reference`."""
        return load_reference(self.path, self.id, dtype, device)

    def check_unchanged(self) -> None:
        """Raises ModelError when the files are no longer those that were digested."""
        check_unchanged(self.path, self.stamps, lambda now: now == self.digest, self.who)

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
    elif is_directory(name):
        _refuse_revision(name, revision)
        path = Path(name).resolve()
    elif _HUB_ID.fullmatch(name):
        path = snapshot(name, revision, offline)
        revision = path.name
    else:
        raise _no_such(name)
    check_model_directory(path, name)
    seen = stamps(path)
    refuse_quantized(path, read_json(path / "config.json", f"model {name!r}"), f"model {name!r}")
    weights = weight_files(path, f"model {name!r}")
    if weights.leftovers:
        store.progress.note(f"model {name!r}: {weights.note()}")
    return ModelFiles(name, revision or "", path, digest_model(path, f"model {name!r}"), weights.leftovers, seen)


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision:
        raise ModelError(f"model {name!r}", f"--revision {revision} was given", expected="a hub id with --revision")


def _bundled(store: Store) -> Path:
    gguf = bundled.locate_gguf()
    seen = f"{gguf} {stamp_of(gguf)}"
    facts = Facts(
        store.root, FactsKey({"bundled": seen}, {}, "digest", code_digest()), lambda: f"{gguf} {stamp_of(gguf)}" == seen
    )  # it came with a package: a stamp will do
    key = ConvertedModelKey(str(remembered(facts, lambda: sha256_file(gguf))), bundled.CONVERTER_VERSION)
    return store.fetch(key, lambda target: bundled.convert(gguf, target), what="the bundled model").path


def snapshot(name: str, revision: str | None, offline: bool) -> Path:
    """Directory with the files of the hub's repository ``name`` that are read here. Raises ModelError."""
    from huggingface_hub import snapshot_download

    def fetch(offline: bool) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED, local_files_only=offline))

    return _asking_hub(name, fetch, offline)


def peek_model(name: str, revision: str | None, *, offline: bool = False) -> Path | None:
    """A directory that tells what the model ``name`` is, found without fetching or reading weights.

    Of a directory, itself, checked to be whole; of a hub model, one with its ``config.json``; None for the bundled one.

    Raises:
        ModelError: as `resolve_model`, as far as that shows without the weights.
    """
    if name == BUNDLED:
        _refuse_revision(name, revision)
        return None
    if is_directory(name):
        _refuse_revision(name, revision)
        check_model_directory(Path(name), name)
        refuse_quantized(Path(name), check_config(Path(name), name), f"model {name!r}")
        return Path(name)
    if not _HUB_ID.fullmatch(name):
        raise _no_such(name)
    path = fetched(name, "config.json", revision, offline).parent
    config = check_config(path, name)
    if declarations(path, config):
        refuse_quantized(path, config, f"model {name!r}")
    return path


def is_hub_id(name: str) -> bool:
    """Whether ``name`` may be a model on the hub; False for what can only be a path."""
    return _HUB_ID.fullmatch(name) is not None


def is_directory(name: str) -> bool:
    """Whether ``name`` is a directory; False also for what no file system can hold (too long, a zero byte)."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def _no_such(name: str) -> ModelError:
    shown = name if len(name) < _SHOWN else f"{name[:_SHOWN]}…"
    known = [BUNDLED, *_neighbours(name)]
    close = closest(name, known)
    return ModelError(
        f"model {shown!r}",
        "no such directory",
        expected="'bundled', a model directory, or a hub id like org/name",
        hint=f"did you mean {close[0]!r}?" if close else "check --model",
    )


def _neighbours(name: str) -> list[str]:
    """Model directories where ``name`` would be."""
    try:
        folder = Path(name).parent
        return [str(each) for each in sorted(folder.iterdir())[:_LOOKED_AT] if (each / "config.json").is_file()]
    except (OSError, ValueError):
        return []


def fetched(name: str, file: str, revision: str | None, offline: bool) -> Path:
    """One ``file`` of the hub's repository ``name`` on this machine. Raises ModelError."""
    from huggingface_hub import hf_hub_download

    def fetch(offline: bool) -> Path:
        return Path(hf_hub_download(name, file, revision=revision, local_files_only=offline))

    return _asking_hub(name, fetch, offline)


def _hub_answers() -> bool:
    """Whether a connection to the hub can be opened; its client would try for half a minute, loudly."""
    from huggingface_hub import constants

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # somebody else opens the connection
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_PATIENCE_S).close()
    except OSError:
        return False
    return True


def _asking_hub(name: str, fetch: Callable[[bool], Path], offline: bool) -> Path:
    """What ``fetch`` (told whether to stay offline) gives. Raises ModelError when neither hub nor cache has it."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    asked = not (offline or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"))
    offline = not asked or not _hub_answers()
    try:
        return fetch(offline)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        close = closest(name, _neighbours(name))
        where = "the hub's local cache" if offline else "the hub or its local cache"
        where += ", and the hub cannot be reached" * (asked and offline)
        raise ModelError(
            f"model {name!r}",
            f"not found in {where} ({type(error).__name__})",
            expected="a model directory, a public model id, or one your token may read",
            hint=f"did you mean the directory {close[0]!r}?" if close else _CHECK,
        ) from error


def check_chat_template(path: Path, name: str, instead: Sequence[str]) -> None:
    """Raise ModelError if the tokenizer in ``path`` brings no chat template; ``instead``: calibration without one."""
    files = [path / file for file in ("chat_template.jinja", "chat_template.json")]
    if any(file.is_file() for file in files) or (path / "additional_chat_templates").is_dir():
        return
    config = path / "tokenizer_config.json"
    if config.is_file() and read_json(config, f"model {name!r}").get("chat_template"):
        return
    known = f"--calibration {' or '.join(instead)}" if instead else "--calibration wikitext2, ptb or c4 with --data DIR"
    raise ModelError(
        f"model {name!r}",
        "its tokenizer has no chat template, which --calibration dialogues needs",
        expected="an instruction-tuned model, or a text to calibrate on",
        hint=f"give {known}, or methods that need no calibration (rtn4, nf4, int8, ...)",
    )


def check_model_directory(path: Path, name: str, who: str = "") -> None:
    """Check that ``path`` holds a whole causal language model in safetensors, with a tokenizer.

    ``who`` is named in messages; the model ``name`` where it is empty.

    Raises:
        ModelError: names the missing or wrong file.
    """
    who = who or f"model {name!r}"
    _refuse_detours(path, check_config(path, name, who), who)
    weight_files(path, who)
    if not any((path / file).is_file() for file in VOCABULARIES):
        raise ModelError(who, "no tokenizer", expected="tokenizer.json", hint="save the tokenizer beside the weights")


def check_config(path: Path, name: str, who: str = "") -> dict[str, Any]:
    """The configuration in ``path``, checked to be a causal language model's. Raises ModelError."""
    who = who or f"model {name!r}"
    config = read_json(path / "config.json", who)
    architectures = config.get("architectures") or []
    if not any(str(each).endswith(("ForCausalLM", "LMHeadModel")) for each in architectures):
        raise ModelError(
            who, f"architecture {architectures or 'unnamed'}", expected="a causal language model (…ForCausalLM)"
        )
    return config


def _refuse_detours(path: Path, config: Mapping[str, Any], who: str) -> None:
    """Refuse what makes transformers load something else than the files that are judged."""
    if "configuration_files" in config:
        raise ModelError(who, "config.json hands over to configuration_files", expected="one configuration")
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            who, "an adapter (adapter_config.json)", expected="a model by itself",
            hint="merge the adapter into the weights, or remove its files",
        )  # fmt: skip
