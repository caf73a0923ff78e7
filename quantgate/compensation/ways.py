"""The ways to make up for what a method loses, as a table; each makes one folder that is a candidate.

`BEFORE` and `AFTER` are the two orders of arXiv 2307.08072 with the same text and the same `Budget`; `REQUANTIZED` is
what becomes of the second where a runtime knows no adapters; `EORA` trains nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

from quantgate.checkpoints.layouts.table import open_checkpoint
from quantgate.compensation.adapters import copy_checkpoint, put_together, write_adapter
from quantgate.compensation.eora import Parts, corrections
from quantgate.compensation.training import Budget, train
from quantgate.core.keys import Key
from quantgate.models.digest import digest_model
from quantgate.models.source import ModelFiles
from quantgate.quantize.base import Method
from quantgate.runs.evaluation import Evaluation
from quantgate.store import bound
from quantgate.store.store import Entry, sha256_file
from quantgate.subjects.candidates import unfolded
from quantgate.subjects.subject import Subject, Workshop, make_subject

VERSION: Final = 1  # counts up when the same text and budget give another adapter
_FACTS: Final = "facts.json"


@dataclass(frozen=True)
class AdapterKey(Key):
    """An adapter. ``base``: digest of the weights it was made for; ``text``: of the calibration set."""

    kind: ClassVar[str] = "adapters"
    way: str
    reference: str
    base: str
    text: str
    budget: Mapping[str, Any]
    dtype: str
    device: str
    version: int


@dataclass
class Desk:
    """What the ways share. ``place``: where the folders go, each under the name of its way."""

    evaluation: Evaluation
    method: Method
    budget: Budget
    place: Path

    @cached_property
    def quantized(self) -> Subject:
        """The method's own subject: the base of what comes after."""
        return self.evaluation.subject(self.method)

    @property
    def workshop(self) -> Workshop:
        """Where things are made and kept."""
        options = self.evaluation.options
        return Workshop(self.evaluation.store, options.device, options.shared, options.dtype)

    def adapter(self, way: str, base: Subject | None) -> Entry:
        """The adapter of a way, from the store or made now; ``base``: None for the 16-bit original."""
        evaluation, model = self.evaluation, self.evaluation.model
        text = evaluation.questions.calibration()
        key = AdapterKey(
            way, model.digest.whole, base.digest_loaded if base else "", text.digest, asdict(self.budget),
            evaluation.options.dtype, evaluation.options.device.split(":")[0], VERSION,
        )  # fmt: skip

        def build(target: Path) -> None:
            evaluation.release()
            start = time.perf_counter()
            parts, alpha, facts = _MAKERS[way](self, base, text.samples)
            write_adapter(parts, alpha, target, "base" if base else model.id)
            facts |= {"trainable": sum(up.numel() + down.numel() for up, down in parts.values()) * (way != _EORA)}
            bound.write_json(target / _FACTS, facts | {"seconds": time.perf_counter() - start}, key.digest)

        return evaluation.store.fetch(key, build, what=f"{way} of {self.method.id}")

    def requantized(self, adapter: Path, name: str) -> Path:
        """The model with the adapter merged into its weights, in 16 bit, quantized by the method; a folder of it."""
        model = self.evaluation.model
        opened = open_checkpoint(adapter, model.path, f"adapter {name!r}")
        source = "".join(sha256_file(file) for file in sorted(adapter.rglob("*.safetensors")))
        merged = unfolded(opened, model.path, source, model, self.workshop)
        files = ModelFiles(f"{model.id} with {name}", "", merged, digest_model(merged))
        text = self.evaluation.questions.calibration() if self.method.needs_calibration else None
        made = make_subject(files, self.method, text, self.workshop)
        return copy_checkpoint(made.path, self.place / name)


def _load(desk: Desk, base: Subject | None) -> Any:
    options = desk.evaluation.options
    return (base or desk.evaluation.model).load(options.dtype, options.device)


def _trained(desk: Desk, base: Subject | None, samples: Any) -> tuple[Parts, float, dict[str, Any]]:
    budget = desk.budget
    teacher = _load(desk, None) if budget.loss == "original" else None
    parts, losses = train(_load(desk, base), teacher, samples, budget, desk.evaluation.progress)
    few = max(1, len(losses) // 10)
    facts = {"loss_first": sum(losses[:few]) / few, "loss_last": sum(losses[-few:]) / few}
    return parts, budget.alpha, facts


def _corrected(desk: Desk, base: Subject | None, samples: Any) -> tuple[Parts, float, dict[str, Any]]:
    rank = desk.budget.rank
    parts, left = corrections(_load(desk, None), _load(desk, base), samples, rank, desk.evaluation.progress)
    return parts, float(rank), {"output_error_left": left}


_LORA: Final = "lora"
_EORA: Final = "eora"
_MAKERS: Final[Mapping[str, Callable[[Desk, Subject | None, Any], tuple[Parts, float, dict[str, Any]]]]] = {
    _LORA: _trained,
    _EORA: _corrected,
}


@dataclass(frozen=True)
class Way:
    """``make`` gives the folder of a candidate, and facts about how it was made."""

    name: str
    summary: str
    make: Callable[[Desk], tuple[Path, dict[str, Any]]]


def _facts(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = entry.json(_FACTS)
    return found


def _before(desk: Desk) -> tuple[Path, dict[str, Any]]:
    entry = desk.adapter(_LORA, None)
    return desk.requantized(put_together(entry.path, None, desk.place / "before-adapter"), "before"), _facts(entry)


def _after(desk: Desk) -> tuple[Path, dict[str, Any]]:
    entry = desk.adapter(_LORA, desk.quantized)
    return put_together(entry.path, desk.quantized.path, desk.place / "after"), _facts(entry)


def _requantized(desk: Desk) -> tuple[Path, dict[str, Any]]:
    folder, facts = _after(desk)
    return desk.requantized(folder, "requantized"), facts


def _eora(desk: Desk) -> tuple[Path, dict[str, Any]]:
    entry = desk.adapter(_EORA, desk.quantized)
    return put_together(entry.path, desk.quantized.path, desk.place / "eora"), _facts(entry)


WAYS: Final[Mapping[str, Way]] = {
    way.name: way
    for way in (
        Way("before", "LoRA on the 16-bit model, merged, then quantized", _before),
        Way("after", "LoRA on the frozen quantized model, kept beside it in 16 bit", _after),
        Way("requantized", "the same adapter merged into the weights, and these quantized again", _requantized),
        Way("eora", "no training: a low-rank correction of each matrix, weighed by its inputs, kept beside it", _eora),
    )
}
