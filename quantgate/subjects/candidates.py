"""Candidates: quantized checkpoints that somebody else made, judged like our own subjects (``--candidate NAME=DIR``).

What was quantized is found out, not believed: every weight matrix of the reference's blocks is looked up in the
candidate's files. It is quantized if it is stored in another form or with other values, and unchanged otherwise. What
the configuration declares to stay in 16 bit (and routers of experts, which no tool quantizes) is a fact of the record.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints import cache_scales, static_cache
from quantgate.checkpoints.audit import audit_of, audited, check_complete
from quantgate.checkpoints.beside import ending_findings, tokenizer_findings
from quantgate.checkpoints.fields import Declared
from quantgate.checkpoints.findings import ERROR, WARNING
from quantgate.core.errors import ModelError, UsageError
from quantgate.core.keys import UnfoldedKey
from quantgate.core.words import counted
from quantgate.models.digest import digest_model
from quantgate.models.files import read_json, weight_files
from quantgate.models.hub import check_place, is_on_hub, local
from quantgate.models.loading import load_reference, load_tokenizer
from quantgate.models.quantized import quantized_tensors
from quantgate.models.source import ModelFiles, check_model_directory
from quantgate.models.tensors import BITS, StoredTensor, read_tensor, stored
from quantgate.models.unchanged import stamps
from quantgate.quantize.base import Method, QuantizationRecord
from quantgate.quantize.calibration.samples import Calibration
from quantgate.store.store import sha256_file
from quantgate.subjects.served import parse_served
from quantgate.subjects.subject import Subject, Workshop, lies_on_grid

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quantgate.checkpoints.layouts.protocol import Checkpoint

ALGORITHM: Final = "candidate"
_BLOCK_WEIGHT: Final = re.compile(r".*\.\d+\..*\.weight")  # a numbered block: neither embeddings nor the output head
_LONGEST_NAME: Final = 64  # it becomes part of ids and of the names of files
_ALIKE: Final = ("hidden_size", "num_hidden_layers", "vocab_size")
_FLOATS: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes


@dataclass(frozen=True)
class CandidateSettings:
    """``directory``: where the checkpoint lies, or ``hub:ORG/REPO@REV``."""

    directory: str


def parse_candidate(text: str) -> Method:
    """``NAME=DIR``, or ``NAME=URL`` of a server, as a row of the method table.

    Raises:
        UsageError: no name, no directory, or no address that can be asked.
    """
    name, equals, place = text.partition("=")
    who = f"--candidate {text}"
    if not equals or not name or not place:
        raise UsageError(who, "no NAME=DIR", expected="a short name, '=', and a checkpoint directory or an address")
    if len(name) > _LONGEST_NAME or not re.fullmatch(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*", name):
        raise UsageError(
            f"--candidate {text[:200]}", f"the name {name[:80]!r}",
            expected=f"lower-case letters, digits, '-' and '_', at most {_LONGEST_NAME}",
        )  # fmt: skip
    if name == ModelFiles.name:
        raise UsageError(who, f"the name {name!r}", expected="another one: so the 16-bit model is called")
    if is_on_hub(place):
        check_place(place, who)
        return _row(name, place)
    if "://" in place:
        return parse_served(name, place, f"--candidate {name}=…")
    if not Path(place).exists():
        raise UsageError(
            who, f"{place!r} is not there", expected="a checkpoint's directory, a GGUF file, or hub:ORG/REPO@REV"
        )  # fmt: skip
    return _row(name, str(Path(place).resolve()))


def _row(name: str, place: str) -> Method:
    return Method(
        id=name,
        algorithm=ALGORITHM,
        settings=CandidateSettings(place),
        bits=16,
        needs_calibration=False,
        storage="packed",
        code_version=1,
        summary="a checkpoint made elsewhere",
        source=Path(place).name,
    )


def check_candidate(method: Method, reference: Path | None, *, offline: bool = True) -> None:
    """Check, without reading a weight, that the candidate is whole, declares what can be judged, and has its scales.

    ``reference``: a directory with the original's config.json, where it is known already. ``offline``: do not ask the
    hub for one that lies there.

    Raises:
        ModelError: a file is missing or cut short, it is of another architecture, its declaration is refused, or
            inputs, keys or values are to be rounded by scales that are none.
    """
    from quantgate.checkpoints import stored_scales
    from quantgate.checkpoints.declared import read_declared
    from quantgate.checkpoints.layouts.table import open_checkpoint

    path, who = directory_of(method, offline=offline), f"candidate {method.id!r}"
    if not has_config(path):
        from quantgate.checkpoints.layouts.table import layout_of

        layout_of(path, who)
        return
    check_model_directory(path, method.id, who)
    stored(path, who)
    if reference is not None:
        _check_alike(reference, path, who)
    declared = read_declared(path, who)
    if declared.reader != "own" and min(declared.cache_bits, declared.activation_bits) < 16:
        stored_scales.check(open_checkpoint(path, reference, who), declared, who)


def directory_of(method: Method, *, offline: bool = True) -> Path:
    """Where the checkpoint of a candidate's row lies; one on the hub in its cache, fetched unless ``offline``."""
    assert isinstance(method.settings, CandidateSettings)
    place = method.settings.directory
    return local(place, offline=offline) if is_on_hub(place) else Path(place)


