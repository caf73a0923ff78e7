"""Subjects: make (or find) a quantized model, load it for scoring, and prove that it was quantized at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from quantgate.checkpoints.record import LAYOUT_VERSION, read_record
from quantgate.core import reading
from quantgate.core.errors import MethodError, StoreError, translated
from quantgate.core.keys import AuditKey, SubjectKey
from quantgate.core.progress import Progress
from quantgate.engines.protocol import EngineRow
from quantgate.models.digest import digest_model
from quantgate.models.files import read_json
from quantgate.models.source import ModelFiles
from quantgate.models.unchanged import Stamps, check_small_unchanged, check_unchanged, stamps
from quantgate.quantize.base import Method, QuantizationRecord, StoredWeight
from quantgate.quantize.calibration.samples import Calibration
from quantgate.store import bound
from quantgate.store.store import Store

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Loader: TypeAlias = "Callable[[Path, str, str, str], PreTrainedModel]"
"""Directory, name, dtype, device."""
AUDIT_VERSION: Final = 5
_FLOAT_BITS: Final = 16
_ROUNDING: Final = 2.0**-6  # relative: two roundings to bf16 and two medians of ratios that were rounded so


@dataclass(frozen=True)
class Subject:
    """A quantized model on disk. ``weights``: digest of what is loaded, by which its answers are cached.

    ``unchanged``: names of modules that claim to be quantized although their weights equal the reference's.
    ``foreign``: how a checkpoint made elsewhere does not belong to the reference.
    ``leftovers``: weights in the directory that are not read.
    ``on_grid``: modules that are quantized and equal the reference's, whose weights quantizing does not change.
    ``stamps``: of its files, taken before anything was read.
    ``kept``: modules that the configuration declares to stay in 16 bit; ``kept_share``: of the blocks' weights.
    ``loader``: reads such files; None: as we write them. ``called``: its name within the run (`SubjectSpec.id`).
    ``held``: bytes of its tensors as they are stored, where ``path`` has them unpacked; 0: those of ``path``.
    ``engine``: what answers for it; None: the run's own. ``served``: what a server says and can, for the record.
    """

    method: Method
    path: Path
    record: QuantizationRecord
    weights: str
    from_cache: bool
    unchanged: tuple[str, ...] = field(default=())
    foreign: tuple[str, ...] = field(default=())
    leftovers: tuple[str, ...] = field(default=())
    on_grid: tuple[str, ...] = field(default=())
    kept: tuple[str, ...] = field(default=())
    kept_share: float = 0.0
    stamps: Stamps = ()
    loader: Loader | None = field(default=None, compare=False, repr=False)
    called: str = ""
    held: int = 0
    engine: EngineRow | None = field(default=None, compare=False, repr=False)
    served: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the run calls it; without that its method's id, or the name that a candidate was given."""
        return self.called or self.method.id

    @property
    def who(self) -> str:
        """For messages."""
        return self.name

    @property
    def digest_loaded(self) -> str:
        """Digest of what is loaded."""
        return self.weights

    def load(self, dtype: str, device: str) -> PreTrainedModel:
        """The model in evaluation mode. Raises ModelError when it cannot be loaded."""
        return (self.loader or load_made)(self.path, self.method.id, dtype, device)

    def check_unchanged(self) -> None:
        """Raises ModelError when the files are no longer those that were digested."""
        if self.engine is not None:
            check_small_unchanged(self.path, self.stamps, f"subject {self.method.id!r}")
            return
        check_unchanged(self.path, self.stamps, lambda now: now.loaded == self.weights, f"subject {self.method.id!r}")

    @property
    def is_unquantized(self) -> bool:
        """Whether nothing differs from the reference: no weight, and keys and values are not quantized either.

        Of a server nobody knows: it is compared by its answers alone.
        """
        if self.engine is not None:
            return False
        return len(self.unchanged) + len(self.on_grid) == len(self.record.quantized_modules) + (
            self.record.cache_bits < 16
        )

    def problems(self) -> list[str]:
        """What speaks against judging this subject as a product of its method."""
        if not self.unchanged or self.is_unquantized:
            return list(self.foreign)
        total = len(self.record.quantized_modules) + (self.record.cache_bits < 16)
        return [
            *self.foreign,
            f"{len(self.unchanged)} of {total} modules still hold 16-bit weights (first: {self.unchanged[0]})",
        ]


