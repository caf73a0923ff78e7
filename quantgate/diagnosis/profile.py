"""What a changed matrix looks like beside the reference's: where its error sits, and what kind of harm that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from quantgate.diagnosis.passes import Bench
from quantgate.models.layers import hooks

_FEW: Final = 0.01  # share of the channels
_MOST: Final = 0.5  # share of an energy that few channels hold
_CLIPPED: Final = 0.6  # of a row's greatest weight; a symmetric 2-bit grid ends at 2/3 of it by itself
_CLIPPED_ROWS: Final = 0.1
_GAIN: Final = 0.1


@dataclass(frozen=True)
class Profile:
    """Of one matrix ``[out, in]``; energies are sums over inputs, weighted by the second moment that they have.

    ``weight_error``, ``output_error``: norm of the error relative to the matrix's, plain and weighted by the inputs.
    ``few_inputs``: share of the inputs' energy in the strongest 1% of the channels (at least one); ``few_errors``:
    share of the output error in the worst 1%; ``gain``: factor that the subject's matrix has by least squares;
    ``dead_inputs``, ``dead_outputs``: columns and rows that became zero; ``clipped_rows``: share of the rows whose
    greatest weight lost two fifths or more.
    """

    weight_error: float
    output_error: float
    few_inputs: float
    few_errors: float
    gain: float
    dead_inputs: int
    dead_outputs: int
    clipped_rows: float

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of harm (`KINDS`) that the numbers show, the plainest first."""
        found = []
        if self.dead_inputs or self.dead_outputs:
            found.append("dead channels")
        if abs(self.gain - 1) > _GAIN and self.weight_error > _GAIN:
            found.append("scaled")
        if self.clipped_rows > _CLIPPED_ROWS:
            found.append("clipped range")
        if self.few_errors > _MOST:
            found.append("activation outliers" if self.few_inputs > _MOST else "salient channels")
        return tuple(found)


KINDS: Final = {
    "dead channels": "weights of whole channels became zero: look for a zero or denormal scale, or a lost shard",
    "scaled": "the matrix is the reference's times another factor than 1: a scale of the wrong group, or applied twice",
    "clipped range": "the greatest weights of many rows are cut off: a range that was searched too narrow",
    "activation outliers": "few input channels carry most of the input, and their error most of the output's: methods "
    "that move scale out of the inputs (SmoothQuant, AWQ) help, or fewer weights to a scale",
    "salient channels": "few columns carry most of the output's error though their inputs are ordinary: methods that "
    "keep or protect columns (AWQ, SpQR, LLM.int8) help",
}


@torch.no_grad()
def input_energies(bench: Bench, names: list[str]) -> dict[str, Tensor]:
    """Mean square of every input channel, float64 ``[in]``, of the linear layers ``names``, over all real tokens."""
    sums: dict[str, Tensor] = {}

    def watch(name: str, keep: Tensor) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            rows = args[0].detach()[keep].float()
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + rows.square().sum(0).double().cpu()

        return hook

    count = 0
    lengths = [len(segment.tokens) for segment in bench.segments]
    for chunk in bench.chunks:
        mine = [lengths[number] for number in dict.fromkeys(chunk.owner.tolist())]
        keep = torch.arange(chunk.ids.shape[1]).unsqueeze(0) < torch.tensor(mine).unsqueeze(1)
        count += sum(mine)
        modules = {name: bench.model.get_submodule(name) for name in names}
        keep = keep.to(chunk.ids.device)
        with hooks([module.register_forward_pre_hook(watch(name, keep)) for name, module in modules.items()]):
            bench.logits(chunk, 0)
    return {name: total / count for name, total in sums.items()}


def profile(reference: nn.Module, subject: nn.Module, energy: Tensor) -> Profile | None:
    """The matrix of ``subject`` beside that of ``reference``; None where it is not kept as floats of the same shape.

    ``energy``: see `input_energies`.
    """
    ours, theirs = getattr(reference, "weight", None), getattr(subject, "weight", None)
    if ours is None or theirs is None or ours.shape != theirs.shape or not theirs.is_floating_point():
        return None
    ours, theirs = ours.detach().float().cpu(), theirs.detach().float().cpu()
    return _profile(ours, theirs, energy)


def _profile(ours: Tensor, theirs: Tensor, energy: Tensor) -> Profile:
    error = (theirs - ours).square().sum(0).double()
    mass = ours.square().sum(0).double()
    lost = error * energy
    few = max(1, int(_FEW * len(energy)))
    peaks, kept = ours.abs().amax(1), theirs.abs().amax(1)
    return Profile(
        weight_error=float((error.sum() / mass.sum().clamp_min(1e-30)).sqrt()),
        output_error=float((lost.sum() / (mass * energy).sum().clamp_min(1e-30)).sqrt()),
        few_inputs=_share(energy, few),
        few_errors=_share(lost, few),
        gain=float((ours * theirs).sum() / ours.square().sum().clamp_min(1e-30)),
        dead_inputs=int(((theirs == 0).all(0) & (ours != 0).any(0)).sum()),
        dead_outputs=int(((theirs == 0).all(1) & (ours != 0).any(1)).sum()),
        clipped_rows=float((kept < _CLIPPED * peaks).float().mean()),
    )


def _share(values: Tensor, few: int) -> float:
    return float(values.topk(few).values.sum() / values.sum().clamp_min(1e-30))


def profiles(bench: Bench, donors: Mapping[str, nn.Module], kinds: Mapping[str, str]) -> dict[str, Profile]:
    """The profile of every changed linear layer of the blocks that has one, by name."""
    names = [name for name, kind in kinds.items() if kind in ("attention", "feed-forward")]
    energies = input_energies(bench, names) if names else {}
    found = {name: profile(bench.model.get_submodule(name), donors[name], energies[name]) for name in names}
    return {name: each for name, each in found.items() if each is not None}
