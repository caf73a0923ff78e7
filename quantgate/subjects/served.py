"""Served subjects: an endpoint is judged as it answers (``--candidate NAME=http://host:port/v1[#MODEL]``).

Nothing of it lies on disk, so nothing is believed: what it is, what it can give, and whether it is still the same comes
from asking it (:mod:`quantgate.engines.http.probe`). Its answers are kept under a digest of what it says of itself and
of what it answers to a known string: another model behind the same address finds none of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core import reading
from quantgate.core.errors import ModelError, UsageError
from quantgate.core.reading import Unreadable
from quantgate.core.remote import Manners, Remote, parse_address
from quantgate.models.loading import load_tokenizer
from quantgate.models.source import ModelFiles
from quantgate.models.unchanged import small_files, stamps
from quantgate.quantize.base import Method, QuantizationRecord
from quantgate.quantize.calibration.samples import Calibration
from quantgate.store.store import Store, write_atomically
from quantgate.subjects.subject import Subject, Workshop

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quantgate.engines.http.probe import Canary, Server
    from quantgate.engines.http.row import HttpRow

ALGORITHM: Final = "served"
KEY: Final = "QUANTGATE_SERVER_KEY"
MANNERS: Final = Manners()
_BITS: Final = 16
_PROMISED: Final = re.compile(r"(?i)(?<![a-z0-9])(?:u?i?q|int|fp|bf|f|w)(\d{1,2})(?!\d)")


@dataclass(frozen=True)
class ServerSettings:
    """``address``: without ``/v1``; ``model``: its name there, empty where the server has only one."""

    address: str
    model: str


def parse_served(name: str, place: str, who: str) -> Method:
    """``http(s)://host[:port][/v1][#MODEL]`` as a row of the method table. Raises UsageError as `parse_address`."""
    address, _, model = place.partition("#")
    base = parse_address(address, who).removesuffix("/v1")
    return Method(
        id=name,
        algorithm=ALGORITHM,
        settings=ServerSettings(base, model),
        bits=_BITS,
        needs_calibration=False,
        storage="served",
        code_version=1,
        summary="a server",
        source=base,
    )


def remote_of(method: Method) -> Remote:
    """What asks the server of a row; its key comes from ``QUANTGATE_SERVER_KEY_<NAME>`` or ``QUANTGATE_SERVER_KEY``."""
    own = f"{KEY}_{method.id.upper().replace('-', '_')}"
    return Remote(address_of(method).address, f"candidate {method.id!r}", (own, KEY), MANNERS)


def check_server(method: Method) -> None:
    """Ask once whether the server is there, and has the model that is meant; before anything heavy.

    Raises:
        UsageError, EngineError: it does not answer, has several models, or speaks nothing that is known.
    """
    from quantgate.engines.http.probe import recognised

    remote = remote_of(method)
    try:
        recognised(remote, address_of(method).model)
    finally:
        remote.close()


def open_served(model: ModelFiles, method: Method, calibration: Calibration | None, workshop: Workshop) -> Subject:
    """The server as a subject of ``model``, probed with its tokenizer.

    Raises:
        EngineError: it gives nothing that can be scored, or numbers tokens otherwise than the reference.
    """
    found = probed(remote_of(method), method, model.path, workshop.store)
    return Subject(
        method, model.path, _record(method, found.server), found.digest, False, stamps=stamps(model.path, small_files),
        loader=_refuse, engine=found.engine, served=found.server.as_record(),
    )  # fmt: skip


@dataclass(frozen=True)
class Probed:
    """A server that was probed, what asks it, and a digest of the model that answers."""

    server: Server
    engine: HttpRow
    digest: str


def probed(remote: Remote, method: Method, tokenizer: Path, store: Store) -> Probed:
    """The server of a row, probed with the tokenizer in ``tokenizer``; raises as `open_served`."""
    from quantgate.engines.http.probe import probe
    from quantgate.engines.http.row import HttpRow

    server = probe(remote, address_of(method).model, load_tokenizer(tokenizer, method.id))
    for note in _notes(server, remote.who):
        store.progress.note(note)
    described = {"method": method.as_record(), **server.facts.as_record(), "address": server.line.remote.base}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    canary = server.canary()
    draw = _draw(store, digest, canary)
    return Probed(server, HttpRow(server, canary), hashlib.sha256(f"{digest} {draw}".encode()).hexdigest())


def address_of(method: Method) -> ServerSettings:
    """Where the server of a row is, and which of its models is meant."""
    assert isinstance(method.settings, ServerSettings)
    return method.settings


def _refuse(path: Path, name: str, dtype: str, device: str) -> PreTrainedModel:
    raise ModelError(
        f"candidate {name!r}", "it is a server: its weights cannot be loaded here", expected="a checkpoint"
    )


def _notes(server: Server, who: str) -> list[str]:
    """What a user should know of how this server is asked."""
    facts = server.facts
    version = f" {facts.version}" if facts.version else ""
    by = server.way.words if server.way else "none of its ways: only tasks that generate can be judged"
    found = [f"{who}: {facts.server}{version} serving {facts.model}; likelihoods by {by}"]
    found += [f"{who}: refused {name}: {reason}" for name, reason in server.refused if server.way is None]
    if server.silent:
        found.append(f"{who}: no task that generates can be judged: {server.silent}")
    return [*found, *(f"{who}: {note}" for note in server.notes)]


def _record(method: Method, server: Server) -> QuantizationRecord:
    """What the server says of its weights; nothing of it was seen."""
    details = server.facts.details
    size, count = details.get("bytes"), details.get("parameters")
    known = isinstance(size, int) and isinstance(count, int) and count > 0
    bits = 8 * float(size) / float(count) if known and size and count else math.nan
    promised = _PROMISED.search(str(details.get("quantization", "")))
    return QuantizationRecord(
        method=method.as_record(),
        calibration=None,
        bits_nominal=int(promised[1]) if promised else _BITS if math.isnan(bits) else round(bits),
        bits_effective=bits,
        bytes_on_disk=size if isinstance(size, int) else 0,
        storage="served",
        seconds=0.0,
        quantized_modules=(),
        execution="served",
    )


def _draw(store: Store, digest: str, now: Canary) -> int:
    """Which of the models that stood behind this address and name it is: told apart by a known string.

    Raises:
        StoreError: the store cannot be written.
    """
    from quantgate.engines.http.probe import MOVED, Canary

    path = store.root / "servers" / f"{digest}.json"
    seen = _seen(path)
    for number, each in enumerate(seen):
        if Canary(tuple(each["values"]), each["text"]).distance(now) <= MOVED:
            return number
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps([*seen, {"values": list(now.values), "text": now.text}]) + "\n")
    return len(seen)


def _seen(path: Path) -> list[dict[str, Any]]:
    """What known models answered; an empty list where the file holds nothing that was written here."""
    try:
        found = reading.read_json(path)
        return [{"values": [float(value) for value in each["values"]], "text": str(each["text"])} for each in found]
    except (OSError, Unreadable, KeyError, TypeError, ValueError):
        return []


def check_measurable(subject: Subject) -> None:
    """Raise UsageError for a server: neither its memory nor its speed can be measured from outside."""
    if subject.engine is not None:
        raise UsageError(
            subject.who, "it is a server: its bytes, memory and speed cannot be measured from outside",
            expected="a checkpoint", hint="leave out -m efficiency for it, or name its files as a candidate",
        )  # fmt: skip
