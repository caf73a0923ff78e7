"""Keys of the store: frozen dataclasses that hold every field that changes the result.

Two keys are equal exactly when their canonical JSON is; its sha256 is the address of the entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Key:
    """Base of all keys. Subclasses are frozen dataclasses with JSON-able fields and a ``kind`` (a folder name)."""

    kind: ClassVar[str] = ""

    def canonical(self) -> str:
        """The key as JSON with sorted names and no spare space."""
        content = {"kind": self.kind, **asdict(self)}
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @property
    def digest(self) -> str:
        """sha256 of the canonical form: the entry's address."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


@dataclass(frozen=True)
class ConvertedModelKey(Key):
    """16-bit weights converted from another format (the bundled GGUF)."""

    kind: ClassVar[str] = "models"
    source_sha256: str
    converter_version: int


@dataclass(frozen=True)
class UnfoldedKey(Key):
    """A checkpoint made elsewhere, unpacked to ``dtype``; ``source``, ``reference``: digests of both."""

    kind: ClassVar[str] = "unfolded"
    source: str
    reference: str
    dtype: str
    libraries: Mapping[str, str]
    version: int


@dataclass(frozen=True)
class SubjectKey(Key):
    """A model quantized by one method. ``libraries`` names those whose version changes the weights.

    ``layout``: counts up when the same weights are written otherwise.
    """

    kind: ClassVar[str] = "subjects"
    model_digest: str
    method: Mapping[str, Any]
    calibration_digest: str
    libraries: Mapping[str, str]
    device: str
    layout: int


@dataclass(frozen=True)
class ResponsesKey(Key):
    """What one model answered to one list of requests on one engine.

    ``weights``: digest of what is loaded (`ModelDigest.loaded`), wherever it came from; ``tokenizer``: digest of the
    one that reads its answers; ``layout``: counts up when the same answers are written otherwise.
    """

    kind: ClassVar[str] = "responses"
    weights: str
    tokenizer: str
    requests: str
    engine: Mapping[str, Any]
    against: str = ""
    layout: int = 3


@dataclass(frozen=True)
class AuditKey(Key):
    """Which modules of a subject still hold the reference's weights. ``claims``: digest of what its record says."""

    kind: ClassVar[str] = "audits"
    reference: str
    subject: str
    claims: str
    version: int
