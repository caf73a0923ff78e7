"""Rotation (QuaRot, Ashkboos et al. 2024): spread outliers over all channels before anything is rounded.

A model whose norms have no gain of their own computes the same when its residual stream is multiplied by an orthogonal
matrix ``R``: gains are folded into the layers behind the norms; embeddings and layers that write to the stream are
multiplied by ``R``, layers that read from it by ``R^T``. Values are rotated within each head by a second matrix, folded
into the layers before and after attention. Both cost nothing at run time. Inputs that are to be quantized and that no
folded rotation reaches (the down projection's) are rotated when they are computed, and the layer's weight with them.
Keys are left as they are: here they are quantized before their position is put in, which no rotation commutes with.

Where gains, readers and writers are is observed on the blocks, not looked up; the float32 model's logits on a few
tokens have to stay what they were, or the model is refused (LayerNorm, positions added to the stream, norms behind it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from quantgate.core.errors import MethodError
from quantgate.models.layers import Block, decoder_blocks, head_of, hooks, observe_stages
from quantgate.quantize.numerics.rotations import Rotation
from quantgate.quantize.settings import RotationSettings
from quantgate.quantize.sweep.batches import run_block
from quantgate.quantize.sweep.driver import probe_of
from quantgate.quantize.transforms.fold import Fold, find_folds

_PROBE: Final = 12  # tokens
_SAME: Final = 1e-3  # relative difference of float32 logits: rounding through all blocks gives 1e-5
_HEADS: Final = 1  # added to the seed, for the rotation within heads
_INPUTS: Final = 2  # and for inputs that are rotated when they are computed


@dataclass
class Rotated:
    """What was changed: every parameter by name, and for each input that must be rotated its layer's seed."""

    changed: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)


@torch.no_grad()
def rotate(model: Any, settings: RotationSettings, who: str, *, inputs: bool) -> Rotated:
    """Rotate ``model`` (any float dtype, changed in place and rounded once) as ``settings`` say.

    ``inputs``: also rotate, by a hook, what no folded rotation reaches; whoever computes with the result has to do the
    same (`ActivationSettings.rotation`).

    Raises:
        MethodError: its logits would not stay what they are; the model is spoilt then.
    """
    dtype = next(model.parameters()).dtype
    model.float()
    tokens = torch.arange(_PROBE, device=next(model.parameters()).device).unsqueeze(0) % model.config.vocab_size
    before = model(tokens, use_cache=False).logits
    found = _Rotating(model, settings, who).all(inputs=inputs)
    after = model(tokens, use_cache=False).logits
    change = float((after - before).norm() / before.norm())
    if not change <= _SAME:
        raise MethodError(
            who,
            f"rotated, the 16-bit model gives other logits (by {change:.2g})",
            expected="RMSNorms and linear layers alone on the residual stream, as in Llama, Mistral and Qwen",
            hint="take a method without rotation",
        )
    model.to(dtype)
    found.changed = {name: dict(model.named_parameters())[name] for name in found.changed}
    return found