@dataclass(frozen=True)
class Workshop:
    """Where subjects are made and kept. ``device``: where to quantize; ``shared``: other workers use this machine too:
    take turns; ``dtype``: in which subjects will be asked."""

    store: Store
    device: str = "cpu"
    shared: bool = False
    dtype: str = "bfloat16"

    @property
    def progress(self) -> Progress:
        """Told about long steps."""
        return self.store.progress


def load_made(path: Path, name: str, dtype: str, device: str) -> PreTrainedModel:
    """A checkpoint of ours in evaluation mode."""
    from quantgate.checkpoints.checkpoint import load_quantized
    from quantgate.models.loading import torch_dtype

    return load_quantized(path, torch_dtype(dtype), device)


def make_subject(model: ModelFiles, method: Method, calibration: Calibration | None, workshop: Workshop) -> Subject:
    """The model quantized by ``method``: from the store, or quantized now.

    Args:
        model: the 16-bit original.
        method: a row of the method table.
        calibration: the text it may look at; not used when it needs none.
        workshop: where to quantize, and where to keep the checkpoint.

    Raises:
        MethodError: the method cannot be applied to this model, or it needs a calibration set and there is none.
    """
    if method.needs_calibration and calibration is None:
        raise MethodError(method.id, "no calibration set", expected="text to look at")
    calibration = calibration if method.needs_calibration else None
    if calibration is not None:
        calibration.check_made_for(model.digest.weights, model.digest.tokenizer)
    store, device = workshop.store, workshop.device
    key = key_of(model, method, calibration, device)
    what = f"{method.id} of {model.id}"

    def build(target: Path) -> None:
        from quantgate.subjects.make import quantize_checkpoint  # loads torch

        with (
            store.computing(workshop.shared),
            translated(what, "cannot be quantized", kind=MethodError, hint="choose another method or --device"),
        ):
            quantize_checkpoint(model.path, method, calibration, target, device=device, progress=workshop.progress)
        model.check_unchanged()

    entry = store.fetch(key, build, what=what)
    seen = stamps(entry.path)
    record = read_record(entry.path)
    check_record(record, method, calibration, model.path, entry.path)
    # the same tokens may have been called otherwise when the entry was made
    record = replace(record, calibration=calibration.as_record() if calibration else None)
    weights = digest_model(entry.path).loaded
    unchanged, on_grid = audit(model, entry.path, weights, record, store)
    return Subject(method, entry.path, record, weights, entry.from_cache, unchanged, on_grid=on_grid, stamps=seen)


def key_of(model: ModelFiles, method: Method, calibration: Calibration | None, device: str) -> SubjectKey:
    """Where the store keeps the model quantized by ``method``; ``calibration``: None for a method that needs none."""
    return SubjectKey(
        model_digest=model.digest.whole,
        method=method.as_record(),
        calibration_digest=calibration.digest if calibration else "",
        libraries={name: importlib.metadata.version(name) for name in libraries_of(method)},
        device=device.split(":")[0],
        layout=LAYOUT_VERSION,
    )


def check_record(
    record: QuantizationRecord, method: Method, calibration: Calibration | None, reference: Path, path: Path
) -> None:
    """Refuse a store entry whose record is of another method, or does not say what the files beside it hold.

    Raises:
        StoreError: it was put in place of the one that was made, or edited.
    """
    from quantgate.subjects.recorded import contradiction

    who = f"store entry {path}"
    wanted = reading.through_json(method.as_record())  # tuples are lists in the file
    if record.method != wanted:
        found, expected = f"holds a checkpoint of {record.method.get('method')!r}", f"{method.id!r} with its settings"
    elif wrong := contradiction(record, method, calibration, reference, path, who):
        found, expected = f"its record says {wrong[0]}", wrong[1]
    else:
        return
    raise StoreError(who, found, expected=expected, hint="delete the entry, and it is made anew")


