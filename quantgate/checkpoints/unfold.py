"""A checkpoint of any layout as a plain 16-bit model on disk: every matrix unpacked once, module by module.

Memory is that of one shard; what is loaded afterwards is loaded as any 16-bit model is, so that scoring never holds the
packed and the unpacked weights at once. Where the checkpoint's runtimes quantize inputs too, config.json says how, and
`load_unfolded` has the model do it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantgate.checkpoints import static_cache
from quantgate.checkpoints.checkpoint import TEXTS
from quantgate.checkpoints.record import write_json
from quantgate.checkpoints.stored_scales import computed_with
from quantgate.core.errors import ModelError
from quantgate.models.digest import HEAD, is_tied
from quantgate.models.files import INDEX, read_json
from quantgate.models.loading import load_reference
from quantgate.models.quantized import CACHE, DECLARED, INPUTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from quantgate.checkpoints.fields import Declared
    from quantgate.checkpoints.layouts.protocol import Checkpoint

VERSION: Final = 2  # counts up when the same files are unpacked to other values
_SHARD_BYTES: Final = 500 * 1000**2


def load_unfolded(path: Path, name: str, dtype: str, device: str) -> PreTrainedModel:
    """The model that `unfold` wrote into ``path``, in evaluation mode; raises as `load_reference`."""
    import torch

    from quantgate.quantize.transforms import activations

    model = load_reference(path, name, dtype, device)
    layers = {each for each, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    config = read_json(path / "config.json", name)
    for module, how in config.get(INPUTS, {}).items():
        if module not in layers:
            raise ModelError(
                f"model {name!r}", f"the inputs of {module} are quantized, and it is no linear layer of its own here",
                expected="linear layers", hint="judge it by its server: --candidate NAME=URL",
            )  # fmt: skip
        static = {}
        if "scale" in how:
            scale = torch.tensor([how["scale"]], dtype=torch.float32, device=device)
            static = dict(zip(activations.PARTS, (scale, torch.zeros_like(scale)), strict=True))
        activations.install(model, module, how["settings"], static)
    if CACHE in config:
        static_cache.install(model, config[CACHE], f"model {name!r}")
    return model


def unfold(
    checkpoint: Checkpoint,
    texts: Path,
    dtype: torch.dtype,
    target: Path,
    declared: Declared | None = None,
) -> None:
    """Write config.json, tokenizer and weights of ``checkpoint`` in ``dtype`` into the directory ``target``.

    Args:
        checkpoint: what is unpacked.
        texts: the directory with its tokenizer.
        dtype: of all weights; they are computed in float32 and rounded once.
        target: an empty directory.
        declared: what else than weights is quantized (`Declared.inputs`, `Declared.cache_bits`).

    Raises:
        ModelError: a module that cannot be unpacked.
    """
    config = {name: value for name, value in checkpoint.config.items() if name not in DECLARED}
    config |= {"dtype": str(dtype).removeprefix("torch."), "torch_dtype": str(dtype).removeprefix("torch.")}
    if declared is not None:
        config |= computed_with(checkpoint, declared)
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
