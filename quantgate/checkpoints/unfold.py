"""A checkpoint of any layout as a plain 16-bit model on disk: every matrix unpacked once, module by module.

Memory is that of one shard; what is loaded afterwards is loaded as any 16-bit model is, so that scoring never holds the
packed and the unpacked weights at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantgate.checkpoints.checkpoint import TEXTS, write_json
from quantgate.models.digest import HEAD, is_tied
from quantgate.models.files import INDEX

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from quantgate.checkpoints.layouts.protocol import Checkpoint

VERSION: Final = 1  # counts up when the same files are unpacked to other values
_SHARD_BYTES: Final = 500 * 1000**2


def unfold(checkpoint: Checkpoint, texts: Path, dtype: torch.dtype, target: Path) -> None:
    """Write config.json, tokenizer and weights of ``checkpoint`` in ``dtype`` into the directory ``target``.

    Args:
        checkpoint: what is unpacked.
        texts: the directory with its tokenizer.
        dtype: of all weights; they are computed in float32 and rounded once.
        target: an empty directory.

    Raises:
        ModelError: a module that cannot be unpacked.
    """
    config = {name: value for name, value in checkpoint.config.items() if name != "quantization_config"}
    config |= {"dtype": str(dtype).removeprefix("torch."), "torch_dtype": str(dtype).removeprefix("torch.")}
    write_json(target / "config.json", config)
    for name in TEXTS:
        if (texts / name).is_file():
            shutil.copyfile(texts / name, target / name)
    _write_shards(_tensors(checkpoint, dtype), target)


def _tensors(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    skipped = {HEAD} if is_tied(checkpoint.config) and HEAD in checkpoint.plain else set()
    for name in checkpoint.plain:
        if name not in skipped:
            tensor = checkpoint.tensor(name)
            yield name, tensor.to(dtype) if tensor.is_floating_point() else tensor
    for module in checkpoint.modules:
        yield f"{module}.weight", checkpoint.weight(module).to(dtype)


def _write_shards(tensors: Iterator[tuple[str, Tensor]], target: Path) -> None:
    from safetensors.torch import save_file

    places: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    total = number = size = 0

    def flush() -> None:
        nonlocal number, size
        number += 1
        name = f"model-{number:05d}.safetensors"
        save_file(shard, target / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, name))
        shard.clear()
        size = 0

    for name, tensor in tensors:
        shard[name] = tensor.contiguous()
        size, total = size + tensor.nbytes, total + tensor.nbytes
        if size > _SHARD_BYTES:
            flush()
    if shard:
        flush()
    write_json(target / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