def libraries_of(method: Method) -> tuple[str, ...]:
    """Distributions whose version may change the weights a method gives."""
    return ("torch", "bitsandbytes") if method.algorithm.startswith(("bnb", "recipe")) else ("torch",)


def audit(
    model: ModelFiles, path: Path, weights: str, record: QuantizationRecord, store: Store
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Modules that ``record`` calls quantized although their weights equal the reference's (kept in the store).

    Returns:
        Those that still hold 16-bit weights, and those that are stored quantized and lost nothing by it.
    """
    claims = json.dumps([record.quantized_modules, record.folds, record.cache_bits], sort_keys=True, default=list)
    key = AuditKey(
        reference=model.digest.weights,
        subject=weights,
        claims=hashlib.sha256(claims.encode()).hexdigest(),
        version=AUDIT_VERSION,
    )

    def build(target: Path) -> None:
        unchanged, on_grid = equal_modules(model.path, path, record)
        content = {"unchanged": unchanged, "on_grid": on_grid}
        bound.write_json(target / "audit.json", content, key.digest)

    entry = store.fetch(key, build, what=f"the audit of {record.method['method']}")
    content = entry.json("audit.json")
    return tuple(content["unchanged"]), tuple(content["on_grid"])


def unchanged_modules(reference: Path, subject: Path, record: QuantizationRecord) -> list[str]:
    """Names of quantized modules that are missing, or that hold the 16-bit weights; see `equal_modules`."""
    return equal_modules(reference, subject, record)[0]


def equal_modules(reference: Path, subject: Path, record: QuantizationRecord) -> tuple[list[str], list[str]]:
    """Names of quantized modules that are missing, or whose dequantized weights equal the 16-bit ones bit for bit.

    After a transformation (AWQ, SmoothQuant) weights that are the 16-bit ones times a scale per row and per column do
    not count as quantized either.

    Returns:
        Those that still hold 16-bit weights, and those that are stored in fewer bits and equal all the same: zeros,
        constants, values that lay on the grid already.
    """
    import torch

    from quantgate.checkpoints.checkpoint import read_layers, stored_tensors

    original = dict(stored_tensors(reference))
    tied = [tensor for name, tensor in original.items() if name.endswith("embed_tokens.weight")]
    original.setdefault("lm_head.weight", *tied[:1])
    config = read_json(subject / "config.json", str(record.method["method"]))["quantization_config"]
    _, layers = read_layers(subject, config)
    same = equal_up_to_scales if record.folds else torch.equal
    unchanged = ["key/value cache"] if record.cache_bits < 16 and "kv_cache" not in config else []
    on_grid: list[str] = []
    for name in record.quantized_modules:
        if name not in layers:
            unchanged.append(name)
            continue
        layer = layers[name]
        if same(original[f"{name}.weight"].to(torch.bfloat16), layer.dequantize(torch.bfloat16)):
            (on_grid if _stored_bits(layer) < _FLOAT_BITS else unchanged).append(name)
    return unchanged, on_grid


def _stored_bits(weight: StoredWeight) -> float:
    """Bits a weight: a matrix that equals the original in fewer than 16 lay on the method's grid before."""
    return 8 * sum(tensor.nbytes for tensor in weight.tensors().values()) / weight.n_weights


def lies_on_grid(weight: Tensor) -> bool:
    """Whether a 16-bit matrix has so few different values that 8 bits hold it: quantizing it need not change it."""
    import torch

    different = len(torch.unique(weight))
    return different == 1 or different <= min(256, weight.numel() // 16)


def equal_up_to_scales(one: Tensor, other: Tensor) -> bool:
    """Whether ``other`` is ``one`` (both ``[out, in]``) times a factor per row and column, up to 16-bit rounding."""
    one, other = one.float(), other.float()
    if not bool(((one == 0) == (other == 0)).all()):
        return False
    ratio = (other / one).nan_to_num(1.0)
    ratio = ratio / ratio.median(0, keepdim=True).values
    ratio = ratio / ratio.median(1, keepdim=True).values
    return bool((ratio - 1).abs().max() <= _ROUNDING)
