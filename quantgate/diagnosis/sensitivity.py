"""What every method does to every group of layers: estimated harm and counted bytes, kept in the store."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from torch import nn

from quantgate.checkpoints.checkpoint import read_layers
from quantgate.core.errors import MethodError
from quantgate.core.keys import Key
from quantgate.core.memory import available
from quantgate.diagnosis.estimate import draw_together
from quantgate.diagnosis.frontier import Group
from quantgate.diagnosis.passes import Bench, Segment
from quantgate.diagnosis.units import changed_modules, groups_of
from quantgate.models.files import read_json
from quantgate.quantize.catalogue.recipe import NONE
from quantgate.runs.evaluation import Evaluation
from quantgate.store import bound
from quantgate.store.store import Entry
from quantgate.subjects.subject import Subject

VERSION: Final = 1  # counts up when the same models and segments give other estimates
_FILE: Final = "sensitivity.json"
_FLOAT32: Final = 4  # bytes


@dataclass(frozen=True)
class SensitivityKey(Key):
    """Estimates of one subject's modules on some segments. ``segments``: digest of their tokens."""

    kind: ClassVar[str] = "sensitivities"
    reference: str
    subject: str
    segments: str
    dtype: str
    probes: int
    seed: int
    version: int


@dataclass(frozen=True)
class Told:
    """Of one subject: its bytes by module, and for every draw the product of gradient and error by module."""

    nbytes: Mapping[str, int]
    harm: Mapping[str, float]


class Sensitivities:
    """Estimates of several subjects of one reference, which is loaded only if one of them is not in the store.

    ``segments``: made when the reference is loaded first. ``probes``, ``seed``: see `quantgate.diagnosis.estimate`.
    """

    def __init__(self, evaluation: Evaluation, segments: Sequence[Segment], model: Any, probes: int, seed: int) -> None:
        self.evaluation, self.segments, self.model = evaluation, segments, model
        self.probes, self.seed = probes, seed
        self.bench = Bench(model, segments, evaluation.model.who)
        self.groups = groups_of(model, self.bench.blocks, self.bench.chunks[0].ids[:1])

    def of(self, subjects: Sequence[Subject]) -> list[Group]:
        """Every group of layers with its harm and bytes under each subject's method, and in 16 bit.

        Raises:
            MethodError: a method that leaves a layer of the blocks as it is, or changes more than such layers.
        """
        missing = [each for each in subjects if not self.evaluation.store.path_of(self._key(each)).exists()]
        room = self._at_once()
        for start in range(0, len(missing), room):
            self._made(missing[start : start + room])
        told = {subject.method.id: self._told(subject) for subject in subjects}
        sizes = {name: self.model.get_submodule(name).weight.numel() for group in self.groups for name in group}
        return [
            Group(
                group,
                sum(sizes[name] for name in group),
                {NONE: 0.0} | {method: each.harm["/".join(group)] for method, each in told.items()},
                {NONE: 2 * sum(sizes[name] for name in group)}
                | {method: sum(each.nbytes[name] for name in group) for method, each in told.items()},
            )
            for group in self.groups
        ]

    def _at_once(self) -> int:
        """How many subjects fit into half of the memory that is free: their weights and the errors of their layers."""
        features = [int(self.model.get_submodule(name).weight.shape[0]) for group in self.groups for name in group]
        weights = sum(int(parameter.numel()) for parameter in self.model.parameters())
        errors = max(chunk.ids.numel() for chunk in self.bench.chunks) * sum(features)
        return max(1, (available() or 0) // 2 // (_FLOAT32 * (weights + errors)))

    def _key(self, subject: Subject) -> SensitivityKey:
        tokens = json.dumps([[segment.tokens, segment.first] for segment in self.segments])
        return SensitivityKey(
            self.evaluation.model.digest.weights, subject.weights, hashlib.sha256(tokens.encode()).hexdigest(),
            "float32", self.probes, self.seed, VERSION,
        )  # fmt: skip

    def _made(self, subjects: Sequence[Subject]) -> None:
        """Put the estimates of all ``subjects`` into the store, from the same passes of the reference."""
        names = ", ".join(subject.name for subject in subjects)
        self.evaluation.progress.step(f"{names}: estimating effects", 0, 1)
        found = self._harm(subjects)
        self.evaluation.progress.step(f"{names}: estimating effects", 1, 1)
        for subject, harm in zip(subjects, found, strict=True):
            self._kept(subject, partial(dict, harm))

    def _told(self, subject: Subject) -> Told:
        entry = self._kept(subject, lambda: self._harm([subject])[0])  # one that was damaged meanwhile
        return Told(bytes_by_module(subject), entry.json(_FILE))

    def _kept(self, subject: Subject, harm: Callable[[], dict[str, float]]) -> Entry:
        key = self._key(subject)

        def build(target: Path) -> None:
            bound.write_json(target / _FILE, harm(), key.digest)

        return self.evaluation.store.fetch(key, build, what=f"sensitivities to {subject.name}")

    def _harm(self, subjects: Sequence[Subject]) -> list[dict[str, float]]:
        """Of every subject: the mean over segments of what exchanging each group is estimated to do."""
        exchanged = [self._exchanged(subject) for subject in subjects]
        harms = []
        for subject, draws in zip(subjects, draw_together(self.bench, exchanged, self.probes, self.seed), strict=True):
            found = {"/".join(group): draws.of(group) for group in self.groups}
            harms.append({name: sum(values) / len(values) for name, values in found.items()})
            if odd := [name for name, value in harms[-1].items() if not math.isfinite(value)]:
                raise MethodError(
                    subject.name, f"the effect of {odd[0]} is no number", expected="finite weights",
                    hint="leave the method out",
                )  # fmt: skip
        return harms

    def _exchanged(self, subject: Subject) -> dict[str, nn.Module]:
        """The subject's own layers by name."""
        theirs = subject.load("float32", self.evaluation.options.device).requires_grad_(False)
        kinds = changed_modules(self.model, theirs, subject.name)
        layers = {name for group in self.groups for name in group}
        if odd := sorted(set(kinds) ^ layers):
            raise MethodError(
                subject.name, f"{odd[0]} {'changed' if odd[0] in kinds else 'is as it was'}",
                expected="a method that quantizes the linear layers of the blocks and nothing else",
                hint="rows that fold scales into norms (awq, smoothquant) cannot be mixed group by group",
            )  # fmt: skip
        return {name: theirs.get_submodule(name) for name in kinds}


def bytes_by_module(subject: Subject) -> dict[str, int]:
    """Bytes of the stored tensors of every quantized layer."""
    config = read_json(subject.path / "config.json", subject.who)["quantization_config"]
    _, layers = read_layers(subject.path, config)
    return {name: sum(tensor.nbytes for tensor in layer.tensors().values()) for name, layer in layers.items()}
