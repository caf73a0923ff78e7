"""What the files of a foreign checkpoint say against it before it is run: tensors that are missing, weights that cannot
have come from rounding the reference's.

The answers would show most of this too, but only on a task that is sensitive to it: a layer without effect can pass a
coarse margin.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.errors import ModelError
from quantgate.core.keys import AuditKey
from quantgate.core.words import counted
from quantgate.models.digest import HEAD
from quantgate.models.files import read_json
from quantgate.models.loading import empty_model, read_config
from quantgate.models.source import ModelFiles
from quantgate.models.tensors import stored
from quantgate.store import bound
from quantgate.store.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from quantgate.quantize.base import StoredWeight

_VERSION: Final = 4  # counts up when other things are found in the same files
_STEPS: Final = 4  # of the fit of scales: each halves what is left at least
_UNLIKE: Final = 0.9  # share of a weight that may be error where the width of its grid is unknown or very small
_LEAST: Final = 0.002  # error of the finest grid that is told from another: outliers widen the steps of 8 bits
_RANGE: Final = 3.0  # range of a grid in standard deviations where the layout does not say its steps
# Rounding with feedback (GPTQ) moves weights further than to the nearest level. With eight samples of calibration the
# worst matrix of the bundled model had seven times that error, and its usual matrix twice.
_SLACK: Final = 25.0  # of one matrix
_USUAL: Final = 4.5  # of the median matrix


def check_complete(reference: Path, candidate: Path, who: str) -> None:
    """Check, from headers alone, that every weight the architecture needs is in the candidate's files in some form.

    A matrix may be there as any tensors under its module's name. Whether each of them has a place is known once they
    are loaded (`accounting`).

    Raises:
        ModelError: names the weights that are missing.
    """
    config = read_config(candidate, who)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = empty_model(config, who)
    ours, theirs = stored(reference, who), stored(candidate, who)
    packed = {name.rpartition(".")[0] for name in theirs if not name.endswith(".bias")}
    packed |= {name.rpartition(".")[0] for name in packed}  # ``up_proj.weight.absmax``
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    missing = [
        name
        for name in model.state_dict()
        if (name in ours or name == HEAD)  # others are converted while they are loaded
        and name not in theirs
        and not (name in tied and tied[name] in theirs)
        and not (name.endswith(".weight") and name.removesuffix(".weight") in packed)
    ]
    if missing:
        raise ModelError(
            who,
            f"{counted(len(missing), 'weight is', 'weights are')} missing ({', '.join(missing[:3])})",
            expected="every weight of the architecture, quantized or not",
            hint="finish the download, or write the checkpoint again",
        )


def audited(reference: ModelFiles, candidate: Path, weights: str, store: Store, who: str) -> list[str]:
    """What `weight_problems` says about the candidate whose digest is ``weights``; kept in the store.

    Layouts that only transformers unpacks are not looked into.
    """
    from quantgate.checkpoints.checkpoint import is_known_layout

    config = read_json(candidate / "config.json", who)
    if not is_known_layout(config):
        return []

    key = AuditKey(reference=reference.digest.weights, subject=weights, claims="rounding", version=_VERSION)

    def build(target: Path) -> None:
        found = weight_problems(reference.path, candidate, config["quantization_config"])
        bound.write_json(target / "problems.json", found, key.digest)

    entry = store.fetch(key, build, what=f"the audit of {who}")
    return [str(each) for each in entry.json("problems.json")]


def weight_problems(reference: Path, candidate: Path, quantization: Mapping[str, Any]) -> list[str]:
    """Matrices of a checkpoint in a layout of ours that no rounding of the reference's can have given.

    ``quantization``: its ``quantization_config``. A matrix that is all zeros is dead. One that is far from the
    reference's, also up to a scale for each row and column (as AWQ and SmoothQuant fold them in), is not its rounding:
    levels of another matrix, scales of zero. Where most are further from it than rounding with feedback puts them,
    groups or zero points were mixed up. Nothing is said where the embedding differs as well: then the whole model was
    transformed (rotated), and matrices cannot be compared.

    Raises:
        ModelError: an incomplete layer.
    """
    import torch

    dead, far, times = [], [], []
    for name, weight, found, nearest in _pairs(reference, candidate, quantization):
        if not bool(torch.isfinite(found).all()):
            far.append(f"{name} (not finite)")
        elif bool(weight.any()) and not bool(found.any()):
            dead.append(name)
        elif found.shape != weight.shape:
            far.append(f"{name} (of another shape)")
        else:
            error = distance(weight, found, _USUAL * nearest)
            if nearest < 1:
                times.append(error / nearest)
            if error > min(_UNLIKE, _SLACK * nearest):
                far.append(f"{name} ({error:.0%} of it is error)")
    problems = []
    if dead:
        problems.append(f"{_matrices(dead)} all zeros where the reference's are not ({', '.join(dead[:3])})")
    if far:
        problems.append(f"{_matrices(far)} no rounding of the reference's ({', '.join(far[:3])})")
    if times and (usual := statistics.median(times)) > _USUAL:
        problems.append(
            f"{_matrices(times)} {usual:.0f} times as far from the reference's as rounding to their own steps "
            f"puts them (median; up to {_USUAL:g} is usual)"
        )
    return problems


def _matrices(found: Sized) -> str:
    return counted(len(found), "matrix is", "matrices are")


def _pairs(
    reference: Path, candidate: Path, quantization: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """Name, the reference's and the candidate's matrix (float32), and the error of rounding to its levels."""
    import torch

    from quantgate.checkpoints.checkpoint import read_layers, stored_tensors
    from quantgate.checkpoints.mixed import layer_config

    plain, layers = read_layers(candidate, quantization)
    ours = {name: tensor for name, tensor in stored_tensors(reference) if tensor.ndim == 2}
    for name, weight in ours.items():
        other = plain.get(name) if name.endswith("embed_tokens.weight") else None
        if other is not None and not torch.equal(other, weight.to(other.dtype)):
            return
    for name, weight in ours.items():
        layer = layers.get(module := name.removesuffix(".weight"))
        if layer is not None:
            nearest = rounding_error(layer, layer_config(quantization, module))
            yield name, weight.float(), layer.dequantize(torch.float32), nearest
        elif name in plain and plain[name].is_floating_point():
            yield name, weight.float(), plain[name].float(), 1.0


def rounding_error(layer: StoredWeight, config: Mapping[str, Any]) -> float:
    """Relative squared error of rounding to the nearest level of ``layer``, at least `_LEAST`.

    That is a twelfth of a squared step of a uniform grid; where a layout does not say its steps, those of
    ``2^bits - 1`` steps over +-`_RANGE` standard deviations are taken: bits as its ``config`` declares them, or as
    its codes are stored.
    """
    import torch

    from quantgate.quantize.numerics.uniform import UniformWeight

    if isinstance(layer, UniformWeight):
        index = layer.g_idx.to(torch.int64)
        steps = layer.scales.float().square().mean(1)[index].mean()
        share = float(steps / layer.dequantize(torch.float32).square().mean().clamp(min=1e-30))
    else:
        # the codes are the largest tensor: scales, tables of levels and outliers kept apart make no finer grid
        bits = 8 * max(tensor.nbytes for tensor in layer.tensors().values()) / layer.n_weights
        bits = min(bits, float(config.get("bits") or bits))
        share = (2 * _RANGE / (2.0 ** min(bits, 16.0) - 1)) ** 2 if bits >= 1 else 1.0
    return max(_LEAST, share / 12)


def distance(weight: Tensor, found: Tensor, allowed: float) -> float:
    """Relative squared error of ``found`` (``[out, in]``) against ``weight``; if above ``allowed``, up to scales.

    The fit of scales is made only there: it takes a few passes over the matrix.
    """
    plain = float((found - weight).square().sum() / weight.square().sum().clamp(min=1e-30))
    return plain if plain <= allowed else min(plain, _up_to_scales(weight, found))


def _up_to_scales(weight: Tensor, found: Tensor) -> float:
    """What is left of ``found`` when ``weight``, scaled by the best factors for rows and columns, is taken off."""
    columns = weight.new_ones(weight.shape[1])
    scaled = weight
    for _ in range(_STEPS):
        scaled = weight * columns
        rows = (found * scaled).sum(1, keepdim=True) / scaled.square().sum(1, keepdim=True).clamp(min=1e-30)
        scaled = weight * rows
        columns = (found * scaled).sum(0) / scaled.square().sum(0).clamp(min=1e-30)
        scaled = scaled * columns
    lost = weight[:, ~found.any(0)].square().sum() / weight.square().sum().clamp(min=1e-30)  # no scale is zero
    return float((found - scaled).square().sum() / found.square().sum().clamp(min=1e-30) + lost)
