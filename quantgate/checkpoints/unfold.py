"""A checkpoint of any layout as a plain 16-bit model on disk: every matrix unpacked once, module by module.

Memory is that of one shard; what is loaded afterwards is loaded as any 16-bit model is, so that scoring never holds the
packed and the unpacked weights at once. Where the checkpoint's runtimes quantize inputs too, config.json says how, and
`load_unfolded` has the model do it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints import cache_scales, static_cache
from quantgate.checkpoints.checkpoint import TEXTS, write_json
from quantgate.core.errors import ModelError
from quantgate.models.digest import HEAD, is_tied
from quantgate.models.files import INDEX, read_json
from quantgate.models.loading import load_reference
from quantgate.models.quantized import CACHE, INPUTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from quantgate.checkpoints.fields import Declared
    from quantgate.checkpoints.layouts.protocol import Checkpoint

VERSION: Final = 2  # counts up when the same files are unpacked to other values
_SHARD_BYTES: Final = 500 * 1000**2
STATIC: Final = ("input_scale", "activation_scale")


def input_settings(checkpoint: Checkpoint, inputs: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Matrix -> how its inputs are quantized: ``settings`` of `ActivationSettings`, and a static ``scale``.

    Raises:
        ModelError: inputs are declared static, and a matrix has no scale for them, or one that is no positive number.
    """
    if inputs is None:
        return {}
    by_blocks = inputs["kind"] == "nvfp4"  # blocks are dynamic, the scale they share is stored
    if inputs.get("dynamic", True) and not by_blocks:
        return {name: {"settings": dict(inputs)} for name in checkpoint.modules}
    return {name: {"settings": dict(inputs), "scale": _static_scale(checkpoint, name)} for name in checkpoint.modules}


def computed_with(checkpoint: Checkpoint, declared: Declared) -> dict[str, Any]:
    """What config.json says of inputs, and of keys and values, for `load_unfolded`; nothing where they stay in 16 bit.

    Raises:
        ModelError: see `input_settings` and `cache_scales.read`.
    """
    inputs = input_settings(checkpoint, declared.inputs)
    found: dict[str, Any] = {INPUTS: inputs} if inputs else {}
    if declared.cache_bits == static_cache.BITS:
        who = getattr(checkpoint, "who", checkpoint.layout)
        found[CACHE] = cache_scales.completed(cache_scales.read(checkpoint, who))
    return found


def _static_scale(checkpoint: Checkpoint, name: str) -> float:
    scales = [each for key, each in checkpoint.scales(name).items() if key in STATIC]
    if len(scales) != 1 or scales[0].numel() != 1:
        raise ModelError(name, "no input scale", expected="one number, for inputs that are quantized by a stored scale")
    found = float(scales[0].float())
    if not 0 < found < float("inf"):
        raise ModelError(name, f"an input scale of {found:g}", expected="a number above 0")
    return found


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
    config = {name: value for name, value in checkpoint.config.items() if name != "quantization_config"}
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
