"""Adapters on disk: peft's files, beside them the quantized base they were made for.

``adapter_config.json`` and ``adapter_model.safetensors`` are what peft loads. A folder ``base`` holds the checkpoint
that the terms are added to; without it they belong to the 16-bit original (`quantgate.checkpoints.layouts.adapter`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

from quantgate.checkpoints.layouts.adapter import BASE, CONFIG, WEIGHTS
from quantgate.checkpoints.record import write_json
from quantgate.compensation.eora import Parts
from quantgate.core.errors import StoreError
from quantgate.store.store import ENTRY

_PREFIX: Final = "base_model.model."


def write_adapter(parts: Parts, alpha: float, target: Path, trained_on: str) -> None:
    """Write ``parts`` (``B`` and ``A`` by layer) as peft does, in bf16, into the directory ``target``.

    Args:
        parts: all of one rank.
        alpha: ``scale * rank``.
        target: where.
        trained_on: what stands in ``base_model_name_or_path``.
    """
    tensors = {}
    for name, (up, down) in parts.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = down.to(torch.bfloat16).contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = up.to(torch.bfloat16).contiguous()
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": trained_on,
        "r": len(next(iter(parts.values()))[1]),
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(parts),
        "inference_mode": True,
    }
    write_json(target / CONFIG, config)


def put_together(adapter: Path, base: Path | None, target: Path) -> Path:
    """A folder that is a candidate: the adapter's files, and the checkpoint ``base`` beside them.

    Raises:
        StoreError: it cannot be written.
    """
    with _written(target):
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(adapter / name, target / name)
        if base is not None:
            _copy(base, target / BASE)
    return target


def copy_checkpoint(source: Path, target: Path) -> Path:
    """The files of a checkpoint in the store, without the store's own, as the folder ``target``.

    Raises:
        StoreError: it cannot be written.
    """
    with _written(target):
        _copy(source, target)
    return target


@contextmanager
def _written(target: Path) -> Iterator[None]:
    """An empty folder, in the place of what an earlier command left there: two checkpoints in one are neither."""
    try:
        if target.exists():
            shutil.rmtree(target)
        target.mkdir(parents=True)
        yield
    except OSError as error:
        raise StoreError(f"--out {target}", f"cannot be written ({error.strerror or error})",
                         expected="a writable directory with free space") from error  # fmt: skip


def _copy(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name != ENTRY:
            shutil.copyfile(file, target / file.name)
