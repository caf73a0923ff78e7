"""Quantize a checkpoint directory into others: the one entry point of this room."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from quantgate.checkpoints import checkpoint
from quantgate.checkpoints.mixed import mixed_config
from quantgate.checkpoints.record import bytes_on_disk, write_record
from quantgate.core.errors import MethodError
from quantgate.core.memory import kept_heap
from quantgate.core.progress import Progress
from quantgate.models.layers import decoder_blocks, head_of
from quantgate.models.loading import load_whole, text_config
from quantgate.models.spill import Spill
from quantgate.quantize.base import Algorithm, Method, QuantizationRecord, StoredWeight
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.catalogue.methods import NO_WEIGHTS, algorithm_of, transformation_of
from quantgate.quantize.catalogue.recipe import ALGORITHM, Recipe
from quantgate.quantize.settings import ActivationSettings, as_settings
from quantgate.quantize.sweep.driver import Job, run_jobs
from quantgate.quantize.sweep.results import packed
from quantgate.quantize.sweep.rotation import Rotated, rotate
from quantgate.quantize.transforms.activations import cache_layers
from quantgate.quantize.transforms.fold import Transformation
from quantgate.subjects.recorded import of_method


def quantize_checkpoint(
    model_dir: Path,
    method: Method,
    calibration: Calibration | None,
    target: Path,
    *,
    device: str = "cpu",
    progress: Progress,
) -> QuantizationRecord:
    """Quantize the linear layers of the decoder blocks in ``model_dir`` by ``method`` and write ``target``.

    Embeddings, norms, biases and the output head stay 16 bit. ``target`` is written in place: publish it atomically
    around this call. A method that takes no calibration ignores it, and its record says so (``calibration: None``).

    Raises:
        MethodError: the method needs calibration and has none, or cannot be applied to this model.
        ModelError: ``model_dir`` is not a complete safetensors checkpoint, or holds tensors without a place.
    """
    (record,) = quantize_many(model_dir, {target: method}, calibration, device=device, progress=progress)
    return record


def quantize_many(
    model_dir: Path,
    targets: Mapping[Path, Method],
    calibration: Calibration | None,
    *,
    device: str = "cpu",
    progress: Progress,
) -> list[QuantizationRecord]:
    """Quantize ``model_dir`` by several methods in one sweep, each into its own directory; see `quantize_checkpoint`.

    Each checkpoint equals, bit for bit, the one that its method writes alone. Shared are loading, the embedded
    calibration text and, among methods that look at the 16-bit model's activations (AWQ, SmoothQuant, every
    `with_float_inputs`), one forward, the statistics, and what is derived from them. A record's ``seconds`` are the
    method's own and its share of these.

    Raises:
        MethodError: a method needs calibration and has none, or cannot be applied to this model.
        ModelError: ``model_dir`` is not a complete safetensors checkpoint.
    """
    for method in targets.values():
        if method.needs_calibration and calibration is None:
            raise MethodError(method.id, "no calibration set", expected="one", hint="pass a Calibration")
    made: dict[Path, QuantizationRecord] = {}
    for rotation in dict.fromkeys(method.rotation for method in targets.values()):
        for inputs in (False, True):  # rotated models differ by whether inputs are rotated too
            mine = {
                target: method
                for target, method in targets.items()
                if method.rotation == rotation and (rotation is not None and method.activations is not None) == inputs
            }
            made |= _one_sweep(model_dir, mine, calibration, device, progress) if mine else {}
    return [made[target] for target in targets]


def _one_sweep(
    model_dir: Path, targets: Mapping[Path, Method], calibration: Calibration | None, device: str, progress: Progress
) -> dict[Path, QuantizationRecord]:
    """Methods that start from the same float model."""
    start = time.perf_counter()
    model, stored_dtype = load_for_quantizing(model_dir, device)
    first = next(iter(targets.values()))
    rotated = Rotated()
    if first.rotation is not None:
        rotated = rotate(model, first.rotation, first.id, inputs=first.activations is not None)
    spill = Spill(first.id, next(place for place in next(iter(targets)).absolute().parents if place.is_dir()))
    works = [_Work(method, model, rotated, spill) for method in targets.values()]
    used = calibration if any(method.needs_calibration for method in targets.values()) else None
    with kept_heap():
        run_jobs(model, [work.job for work in works], used, progress)
        common = (time.perf_counter() - start - sum(work.job.seconds for work in works)) / len(works)
        return {
            target: _write(
                model_dir, target, work, used if work.method.needs_calibration else None, stored_dtype, common
            )
            for target, work in zip(targets, works, strict=True)
        }


def _write(
    model_dir: Path, target: Path, work: _Work, calibration: Calibration | None, dtype: torch.dtype, common: float
) -> QuantizationRecord:
    start = time.perf_counter()
    config, others = work.checkpoint_config(), work.other_tensors(dtype)
    packed_bytes = checkpoint.write(model_dir, target, work.weights, config, dtype, others)
    seconds = common + work.job.seconds + time.perf_counter() - start
    record = work.record(calibration, packed_bytes, bytes_on_disk(target), seconds)
    write_record(record, target)
    return record


def with_float_inputs(method: Method) -> Method:
    """The row with statistics of the 16-bit model's activations instead of those of what is quantized so far.

    Such rows share everything in a sweep. They do not see, and so cannot make up for, the errors of the layers before.

    Raises:
        MethodError: the method has no such setting.
    """
    names = {each.name for each in fields(cast(Any, method.settings))}
    if not {"true_sequential", "block_sequential"} <= names:
        raise MethodError(method.id, "no sequential settings", expected="a method like gptq4")
    settings = replace(cast(Any, method.settings), true_sequential=False, block_sequential=False)
    family, bits = re.fullmatch(r"(.*?)(?:-w)?(\d+)", method.id).groups()  # type: ignore[union-attr]
    return replace(method, id=f"{family}-float-w{bits}", settings=settings, standard=False)


class _Work:
    """One method applied to one model: the driver's job, and what the checkpoint and its record say about it.

    ``rows``: the row of the method table by layer name; layers without one stay 16 bit.
    """

    def __init__(self, method: Method, model: Any, rotated: Rotated, spill: Spill) -> None:
        self.method, self.rotated = method, rotated
        self.rows = _rows(method, model)
        self.algorithms = {row.id: algorithm_of(row) for row in self.rows.values()}
        finish = partial(packed, spill=spill)
        self.job = Job(method.id, self._algorithm, self._transformation, self._activations, finish)
        replaced = {f"{name}.weight" for name in self.rows}
        self.job.changed |= {name: each for name, each in rotated.changed.items() if name not in replaced}
        if method.kv_cache:
            cache_layers(model, method.id)

    def _algorithm(self, name: str) -> Algorithm | None:
        return self.algorithms[self.rows[name].id] if name in self.rows else None

    def _transformation(self, names: Sequence[str]) -> Transformation | None:
        """That of the layers' rows if they agree: layers that share an input cannot be scaled differently."""
        found = [self.rows.get(name) for name in names]
        first = found[0]
        agreed = first is not None and all(row and row.transformation == first.transformation for row in found)
        return transformation_of(first) if first and agreed else None

    def _activations(self, name: str) -> ActivationSettings | None:
        settings = self.rows[name].activations if name in self.rows else None
        seed = self.rotated.inputs.get(name)
        return settings if settings is None or seed is None else replace(settings, rotation=seed)

    @property
    def weights(self) -> dict[str, StoredWeight]:
        """The quantized layers."""
        return {name: result.weight for name, result in self.job.results.items()}

    def other_tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Folded parameters in the checkpoint's 16-bit dtype, and static input grids as they are."""
        return {name: tensor.to(dtype) for name, tensor in self.job.changed.items()} | self.job.input_grids

    def checkpoint_config(self) -> dict[str, Any]:
        """One configuration for all layers where a common layout can say everything, otherwise one for each."""
        layers: dict[str, dict[str, Any]] = {}
        for name in self.job.results:
            row = self.rows[name]
            inputs = self._activations(name)
            extra = {"activations": as_settings(inputs)} if inputs else {}
            own = self.algorithms[row.id].checkpoint_config()
            if not isinstance(own, dict):
                raise MethodError(row.id, f"its checkpoint_config() gave a {type(own).__name__}", expected="a dict")
            layers[name] = own | extra
        if not (self.method.algorithm == ALGORITHM or self.method.kv_cache or self.method.activations):
            return next(iter(layers.values()))
        return mixed_config(layers, as_settings(self.method.kv_cache) if self.method.kv_cache else None)

    def record(
        self, calibration: Calibration | None, packed_bytes: int, bytes_on_disk: int, seconds: float
    ) -> QuantizationRecord:
        """What is written beside the weights."""
        method, results = self.method, self.job.results
        n_weights = sum(result.weight.n_weights for result in results.values())
        packed_bytes += sum(grid.nbytes for grid in self.job.input_grids.values())
        inputs = [row.activations.bits for row in self.rows.values() if row.activations]
        return QuantizationRecord(
            method=method.as_record(),
            calibration=calibration.as_record() if calibration else None,
            bits_effective=8 * packed_bytes / n_weights if n_weights else 16.0,
            bytes_on_disk=bytes_on_disk,
            seconds=seconds,
            quantized_modules=tuple(results),
            losses={name: result.loss for name, result in results.items()},
            folds=self.job.folds,
            **of_method(method, inputs),
        )


def _rows(method: Method, model: Any) -> dict[str, Method]:
    """The row of every layer that ``method`` quantizes, by name."""
    names = [name for block in decoder_blocks(model, method.id) for name in block.linears]
    if method.algorithm == NO_WEIGHTS:
        return {}
    if isinstance(method.settings, Recipe):
        return method.settings.assigned([*names, *head_of(model)], method.id)
    return dict.fromkeys(names, method)


def load_for_quantizing(model_dir: Path, device: str) -> tuple[Any, torch.dtype]:
    """The model to quantize and the 16-bit dtype its other tensors are stored in.

    A float32 checkpoint is rounded to bf16 first: the reference it will be compared with is the 16-bit model. fp16 on
    a CPU is computed in float32 (there is no fast fp16 matmul), with the same fp16 weights.
    """
    who = f"model {model_dir.name!r}"
    config = text_config(model_dir, model_dir.name)
    stored = torch.float16 if getattr(config, "dtype", None) == torch.float16 else torch.bfloat16
    model = load_whole(model_dir, who, stored)
    if stored == torch.float16 and device == "cpu":
        model = model.float()
    return model.to(device).eval(), stored
