"""What is inside a quantized model beside its original: block outputs, how far channels reach out, losses by layer.

Both models read the same segments of text. Of every block the outputs are compared (cosine similarity and relative
error over all tokens); of every linear layer the input's and the weight's channels are described: kurtosis and the
largest magnitude over the median one, before (the original) and after what a method folds in. Rotations turn the
outputs of blocks into another basis: there only the logits are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

import torch
from torch import Tensor, nn

from quantgate.core.requests import Tokens
from quantgate.models.layers import decoder_blocks, hooks
from quantgate.quantize.base import Method
from quantgate.quantize.catalogue.strategies import strategies_of
from quantgate.quantize.numerics.moments import kurtosis, peak_ratio

LOGITS: Final = "logits"


@dataclass(frozen=True)
class Reach:
    """How far channels ``[n, channels]`` reach out. ``kurtosis``: mean over channels of each one's over the rows (3 for
    a normal); ``peak``: mean over channels of largest over median magnitude; ``across``: the largest channel's
    magnitude over that of the median channel.
    """

    kurtosis: float
    peak: float
    across: float


def reach(rows: Tensor) -> Reach:
    """Of rows ``[n, channels]``; channels that never vary are left out."""
    highest = rows.abs().amax(0).double()
    return Reach(_mean(kurtosis(rows, 0)), _mean(peak_ratio(rows, 0)), float(highest.max() / highest.median()))


def _mean(values: Tensor) -> float:
    known = values[values.isfinite()]
    return float(known.mean()) if len(known) else math.nan


@dataclass
class Seen:
    """One model on the segments: outputs by block, float32 ``[tokens, hidden]``, with the logits; and by linear layer
    the reach of its input and of its weight (by input channel; None where it is not kept as floats)."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Reach] = field(default_factory=dict)
    weights: dict[str, Reach | None] = field(default_factory=dict)


@torch.no_grad()
def look(model: Any, names: Mapping[str, Sequence[str]], segments: Sequence[Tokens]) -> Seen:
    """Let ``model`` read ``segments`` of equal length. ``names``: linear layers by block, all by full name."""
    seen = Seen()
    layers = {name: model.get_submodule(name) for names_of in names.values() for name in names_of}

    def output(name: str) -> Any:
        def hook(_: nn.Module, __: Any, found: Any) -> None:
            hidden = found[0] if isinstance(found, tuple) else found
            seen.outputs[name] = hidden.detach().float().flatten(0, -2).cpu()

        return hook

    def inputs(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            seen.inputs[name] = reach(args[0].detach().float().flatten(0, -2))

        return hook

    handles = [model.get_submodule(block).register_forward_hook(output(block)) for block in names]
    handles += [module.register_forward_pre_hook(inputs(name)) for name, module in layers.items()]
    with ExitStack() as stack:
        stack.enter_context(hooks(handles))
        logits = model(input_ids=torch.tensor(segments, device=model.device), use_cache=False).logits
    seen.outputs[LOGITS] = logits.float().flatten(0, -2).cpu()
    for name, module in layers.items():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim == 2:
            seen.weights[name] = reach(weight.detach().float())
        else:
            seen.weights[name] = None
    return seen


def layers_by_block(model: Any) -> dict[str, list[str]]:
    """Names of the linear layers of every decoder block, in order."""
    return {block.name: list(block.linears) for block in decoder_blocks(model, "the reference")}


def closeness(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Cosine similarity of all values, and the error's norm over ours."""
    a, b = ours.double().flatten(), theirs.double().flatten()
    size = float(a.norm())
    return float(a @ b) / max(size * float(b.norm()), 1e-300), float((b - a).norm()) / max(size, 1e-300)


def compared(method: Method, losses: Mapping[str, float], reference: Seen, subject: Seen) -> dict[str, Any]:
    """The record of one method."""
    rotated = method.rotation is not None
    blocks: dict[str, Any] = {}
    for name, ours in reference.outputs.items():
        if name == LOGITS or not rotated:
            cosine, error = closeness(ours, subject.outputs[name])
            blocks[name] = {"cosine": cosine, "relative_error": error}
    layers = {
        name: {
            "loss": losses.get(name),
            "input_before": vars(reference.inputs[name]), "input_after": vars(subject.inputs[name]),
            "weight_before": _vars(reference.weights[name]), "weight_after": _vars(subject.weights[name]),
        }
        for name in reference.inputs
    }  # fmt: skip
    return {"method": method.id, "strategies": list(strategies_of(method)), "rotated": rotated, "blocks": blocks,
            "layers": layers}  # fmt: skip


def _vars(found: Reach | None) -> dict[str, float] | None:
    return None if found is None else vars(found)


COLUMNS: Final = (
    "method", "strategies", "logits cosine", "logits error", "worst block error", "mean loss", "worst loss",
    "input kurtosis", "input across", "weight kurtosis",
)  # fmt: skip


def rows(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row of `COLUMNS` a method, ``before -> after`` where it says how channels reach out."""
    return [tuple(_row(record)) for record in records]


def _row(record: Mapping[str, Any]) -> Iterator[str]:
    blocks, layers = record["blocks"], list(record["layers"].values())
    yield record["method"]
    yield " + ".join(record["strategies"]) or "rounding"
    yield f"{blocks[LOGITS]['cosine']:.5f}"
    yield f"{blocks[LOGITS]['relative_error']:.4f}"
    errors = [each["relative_error"] for name, each in blocks.items() if name != LOGITS]
    yield f"{max(errors):.4f}" if errors else "another basis"
    losses = [layer["loss"] for layer in layers if layer["loss"] is not None]
    yield from ((f"{fmean(losses):.2e}", f"{max(losses):.2e}") if losses else ("-", "-"))
    for part, what in (("input", "kurtosis"), ("input", "across"), ("weight", "kurtosis")):
        ends = [_over(layers, f"{part}_{when}", what) for when in ("before", "after")]
        yield " -> ".join("-" if math.isnan(end) else f"{end:.3g}" for end in ends)


def _over(layers: Sequence[Mapping[str, Any]], part: str, what: str) -> float:
    values = [layer[part][what] for layer in layers if layer[part] is not None and math.isfinite(layer[part][what])]
    return fmean(values) if values else math.nan
