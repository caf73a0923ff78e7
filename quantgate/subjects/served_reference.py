"""A server as the 16-bit reference (``--model URL --tokenizer DIR``): its weights lie elsewhere.

The directory holds the model's small files alone: configuration, tokenizer, chat template. They make the tokens that
both sides are asked; the probe compares the server's own tokens with them, as for a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.errors import ModelError, UsageError
from quantgate.core.remote import Remote
from quantgate.models.digest import digest_without_weights
from quantgate.models.files import tokenizer_files
from quantgate.models.source import ModelFiles
from quantgate.models.unchanged import check_small_unchanged, small_files, stamps
from quantgate.quantize.base import Method
from quantgate.store.store import Store
from quantgate.subjects.served import ALGORITHM, KEY, MANNERS, address_of, parse_served, probed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from quantgate.engines.protocol import EngineRow

_KEYS: Final = (f"{KEY}_REFERENCE", KEY)


@dataclass(frozen=True)
class ServedModel(ModelFiles):
    """A reference behind an address. ``path``: its small files; ``engine``: asks it; ``served``: for the report."""

    engine: EngineRow | None = field(default=None, compare=False, repr=False)
    served: Mapping[str, Any] = field(default_factory=dict)

    def load(self, dtype: str, device: str) -> PreTrainedModel:
        """There is nothing to load. Raises ModelError."""
        raise ModelError(self.who, "it is a server: its weights cannot be loaded here", expected="a model on disk")

    def check_unchanged(self) -> None:
        """Raises ModelError when its small files are no longer those that were read."""
        check_small_unchanged(self.path, self.stamps, self.who)

    def as_record(self) -> dict[str, Any]:
        """See `ModelFiles.as_record`; and what the server is."""
        return super().as_record() | {"served": dict(self.served)}


def is_address(name: str) -> bool:
    """Whether ``--model`` names a server."""
    return "://" in name


def check_served_reference(model: str, tokenizer: Path | None, methods: Sequence[Method]) -> None:
    """What must hold of ``--model URL`` and ``--tokenizer DIR`` before anything is asked.

    Raises:
        UsageError: one without the other, a directory that lacks the small files, a subject that is no server, or the
            very server that is the reference.
        EngineError: the server does not answer.
    """
    from quantgate.engines.http.probe import recognised

    if not is_address(model):
        if tokenizer is not None:
            raise UsageError("--tokenizer", "given with a model on disk", expected="--model URL", hint="leave it out")
        return
    row = parse_served("reference", model, "--model")
    if tokenizer is None or not (tokenizer / "config.json").is_file() or not tokenizer_files(tokenizer):
        found = "no --tokenizer" if tokenizer is None else f"{tokenizer} holds no config.json, or no tokenizer"
        raise UsageError(
            f"--model {model}", found, expected="--tokenizer DIR with the model's config.json and tokenizer",
            hint="copy these small files from where the model was published",
        )  # fmt: skip
    for method in methods:
        if method.algorithm != ALGORITHM:
            raise UsageError(
                f"--model {model}", f"{method.id} needs the 16-bit weights, which are behind the server",
                expected="servers alone: --candidate NAME=URL", hint="or give the model's directory with --model",
            )  # fmt: skip
        if method.settings == row.settings:
            raise UsageError(f"--candidate {method.id}=…", "it is the very server of --model", expected="another one")
    remote = Remote(address_of(row).address, f"model {model!r}", _KEYS, MANNERS)
    try:
        recognised(remote, address_of(row).model)
    finally:
        remote.close()


def open_served_reference(model: str, tokenizer: Path, store: Store) -> ServedModel:
    """The server behind ``model`` as the reference.

    Raises:
        EngineError: it gives nothing that can be scored, or numbers tokens otherwise than the tokenizer.
    """
    row = parse_served("reference", model, "--model")
    path = tokenizer.resolve()
    remote = Remote(address_of(row).address, f"model {model!r}", _KEYS, MANNERS)
    found = probed(remote, row, path, store)
    return ServedModel(
        model, "", path, digest_without_weights(path, found.digest), (), stamps(path, small_files),
        engine=found.engine, served=found.server.as_record(),
    )  # fmt: skip