def computed_otherwise(method: Method, dtype: str) -> str:
    """What to tell the user where the candidate's runtime multiplies in another dtype than ``dtype``; empty else.

    Raises:
        ModelError: see `read_declared`.
    """
    from quantgate.checkpoints.declared import read_declared

    who = f"candidate {method.id!r}"
    if not has_config(directory_of(method)):
        return ""
    theirs = read_declared(directory_of(method), who).compute_dtype
    if theirs in ("", dtype):
        return ""
    return (
        f"{who}: its configuration has bitsandbytes compute in {theirs} (bnb_4bit_compute_dtype); "
        f"here its weights are unpacked to {dtype} and multiplied in it: give --dtype {theirs} to judge it so"
    )


def open_candidate(model: ModelFiles, method: Method, calibration: Calibration | None, workshop: Workshop) -> Subject:
    """The candidate as a subject of ``model``; the text it looked at is its maker's.

    Raises:
        ModelError: it is incomplete, or of another architecture than the reference.
    """
    from quantgate.checkpoints.declared import read_declared
    from quantgate.checkpoints.layouts.table import open_checkpoint
    from quantgate.checkpoints.record import bytes_on_disk

    path, who = directory_of(method), f"candidate {method.id!r}"
    if not has_config(path):
        return _open_by_reference(model, method, workshop)
    check_model_directory(path, method.id, who)
    seen = stamps(path)
    _check_alike(model.path, path, who)
    declared = read_declared(path, who)
    if declared.reader == "transformers" and declared.bits is None:
        _refuse_codes(path, who)
    check_complete(model.path, path, who)
    if note := computed_otherwise(method, workshop.dtype):
        workshop.progress.note(note)
    if declared.beside:
        workshop.progress.note(f"{who}: no quantization_config in config.json; read as {declared.beside} says")
    opened = open_checkpoint(path, model.path, who)
    found = _inspect(model.path, opened, method, declared, bytes_on_disk(path))
    weights = weight_files(path, who)
    if weights.leftovers:
        workshop.progress.note(f"{who}: {weights.note()}")
    ours, theirs = load_tokenizer(model.path, model.id), load_tokenizer(path, method.id)
    if ours.chat_template and not theirs.chat_template:
        workshop.progress.note(f"{who}: its files hold no chat template; it is asked with the reference's")
    loaded = digest_model(path, who).loaded
    endings = list(ending_findings(model.path, path, ours, theirs))
    problems = [
        *_claimed(found.record),
        *_tokenizer_problems(ours, theirs),
        *(each.sentence for each in endings if each.level == ERROR),
        *audited(model, path, loaded, workshop.store, who),
    ]
    cached = cache_scales.findings(opened, declared, who) if cache_scales.is_read(declared) else ()
    warnings = [each for each in [*endings, *cached] if each.level == WARNING]
    for warning in [*warnings, *audit_of(model, path, loaded, workshop.store, who).of_level(WARNING)]:
        workshop.progress.note(f"{who}: {warning.sentence}")
    if declared.reader == "unfolded":
        found = _as_unfolded(found, unfolded(opened, path, loaded, model, workshop, declared), who)
        return replace(found, foreign=tuple(problems), leftovers=weights.leftovers)
    return replace(
        found, weights=loaded, foreign=tuple(problems), leftovers=weights.leftovers, stamps=seen, loader=load_candidate
    )


def _as_unfolded(subject: Subject, path: Path, who: str) -> Subject:
    """The subject as it will be loaded: from its unpacked files."""
    from quantgate.checkpoints.unfold import load_unfolded

    return replace(
        subject, path=path, weights=digest_model(path, who).loaded, stamps=stamps(path), loader=load_unfolded
    )