class _Rotating:
    """The steps of `rotate`, over one model."""

    def __init__(self, model: Any, settings: RotationSettings, who: str) -> None:
        self.model, self.settings, self.who = model, settings, who
        self.blocks = decoder_blocks(model, who)
        self.embedding = model.get_input_embeddings()
        self.width = self.embedding.weight.shape[1]
        self.stream = Rotation(self.width, settings.seed)
        self.found = Rotated()
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}

    def all(self, *, inputs: bool) -> Rotated:
        """Everything, in place."""
        probe = probe_of(self.model, self.blocks)
        for index, block in enumerate(self.blocks):
            self._block(block, partial(run_block, block, probe, index), inputs=inputs)
        self._ends()
        return self.found

    def _block(self, block: Block, run: Callable[[], Tensor], *, inputs: bool) -> None:
        stages = observe_stages(block, run, self.who)
        folds = find_folds(block, stages, run)
        readers = {id(fold.stage): fold for fold in folds if fold.is_norm}
        if not readers:
            raise MethodError(self.who, f"no norm before the layers of {block.name}", expected="an RMSNorm before them")
        within: set[str] = set()
        for fold in folds:
            if not fold.is_norm and (head := self._head_size(fold)):
                self._within_heads(fold, head)
                within |= set(fold.stage.names)
        for stage in stages:
            reader = readers.get(id(stage))
            if reader is not None:
                self._gain(reader.module, list(stage.linears.values()))
            for name, linear in stage.linears.items():
                if reader is not None:
                    self._read(linear)
                elif linear.out_features == self.width:
                    self._write(linear)
                if inputs and reader is None and name not in within:
                    self._online(name, linear)

    def _gain(self, norm: nn.Module, linears: Sequence[nn.Linear]) -> None:
        """The norm's gain goes into the layers behind it."""
        gain = cast(Tensor, norm.weight)
        for linear in linears:
            self._put(linear, "weight", linear.weight.double() * gain.double())
        self._put(norm, "weight", torch.ones_like(gain))

    def _read(self, linear: nn.Linear) -> None:
        self._put(linear, "weight", self._rotated(linear.weight, self.stream))

    def _write(self, linear: nn.Linear) -> None:
        self._put(linear, "weight", self._rotated(linear.weight.t(), self.stream).t())
        if linear.bias is not None:
            self._put(linear, "bias", self._rotated(linear.bias, self.stream))

    def _head_size(self, fold: Fold) -> int:
        """Channels of a head, if the fold's source is what attention mixes: whole heads go to whole heads."""
        config = self.model.config.get_text_config(decoder=True)
        heads = int(getattr(config, "num_attention_heads", 0) or 0)
        size = int(getattr(config, "head_dim", None) or (self.width // heads if heads else 0))
        wide = heads * size == len(fold.channels)
        if not self.settings.heads or not size or not wide or fold.size % size:
            return 0
        mine = fold.channels.view(-1, size)
        return size if bool((mine - mine[:, :1] == torch.arange(size, device=mine.device)).all()) else 0

    def _within_heads(self, fold: Fold, size: int) -> None:
        turn, source = Rotation(size, self.settings.seed + _HEADS), cast(nn.Linear, fold.module)
        rows = source.weight.t().reshape(source.in_features, -1, size)
        self._put(source, "weight", self._rotated(rows, turn).reshape(source.in_features, -1).t())
        if source.bias is not None:
            self._put(source, "bias", self._rotated(source.bias.view(-1, size), turn).view(-1))
        for linear in fold.stage.linears.values():
            columns = linear.weight.reshape(linear.out_features, -1, size)
            self._put(linear, "weight", self._rotated(columns, turn).reshape(linear.weight.shape))

    def _online(self, name: str, linear: nn.Linear) -> None:
        seed = self.settings.seed + _INPUTS
        turn = Rotation(linear.in_features, seed)
        self._put(linear, "weight", self._rotated(linear.weight, turn))
        linear.register_forward_pre_hook(lambda _, args: (turn.apply(args[0].float()).to(args[0].dtype), *args[1:]))
        self.found.inputs[name] = seed

    def _ends(self) -> None:
        """Embedding, last norm and head. A tied head gets a weight of its own: it holds the gain, too."""
        heads = list(head_of(self.model).values())
        norm = self._last_norm(heads[0]) if heads else None
        if norm is None:
            raise MethodError(self.who, "no norm right before a linear output head", expected="an RMSNorm before it")
        head = heads[0]
        if head.weight is self.embedding.weight:
            head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
            self.names[id(head.weight)] = f"{next(iter(head_of(self.model)))}.weight"
            self.model.config.tie_word_embeddings = False
        self._gain(norm, [head])
        self._read(head)
        self._put(self.embedding, "weight", self._rotated(self.embedding.weight, self.stream))

    def _last_norm(self, head: nn.Linear) -> nn.Module | None:
        made: dict[int, tuple[nn.Module, Tensor]] = {}
        seen: list[Tensor] = []

        def keep(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                made[id(output)] = module, output

        norms = [each for each in self.model.modules() if getattr(getattr(each, "weight", None), "ndim", 0) == 1]
        watched = [norm.register_forward_hook(keep) for norm in norms]
        with hooks([*watched, head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))]):
            self.model(torch.zeros(1, 2, dtype=torch.int64, device=head.weight.device), use_cache=False)
        return next((module for module, output in made.values() if _is_part(seen[0], output)), None)

    def _rotated(self, rows: Tensor, rotation: Rotation) -> Tensor:
        return rotation.apply(rows.double())

    def _put(self, module: nn.Module, kind: str, value: Tensor) -> None:
        parameter = cast(Tensor, getattr(module, kind))
        parameter.copy_(value)
        self.found.changed[self.names[id(parameter)]] = parameter


def _is_part(one: Tensor, other: Tensor) -> bool:
    """Whether ``one`` is ``other``, or a view of it (heads read a slice of positions)."""
    return one is other or one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
