"""Quantize a checkpoint directory into another one: the one entry point of this room."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from quantgate.errors import MethodError
from quantgate.progress import Progress
from quantgate.quantize import checkpoint
from quantgate.quantize.base import Method, QuantizationRecord
from quantgate.quantize.calibration import Calibration
from quantgate.quantize.driver import Sweep
from quantgate.quantize.methods import algorithm_of, transformation_of


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
        ModelError: ``model_dir`` is not a complete safetensors checkpoint.
    """
    used = calibration if method.needs_calibration else None
    if method.needs_calibration and used is None:
        raise MethodError(method.id, "no calibration set", expected="one", hint="pass a Calibration")
    start = time.perf_counter()
    model, stored_dtype = _load(model_dir, device)
    algorithm = algorithm_of(method)
    sweep = Sweep(model, algorithm, method.id, progress, transformation_of(method))
    results = sweep.run(used)
    weights = {name: result.weight for name, result in results.items()}
    packed_bytes = checkpoint.write(
        model_dir, target, weights, algorithm.checkpoint_config(), stored_dtype, sweep.job.changed
    )
    record = QuantizationRecord(
        method=method.as_record(),
        calibration=used.as_record() if used else None,
        bits_nominal=method.bits,
        bits_effective=8 * packed_bytes / sum(weight.n_weights for weight in weights.values()),
        bytes_on_disk=checkpoint.bytes_on_disk(target),
        storage=method.storage,
        seconds=time.perf_counter() - start,
        quantized_modules=tuple(weights),
        losses={name: result.loss for name, result in results.items()},
        execution="int8" if method.algorithm == "llm_int8" else "dequantized",
        folds=sweep.job.folds,
    )
    checkpoint.write_record(record, target)
    return record


def _load(model_dir: Path, device: str) -> tuple[Any, torch.dtype]:
    """The model to quantize and the 16-bit dtype its other tensors are stored in.

    A float32 checkpoint is rounded to bf16 first: the reference it will be compared with is the 16-bit model. fp16 on
    a CPU is computed in float32 (there is no fast fp16 matmul), with the same fp16 weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    checkpoint.weight_files(model_dir)
    config = AutoConfig.from_pretrained(model_dir, trust_remote_code=False)
    stored = torch.float16 if getattr(config, "dtype", None) == torch.float16 else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, config=config, dtype=stored, use_safetensors=True, trust_remote_code=False
    )
    if stored == torch.float16 and device == "cpu":
        model = model.float()
    return model.to(device).eval(), stored