def _open_by_reference(model: ModelFiles, method: Method, workshop: Workshop) -> Subject:
    """A candidate that brings no config.json (GGUF, adapters): the reference's says what its tensors are."""
    from quantgate.checkpoints.layouts.table import open_checkpoint

    path, who = directory_of(method), f"candidate {method.id!r}"
    checkpoint = open_checkpoint(path, model.path, who)
    added = getattr(checkpoint, "added", None)

    def kept(name: str) -> bool:
        if added is None:
            return name == "lm_head"
        return name not in added and name not in checkpoint.modules

    _check_all_there(model.path, checkpoint, who)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    source = hashlib.sha256("".join(sha256_file(file) for file in files if file.is_file()).encode()).hexdigest()
    found = _inspect(model.path, checkpoint, method, Declared("unfolded", kept), sum(f.stat().st_size for f in files))
    problems = audited(model, path, source, workshop.store, who)
    for warning in audit_of(model, path, source, workshop.store, who).of_level(WARNING):
        workshop.progress.note(f"{who}: {warning.sentence}")
    return replace(
        _as_unfolded(found, unfolded(checkpoint, model.path, source, model, workshop), who), foreign=tuple(problems)
    )


def _check_all_there(reference: Path, checkpoint: Checkpoint, who: str) -> None:
    tied = read_json(reference / "config.json", who).get("tie_word_embeddings")
    missing = [
        name
        for name in stored(reference)
        if name not in checkpoint.plain
        and name.removesuffix(".weight") not in checkpoint.modules
        and not (tied and name == "lm_head.weight")
    ]
    if missing:
        raise ModelError(
            who, f"{counted(len(missing), 'weight is', 'weights are')} missing ({', '.join(missing[:3])})",
            expected="every weight of the reference's architecture", hint="finish the download",
        )  # fmt: skip


def unfolded(
    checkpoint: Checkpoint,
    texts: Path,
    source: str,
    model: ModelFiles,
    workshop: Workshop,
    declared: Declared | None = None,
) -> Path:
    """Where the 16-bit files of ``checkpoint`` lie, made once.

    ``texts``: a directory with a tokenizer; ``source``: the checkpoint's digest; ``declared``: what else
    than its weights is quantized.
    """
    from quantgate.checkpoints import unfold
    from quantgate.models.loading import torch_dtype

    versions = {name: importlib.metadata.version(name) for name in ("torch", "gguf")}
    if guest := getattr(getattr(checkpoint, "row", None), "version", 0):
        versions[f"reader {checkpoint.layout}"] = str(guest)
    key = UnfoldedKey(source, model.digest.whole, workshop.dtype, versions, unfold.VERSION)
    dtype = torch_dtype(workshop.dtype)
    return workshop.store.fetch(
        key, lambda target: unfold.unfold(checkpoint, texts, dtype, target, declared), what="an unpacked candidate"
    ).path


def has_config(path: Path) -> bool:
    """Whether the place is a model's directory; GGUF files and adapters lean on the reference's configuration."""
    return (path / "config.json").is_file() or not (
        path.is_file() or (path / "adapter_config.json").is_file() or any(path.glob("*.gguf"))
    )


def load_candidate(path: Path, name: str, dtype: str, device: str) -> PreTrainedModel:
    """The model in evaluation mode: our own reader for the layouts it knows, transformers for all others."""
    from quantgate.checkpoints.checkpoint import load_quantized
    from quantgate.checkpoints.declared import loadable, read_declared
    from quantgate.models.loading import torch_dtype

    who = f"candidate {name!r}"
    declared = read_declared(path, who)
    if declared.reader == "own":
        return load_quantized(path, torch_dtype(dtype), device)
    model = load_reference(path, name, dtype, device, loadable(path, who))
    if declared.cache_bits < 16:
        static_cache.check_taken(model, who)
    return model


def _refuse_codes(path: Path, who: str) -> None:
    """Without a quantization_config codes would be taken for weights."""
    for name, dtype in quantized_tensors(path):
        raise ModelError(
            who, f"{name} is stored in {dtype}, but config.json has no quantization_config",
            expected="a declaration of how codes become weights", hint="export the checkpoint with its configuration",
        )  # fmt: skip


def _check_alike(reference: Path, candidate: Path, who: str) -> None:
    ours, theirs = (read_json(path / "config.json", who) for path in (reference, candidate))
    for name in _ALIKE:
        if ours.get(name) != theirs.get(name):
            raise ModelError(
                who, f"{name} {theirs.get(name)}", expected=f"{ours.get(name)}, as in the reference",
                hint="give the 16-bit model it was made from with --model",
            )  # fmt: skip


def _claimed(record: QuantizationRecord) -> list[str]:
    """Says so when the configuration claims fewer bits than plain weights hold: a claim is no fact of the files."""
    if record.storage == "packed" or record.bits_nominal >= round(record.bits_effective):
        return []
    return [
        f"config.json says {record.bits_nominal} bits, and every weight matrix is stored plainly: "
        f"the files hold {record.bits_effective:.1f} bits a weight"
    ]


def _tokenizer_problems(ours: Any, theirs: Any) -> list[str]:
    """How the candidate's tokenizer differs from the reference's in what it does."""
    return [each.sentence for each in tokenizer_findings(ours, theirs)]


@dataclass
class _Found:
    """What the files say about the matrices of the reference's blocks; numbers of weights by module."""

    quantized: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    on_grid: list[str] = field(default_factory=list)
    nbytes: int = 0
    packed: bool = False


def _inspect(reference: Path, checkpoint: Checkpoint, method: Method, declared: Declared, size: int) -> Subject:
    """What the files say, as a subject without weights of its own yet. ``size``: bytes of all files."""
    who = f"candidate {method.id!r}"
    found = _matrices(reference, checkpoint, declared, who)
    config = checkpoint.config.get("quantization_config") or {}
    weights, kept = sum(found.quantized.values()), sum(found.kept.values())
    bits = 8 * found.nbytes / max(weights, 1)
    record = QuantizationRecord(
        method=method.as_record() | {"quantization_config": config},
        calibration=None,
        bits_nominal=declared.bits or _nominal(checkpoint) or round(bits),
        bits_effective=bits,
        bytes_on_disk=size,
        storage="packed" if found.packed else "fake",
        seconds=0.0,
        quantized_modules=tuple(found.quantized),
        execution=declared.execution,
        activation_bits=declared.activation_bits,
        cache_bits=declared.cache_bits,
    )
    share = kept / max(weights + kept, 1)
    return Subject(
        method, directory_of(method), record, "", True, tuple(found.unchanged), on_grid=tuple(found.on_grid),
        kept=tuple(found.kept), kept_share=share, held=_held(checkpoint) if declared.reader == "unfolded" else 0,
    )  # fmt: skip


def _held(checkpoint: Checkpoint) -> int:
    """Bytes of all of its tensors; an adapter's beside those of what it is added to."""
    added: Mapping[str, Mapping[str, StoredTensor]] = getattr(checkpoint, "added", {})
    parts = [each for name, pair in added.items() if name not in checkpoint.modules for each in pair.values()]
    others = sum(math.prod(shape) * BITS.get(dtype, 16) // 8 for dtype, shape in checkpoint.plain.values())
    return sum(each.nbytes for each in checkpoint.modules.values()) + sum(each.nbytes for each in parts) + others


def _nominal(checkpoint: Checkpoint) -> int:
    """Bits of the codes of most matrices; 0 where none is quantized."""
    counts = Counter(stored.bits for stored in checkpoint.modules.values())
    return round(counts.most_common(1)[0][0]) if counts else 0


def _matrices(reference: Path, checkpoint: Checkpoint, declared: Declared, who: str) -> _Found:
    """Look up every matrix of the blocks.

    Raises:
        ModelError: a module is stored quantized although the configuration keeps it in 16 bit.
    """
    experts = _experts(read_json(reference / "config.json", who))
    found = _Found()
    for name, weight in stored(reference).items():
        module = name.removesuffix(".weight")
        in_block = len(weight.shape) == 2 and _BLOCK_WEIGHT.fullmatch(name)
        if not in_block and not (name == "lm_head.weight" and declared.kept("lm_head")):
            continue
        quantized, same = checkpoint.modules.get(module), checkpoint.plain.get(name)
        packed = quantized is not None or same is None or same[0] not in _FLOATS or same[1] != weight.shape
        count = math.prod(weight.shape)
        if declared.kept(module):
            if packed and (quantized or same):
                raise ModelError(
                    who, f"{module} is stored quantized", expected="16 bit, as its quantization_config declares",
                    hint="the runtime would not read these tensors: correct the configuration",
                )  # fmt: skip
            if in_block:
                found.kept[module] = count
            continue
        if not packed and _is_router(name, weight.shape, experts):
            found.kept[module] = count
            continue
        found.quantized[module] = count
        found.nbytes += quantized.nbytes if quantized else count * _FLOATS.get(same[0], 2) if same else 0
        found.packed |= packed
        if not packed:
            _compare(weight, checkpoint, found)
    return found


def _compare(weight: StoredTensor, checkpoint: Checkpoint, found: _Found) -> None:
    """Whether a matrix that is stored as floats is still the reference's."""
    import torch

    ours, theirs = read_tensor(weight), checkpoint.tensor(weight.name)
    if torch.equal(theirs.to(torch.bfloat16), ours.to(torch.bfloat16)):
        (found.on_grid if lies_on_grid(ours) else found.unchanged).append(weight.name.removesuffix(".weight"))


def _experts(config: Mapping[str, Any]) -> set[int]:
    text = config.get("text_config")
    places = (config, text if isinstance(text, Mapping) else {})
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return {int(place[name]) for place in places for name in names if isinstance(place.get(name), int)}


def _is_router(name: str, shape: tuple[int, ...], experts: set[int]) -> bool:
    """Whether the matrix has one row an expert and is called as routers are."""
    return shape[0] in experts and name.split(".")[-2] in ("gate", "router", "wg")
